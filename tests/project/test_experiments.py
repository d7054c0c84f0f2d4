"""The experiments of scripts/experiments at small size: each still shows what its page says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from scripts.experiments import (
    activations,
    backpropagation,
    common,
    initialization,
    normalization,
    universal_approximation,
)


def run(experiment, folder):
    """What the experiment found at small size; its page and figure are there."""
    name = experiment.__name__.rsplit(".", 1)[-1]
    found = experiment.main(["--size", "small", "--out", str(folder)])
    page = (folder / f"{name}.md").read_text()
    assert page.startswith(f"# {experiment.TITLE}\n")
    assert f"]({name}.png)" in page
    assert "nan" not in page
    assert 5_000 < (folder / f"{name}.png").stat().st_size <= common.LARGEST
    return found


@pytest.mark.slow
def test_he_keeps_the_variance_of_relu_and_lecun_loses_it(tmp_path):
    """Through 50 layers. He et al. 2015: each layer multiplies it by half of fan_in * Var w."""
    found = run(initialization, tmp_path)
    for direction in (0, 1):
        last = -1 if direction == 0 else 0
        he = initialization.mean_variance(found["He", "relu"][direction])
        lecun = initialization.mean_variance(found["LeCun or Xavier", "relu"][direction])
        assert abs(he[last] - he[~last]) < np.log10(2)
        assert lecun[last] - lecun[~last] == pytest.approx(49 * np.log10(1 / 2), abs=0.3)


def test_theory_of_initialization_by_hand():
    """relu halves E z^2; of a sigmoid's slope, at most 1/4, the square is at most 1/16."""
    forward, backward = initialization.predicted("relu", 1.0)
    np.testing.assert_allclose(forward, np.arange(50) * -np.log10(2), atol=1e-2)
    np.testing.assert_allclose(backward, np.arange(50, 0, -1) * -np.log10(2), atol=1e-2)
    _, backward = initialization.predicted("sigmoid", 1.0)
    assert (np.diff(backward) > np.log10(16)).all()


@pytest.mark.slow
def test_three_gradients_agree_and_a_sigmoid_fades(tmp_path):
    agree, errors, gradients = run(backpropagation, tmp_path)
    assert max(agree.values()) < 1e-13
    central = {power: row[1] for power, row in errors.items()}
    assert central[-5] < 1e-8  # the bottom of the V; truncation above it, rounding below
    assert central[-2] > 1e3 * central[-5]
    assert central[-8] > 1e2 * central[-5]
    ratio = {name: np.median(norms[:, 0] / norms[:, -1]) for (name, _), norms in gradients.items()}
    assert ratio["sigmoid"] < 4.0**-14  # 15 layers, each with a slope of at most 1/4
    assert 0.1 < ratio["tanh"] < 10


@pytest.mark.slow
def test_wider_is_better(tmp_path):
    by_width, by_depth, splines = run(universal_approximation, tmp_path)
    smooth, fast = by_width["relu"][0], by_width["relu"][3]  # [widths, seeds]
    assert np.median(smooth[1]) < 0.5 * np.median(smooth[0])
    assert np.median(fast[1]) > 0.8
    assert by_depth["relu"].shape == (5, 2, 2)
    assert splines[0][1] < splines[0][0] / 50  # (32 / 2) ** 2 = 256 times finer for smooth functions


@pytest.mark.slow
def test_relus_die_at_high_rates_and_leaky_ones_do_not(tmp_path):
    results = run(activations, tmp_path)["results"]
    assert results["relu"]["dead"][1].mean() > 0.5 > 5 * results["relu"]["dead"][0].mean()
    assert results["leaky_relu"]["dead"].max() == 0
    assert results["relu"]["accuracy"][0].mean() > 0.8
    assert results["sigmoid"]["accuracy"][0].mean() < 0.2  # five layers of it fade


@pytest.mark.slow
def test_batch_norm_differs_between_its_modes_at_small_batches(tmp_path):
    _, modes = run(normalization, tmp_path)
    loss = {size: {mode: np.mean(pair[0]) for mode, pair in found.items()} for size, (_, found) in modes.items()}
    gap = {size: found["running"] / found["training"] for size, found in loss.items()}
    assert gap[2] > gap[64] + 0.05
    assert gap[64] < 1.1
    assert loss[2]["100"] < loss[2]["1"] / 100  # two examples say next to nothing of a variance


