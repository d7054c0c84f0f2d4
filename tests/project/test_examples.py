"""The programs of examples/ at small size: each still shows what its docstring says, and fits on a page."""

import importlib.util

import numpy as np
import pytest
from helpers.project import ROOT

FOLDER = ROOT / "examples"
LINES = 60
LONGER = {"ppo": 130, "flow_matching": 130}


def vae(main):
    result = main(steps=150, draws=4)
    assert result["validation"][-1] < 0.7 * result["validation"][0]
    assert result["test"]["loss"] < 30
    assert result["test"]["divergence"] > 0
    assert result["samples"].shape == (6, 8, 8)


def gan(main):
    result = main(steps=800, rates=[1e-3])
    assert result["distances"][-1] < 0.7 * result["distances"][0]
    assert result["floor"] < 0.2
    assert result["modes"].shape == (8,)


def ppo(main):
    returns = main(updates=8, rates=(3e-3,), seeds=2)["returns"]
    assert returns.shape == (1, 2, 8)
    assert returns[..., -1].mean() > 3 * returns[..., 0].mean()


def maml(main):
    for errors in main(steps=600).values():
        assert errors[1] < 0.95 * errors[0]


def graph_vq(main):
    result = main(steps=200)
    assert result["accuracy"] > result["frequent"] + 0.1
    assert 2 <= result["codes"] <= 16


def private_curvature(main):
    result = main(steps=20, iterations=100, few=5)
    assert result["accuracy"] > 0.3
    assert result["epsilon"] == pytest.approx(0.025 + 2 * np.sqrt(0.025 * np.log(1e5)), rel=1e-4)
    assert result["gradient_gap"] < 1e-6
    assert result["eigenvalue"] == pytest.approx(result["eigenvalue_of_matrix"], rel=1e-2)
    assert result["kernel_gap"] < 0.01


def fine_tuning(main):
    result = main(steps=150)
    assert result["accuracy"]["rates"] > result["accuracy"]["new"]
    assert result["parameters"]["adapters"] < 0.2 * result["parameters"]["new"]
    assert result["report"].skipped == ["head/bias", "head/weight"]


def flow_matching(main):
    result = main(steps=60, dim=8, solver_steps=4)
    assert result["validation"][-1] < 0.7 * result["validation"][0]
    assert np.isfinite(result["samples"]).all()


def induction_heads(main):
    result = main(steps=2)
    assert result["scores"].shape == result["loss_without"].shape == (2, 4)
    assert (result["scores"] > 0).all()
    assert (np.abs(result["loss_without"] - result["loss"]) > 0).all()


def deep_networks(main):
    result = main(steps=100, layers=6)
    needed = result["bytes"]
    assert needed["nothing"] < needed["up"] <= needed["products"] < needed["all"]
    assert result["difference"] < 1e-6
    assert result["validation"][-1] < 0.8 * result["validation"][0]


CHECKS = {
    check.__name__: check
    for check in (
        vae,
        gan,
        ppo,
        maml,
        graph_vq,
        private_curvature,
        fine_tuning,
        flow_matching,
        induction_heads,
        deep_networks,
    )
}
SLOW = {"flow_matching"}  # the gradient of its U-Net compiles for a minute
"""The check of each program, by its name: it gets the program's main. Add a function, and it is run."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CHECKS]
)
def test_example_shows_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    CHECKS[name](module.main)
    assert not list(tmp_path.iterdir()), "an example writes no files"


def test_every_example_has_a_check_and_a_line_in_the_readme():
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == set(CHECKS)
    readme = (ROOT / "README.md").read_text()
    assert not [name for name in names if f"(examples/{name}.py)" not in readme]


@pytest.mark.parametrize("name", CHECKS)
def test_example_fits_on_a_page(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= LONGER.get(name, LINES)
    docstring = text.split('"""')[1]
    for part in (f"python examples/{name}.py", "Source: ", "Measured (", "CPU cores"):
        assert part in docstring
    assert 'if __name__ == "__main__":' in text
