"""What a watched step tells of every layer, against NumPy; and that watching changes nothing."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.training import layer_stats, throughput

KEY = jax.random.key(5)
X = np.sin(np.arange(48, dtype=np.float32).reshape(8, 6) * 1.3)
Y = np.arange(8) % 3
H = {"rate": 0.5}


def build(h):
    block = nf.residual(nf.serial(up=nf.linear(4, 4), act=jax.nn.relu))
    model = nf.serial(
        first=nf.linear(6, 4), squash=jnp.tanh, blocks=nf.repeat(block, 3), drop=nf.dropout(0.2), head=nf.linear(4, 3)
    )
    return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["rate"]))


@pytest.fixture(scope="module")
def seen():
    """(state before, state after a watched step, state after a plain one, layers as numbers)."""
    init, step = nf.trainer(build)
    state = init(H, KEY)
    watched, metrics = jax.jit(lambda s: step(H, s, (X, Y), watch=True))(state)
    plain, _ = jax.jit(lambda s: step(H, s, (X, Y)))(state)
    return state, watched, plain, layer_stats.stats_by_layer(jax.device_get(metrics["layers"]))


def test_a_watched_step_is_the_same_step(seen):
    _, watched, plain, _ = seen
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    jax.tree.map(same, watched.params, plain.params)


def test_parameters_by_hand(seen):
    state, watched, _, layers = seen
    told = layers["parameters"]
    names = [path.partition("/")[0] for path in told]
    assert list(dict.fromkeys(names)) == ["first", "blocks", "head"]  # the model's own order
    assert list(layers["activations"])[:2] == ["first", "squash"]
    assert [p for p in told if p.startswith("blocks")] == [
        f"blocks/{i}/body/up/{name}" for name in ("bias", "weight") for i in range(3)
    ]
    for i in range(3):
        old, new = (np.asarray(s.params["blocks"]["body"]["up"]["weight"][i]) for s in (state, watched))
        row = told[f"blocks/{i}/body/up/weight"]
        size = np.linalg.norm(old)
        assert row["weight_norm"] == pytest.approx(size, rel=1e-4)
        assert row["update_ratio"] == pytest.approx(np.linalg.norm(new - old) / size, rel=1e-3)
        assert row["gradient_norm"] == pytest.approx(np.linalg.norm(new - old) / 0.5, rel=1e-3)
        low, high, counts = row["weight_histogram"]
        expected, edges = np.histogram(old, bins=32)
        assert [low, high] == pytest.approx([edges[0], edges[-1]], rel=1e-4)
        assert sum(counts) == old.size
        assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 1  # rounding at an edge


def test_a_dispatch_that_compiles_does_not_count():
    speed = throughput.SpeedMeter(batch_size=10, window=None)
    with speed.compiling("step") as counts:
        assert not counts
    assert "examples_per_second" not in speed.metrics()
    with speed.compiling("step") as counts:
        assert counts


def test_a_histogram_looks_at_every_column():
    """Of 64 columns, of which the first is 0 and one sample in 64 values would see it alone."""
    x = np.broadcast_to(np.arange(64.0), (4096, 64))
    low, high, *counts = np.asarray(layer_stats._histogram(x))
    assert (low, high) == (0, 63)
    assert max(counts) - min(counts) <= 4  # two columns in each bin


def test_activations_by_hand(seen):
    state, _, _, layers = seen
    told = layers["activations"]
    assert {"first", "squash", "blocks/2/body/act", "head", "drop"} <= set(told)
    assert not {"blocks", "blocks/0/body", "blocks/0"} & set(told)  # only the innermost
    model = build(H).model
    _, taps = nf.capture(model, "**")(state.params, X)
    y = np.asarray(taps["squash"])
    assert told["squash"]["mean"] == pytest.approx(y.mean(), rel=1e-4)
    assert told["squash"]["deviation"] == pytest.approx(y.std(), rel=1e-4)
    assert told["squash"]["saturated"] == pytest.approx((np.abs(y) >= 0.99).mean())
    assert "dead" not in told["squash"]
    assert "saturated" not in told["first"]
    for i in range(3):
        act = np.asarray(taps["blocks/*/body/act"][i])
        row = told[f"blocks/{i}/body/act"]
        assert row["dead"] == pytest.approx((act <= 0).all(0).mean())
        assert sum(row["histogram"][2]) == act.size


def test_saturated_and_dead_are_found():
    def planted(h):
        model = nf.serial(wide=nf.scale(6), squash=jax.nn.sigmoid, minus=lambda x: -x, act=jax.nn.relu)
        return nf.Task(model, lambda predict, x: (predict(x).sum(), {}), nf.optimizers.sgd(0.1))

    init, step = nf.trainer(planted)
    state = init({}, KEY)
    state = state._replace(params={"wide": {"scale": jnp.full(6, 100.0)}})
    layers = step({}, state, X, watch=True)[1]["layers"]
    told = layer_stats.stats_by_layer(jax.device_get(layers))["activations"]
    assert told["squash"]["saturated"] > 0.9
    assert told["act"]["dead"] == 1


def test_watching_works_under_vmap_accumulation_and_scan():
    def many(h):
        return build(h)._replace(accumulate=2)

    init, step = nf.trainer(many)

    def run(rate):
        h = {"rate": rate}
        return step(h, init(h, KEY), (X, Y), watch=True)[1]["layers"]

    layers = jax.jit(jax.vmap(run))(jnp.array([0.1, 0.5]))
    ratios = layers["parameters"]["blocks/*/body/up/weight"]["update_ratio"]
    assert ratios.shape == (2, 3)
    np.testing.assert_allclose(ratios[1], 5 * ratios[0], rtol=1e-3)


@pytest.mark.parametrize("loop", ["step", "scan"])
def test_a_run_writes_rows_of_its_layers_and_its_speed(tmp_path, loop):
    data = nf.data.arrays((X, Y), 4, validation=(X, Y))
    options = {"steps": 8, "key": KEY, "log_every": 4, "watch_every": 3, "loop": loop}
    state, history = nf.train(build, H, data, folder=tmp_path / "a", **options)
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    layers = [row for row in rows if row["split"] == "layers"]
    assert [row["step"] for row in layers] == [1, 3, 6]
    assert history.layers["step"].tolist() == [1, 3, 6]
    assert len(history.layers["parameters"]["head/bias"]["weight_norm"]) == 3
    train = [row for row in rows if row["split"] == "train"]
    assert {"examples_per_second", "memory_mb", "flops_per_second"} <= set(train[-1])
    assert "examples_per_second" in history.speed
    assert "examples_per_second" not in history.train
    bare, _ = nf.train(build, H, data, **options | {"watch_every": None})
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    jax.tree.map(same, state.params, bare.params)


def test_flops_per_second_counts_the_whole_step(monkeypatch):
    monkeypatch.setenv("NNFUNC_PEAK_FLOPS", "1e9")
    data = nf.data.arrays((X, Y), 8)
    _, history = nf.train(build, H, data, steps=6, key=KEY, log_every=3)
    init, step = nf.trainer(build)
    per_step = nf.flops.count(lambda s: step(H, s, (X, Y)), jax.eval_shape(init, H, KEY))
    told = history.speed["flops_per_second"] / (history.speed["examples_per_second"] / 8)
    assert (abs(told - per_step - 1500) < 300).all()  # the order of the data is drawn in it too
    np.testing.assert_allclose(history.speed["utilisation"], history.speed["flops_per_second"] / 1e9, rtol=1e-3)


def test_peaks_are_known_by_the_kind_of_device():
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    assert throughput.peak_flops(Device()) == 989e12
    assert throughput.peak_flops() is None  # a CPU's is not known
    assert throughput.memory_mb() > 50