def build(h):
    model = nf.mlp([4, 8, 3], norm="batch", dropout=h["rate"])
    return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["lr"]))


@pytest.fixture(scope="module")
def three():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    y = (np.arange(60) % 3).astype(np.int32)
    return nf.data.arrays((x, y), batch_size=8, validation=(x[:20], y[:20]))


@pytest.mark.parametrize("scan", [True, False])
def test_a_member_equals_the_run_alone(three, scan):
    """With batch norm and dropout; the third diverges, and disturbs no other."""
    hypers = {"lr": [0.1, 0.3, 1e38], "rate": [0.0, 0.2, 0.1]}
    keys = common.seed_keys([5, 6, 7])
    many = common.train_many(build, hypers, three, steps=7, keys=keys, report_every=3, validate_every=3, scan=scan)
    assert many.steps.tolist() == [3, 6, 7]
    assert many.curves["loss"].shape == (3, 3)
    assert many.validation_steps.tolist() == [3, 6]
    assert many.validation_curves["accuracy"].shape == (3, 2)
    h = {"lr": 0.3, "rate": 0.2}
    state, history = nf.train(build, h, three, steps=7, key=jax.random.key(6), log_every=3)
    jax.tree.map(
        lambda one, all_: np.testing.assert_allclose(one, all_[1], rtol=2e-5, atol=1e-6),
        (state.params, state.model_state),
        (many.states.params, many.states.model_state),
    )
    np.testing.assert_allclose(many.curves["loss"][1], history.train["loss"], rtol=1e-5)
    alone = nf.evaluate(build(h), state.params, three.validation, state=state.model_state)
    assert many.validation["loss"][1] == pytest.approx(alone["loss"], rel=1e-5)
    assert many.states.diverged_at.tolist()[:2] == [-1, -1]
    assert many.states.diverged_at[2] >= 0


def test_a_page_keeps_what_people_wrote(tmp_path):
    path = common.write_page("some", "first", title="Some", out=tmp_path, seconds=2)
    path.write_text(path.read_text().replace("# Some\n", "# Some\n\nBefore.\n") + "\nAfter.\n")
    common.write_page("some", r"second \1", title="Some", out=tmp_path)
    text = path.read_text()
    assert "Before." in text
    assert text.endswith("<!-- end -->\n\nAfter.\n")
    assert "first" not in text
    assert r"second \1" in text
    path.write_text("# Some\n")
    with pytest.raises(ValueError, match=r"some.md: the marks .* should stand in it once"):
        common.write_page("some", "third", title="Some", out=tmp_path)


def test_a_figure_too_large_is_refused(tmp_path):
    fig, axis = common.figure(wide=9, high=6)
    axis.imshow(np.random.default_rng(0).random((600, 900)))
    with pytest.raises(ValueError, match=r"large.png: it should have at most 120000 bytes"):
        common.save_figure(fig, "large", tmp_path)


def test_the_interval_is_students():
    """Worked by hand: the mean of 1, 2, 3 is 2, its standard error 1 / sqrt(3), t 4.3027."""
    mean, half = common.interval(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(mean, [2, 5])
    np.testing.assert_allclose(half, [4.302653 / 3**0.5, 0], rtol=1e-6)
    assert np.isnan(common.interval([1.0])[1])


def test_a_grid_is_every_combination():
    hypers, shape = common.grid(rate=[0.1, 0.2], seed=range(3))
    assert shape == (2, 3)
    assert hypers["seed"].tolist() == [0, 1, 2, 0, 1, 2]
    assert (hypers["rate"].dtype, hypers["seed"].dtype) == (jnp.float32, jnp.int32)


@pytest.mark.parametrize(
    "name", ["universal_approximation", "initialization", "activations", "backpropagation", "normalization"]
)
def test_every_page_has_its_figure_and_its_lessons(name):
    folder = common.ROOT / "docs" / "experiments"
    text = (folder / f"{name}.md").read_text()
    assert f"python -m scripts.experiments.{name}" in text
    assert "## What it teaches" in text
    assert (folder / f"{name}.png").stat().st_size <= common.LARGEST
    assert f"(experiments/{name}.md)" in (folder.parent / "experiments.md").read_text()
