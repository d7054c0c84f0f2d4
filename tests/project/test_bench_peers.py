"""The comparison with other libraries (scripts/bench.py peers): the protocol, the checks, the weights."""

import sys

import numpy as np
import pytest
from helpers.project import ROOT

from scripts import bench
from scripts.speed.peers import child, turns

LOSSES = [2.0, 1.0, 0.5, 0.25]


def entries(*names):
    everything = {**turns.ALWAYS, **turns.OURS, **turns.PEERS}
    return {name: everything[name] for name in names}


def measure(*names, case="mlp"):
    settings = {"python": sys.executable, "malloc": "default", "seconds": 0.001}
    return turns.measure(case, entries(*names), rounds=1, **settings)


def test_nnfunc_and_plain_jax_start_with_the_same_losses():
    row = measure("plain", "nnfunc")
    plain, nnfunc = (row["contenders"][name] for name in ("plain", "nnfunc"))
    assert row["failed"] == {}
    np.testing.assert_allclose(nnfunc["losses"], plain["losses"], rtol=1e-3)
    assert len(set(plain["losses"])) == child.STEPS_COMPARED
    assert plain["ms"]["median"] > 0
    assert nnfunc["ratio"]["value"] == pytest.approx(nnfunc["times"][0] / plain["times"][0], rel=0.01)


class FakeChild:
    """Answers without a process: `haiku` calculates something else, `torch` ends, `linen` is slow."""

    def __init__(self, entry, case, file, python, environment):
        self.entry = entry
        answers = {"Haiku": [2.0, 1.1, 0.5, 0.25], "PyTorch, eager": None}
        losses = answers.get(entry.title, LOSSES)
        self.ready = None if losses is None else {"losses": losses, "seconds": 1.0}
        if entry.title == "PyTorch, compiled":
            self.ready = {"unavailable": "no compiler"}

    def run(self, count):
        return {"nnfunc": 3.0, "Flax Linen": 4.0, "Equinox": 3.2}.get(self.entry.title, 2.0)

    def ask(self, command):
        return {"memory": 512.0}[command]

    def close(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(turns, "Child", FakeChild)
    monkeypatch.setattr(turns, "save", lambda case, file: None)


def test_a_library_that_calculates_something_else_fails(fake, capsys):
    row = measure("plain", "nnfunc", "haiku", "torch", "torch_compile", "linen")
    assert list(row["contenders"]) == ["plain", "nnfunc", "linen"]
    assert list(row["failed"]) == ["haiku", "torch"]
    assert "its first losses are [2.0, 1.1" in row["failed"]["haiku"]
    assert "PyTorch, compiled is left out: no compiler" in capsys.readouterr().err


def test_the_verdict_names_the_best_library(fake):
    row = measure("plain", "nnfunc", "linen", "equinox")
    assert turns.verdict(row) == "Best peer: Equinox. nnfunc: 0.94 (0.94-0.94) of it, bar 0.90: missed."
    assert turns.verdict(measure("plain", "nnfunc")) == "No peer ran."


def test_the_tables_have_a_line_for_each_contender(fake, capsys):
    machine = {"cores": 2, "cpu": "CPU", "device": "cpu", "jax": "0.10.2", "date": "2026-11-29"}
    report = {"machine": machine, "malloc": "both", "versions": {"flax": "0.12"}}
    report["rows"] = [measure("plain", "nnfunc", "linen")]
    turns.show(report, markdown=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 cores of CPU, jax 0.10.2, 2026-11-29, flax 0.12"
    assert "| nnfunc | 3.00 (3.00-3.00) | 1.50 (1.50-1.50) | 1.0 | 512 |" in lines


def test_a_library_that_is_not_installed_is_left_out(capsys):
    chosen = turns.select(["linen", "torch"], "default", {"torch": "2"})
    assert list(chosen) == ["plain", "plain_again", "nnfunc", "torch"]
    assert capsys.readouterr().err == "Flax Linen is left out: flax is not installed\n"


def test_every_library_is_an_option_and_an_extra():
    assert list(turns.PEERS) == list(bench.PEERS)
    extra = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("bench ="))
    for entry in turns.PEERS.values():
        assert f'"{entry.package}"' in extra


def test_nested():
    assert child.nested({"a/b": 1, "a/c/d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


@pytest.mark.slow
@pytest.mark.parametrize("case", turns.CASES)
@pytest.mark.parametrize("name", ["plain", *turns.PEERS])
def test_every_library_starts_with_the_losses_of_nnfunc(name, case):
    """Each is a process: the settings of these tests are not for other libraries."""
    entry = {**turns.ALWAYS, **turns.PEERS}[name]
    if entry.package and entry.package not in turns.installed(sys.executable):
        pytest.skip(f"{entry.package} is not installed: pip install -e '.[bench]'")
    row = measure("plain", "nnfunc", name, case=case)
    assert row["failed"] == {}
