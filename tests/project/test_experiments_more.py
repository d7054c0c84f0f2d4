"""Experiments 6 to 9 at small size: each shows what its page says, and writes its page and figure."""

import numpy as np
import pytest

from scripts.experiments import _more, dropout, losses, residual_depth, schedules


@pytest.fixture(autouse=True)
def _only_digits(monkeypatch):
    """Scikit-learn's digits, which are everywhere, also where MNIST is at hand."""
    monkeypatch.delenv("NNFUNC_DATA", raising=False)


def run(experiment, folder):
    results = experiment.main(["--size", "small", "--out", str(folder)])
    name = experiment.__name__.rsplit(".", 1)[-1]
    page = (folder / f"{name}.md").read_text()
    assert f"]({name}.png)" in page
    assert "nan" not in page
    assert (folder / f"{name}.png").stat().st_size > 5000
    return results


@pytest.mark.slow
def test_dropout(tmp_path):
    """An ensemble is sure where it has seen data and not where it has none; entropy tells strange images."""
    found = run(dropout, tmp_path)
    at, (_, deviation) = found["at"], found["curves"]["ensemble of 5"]
    assert deviation[abs(at) > 1.5].mean() > 5 * deviation[(at > 0.2) & (at < 1)].mean()
    methods = found["methods"]
    assert methods["MC dropout, 32 samples"]["other digits"][0] > 0.85
    assert methods["ensemble of 3"]["other digits"][0] > 0.85
    dropped = found["metrics"]["loss"][1]  # short and with few images, dropout only costs time
    assert (found["metrics"]["test"] > 0.6).all()
    assert (dropped != found["metrics"]["loss"][0]).all()


@pytest.mark.slow
def test_schedules(tmp_path):
    """What falls to 0 forgives a rate too large; warm-up saves a post-norm Transformer."""
    found = run(schedules, tmp_path)
    constant, falling = (found["schedules"][name] for name in ("constant", "one-cycle"))
    assert falling["validation"][-1] < 0.7 * constant["validation"][-1]
    assert min(falling["accuracy"]) > 0.9
    post = found["transformer"]["post"][found["peaks"].index(1e-2)]
    assert post[0, 0] > 1.5  # without: guessing
    assert post[1, 0] < 0.7 * post[0, 0]


@pytest.mark.slow
def test_residual_depth(tmp_path):
    """64 plain layers learn nothing, with shortcuts they do; gradients explode only without."""
    found = run(residual_depth, tmp_path)
    assert found["plain, layer norm", 64]["loss"] > 2
    assert found["residual, layer norm", 64]["loss"] < 1
    assert np.median(found["plain, layer norm", 64]["first"]) > 1e4
    assert np.median(found["residual, layer norm", 64]["first"]) < 100


@pytest.mark.slow
def test_losses(tmp_path):
    """Weights find rare classes, gamma spoils calibration; outliers pull MSE and hardly MAE."""
    found = run(losses, tmp_path)
    rare, calibration = (found["classes"][name][..., 0] for name in ("rare", "calibration"))
    assert rare[0, 1] > rare[0, 0] + 0.2
    assert calibration[1].mean() > calibration[0].mean()
    mse, mae = (found["errors"][name][:, 0] for name in ("MSE", "MAE"))
    assert mse[1] > 2 * mse[0]
    assert mae[1] < 1.5 * mae[0]


def test_auroc():
    assert _more.auroc([0.0, 1.0], [2.0, 3.0]) == 1
    assert _more.auroc([2.0, 3.0], [0.0, 1.0]) == 0
    assert _more.auroc([0.0, 2.0], [1.0, 2.0]) == 0.625  # 1 > 0, 1 < 2, 2 > 0, a tie is a half


def test_calibration_error():
    logits = np.log(np.array([[0.8, 0.2], [0.8, 0.2]], np.float32))  # 80 % sure, half right
    assert _more.calibration_error(logits, np.array([0, 1])) == pytest.approx(0.3)
