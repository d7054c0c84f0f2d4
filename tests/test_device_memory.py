"""What cannot fit into the device's memory is refused from shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc import device_memory
from nnfunc.commands.exit_codes import error_message, exit_code

KEY = jax.random.key(0)


def build(h):
    model = nf.gpt(9, block_size=4, layers=h["layers"], heads=1, dim=h["dim"])
    return nf.Task(model, nf.language_modelling(), nf.optimizers.adamw(h["rate"]))


def data(batch_size=8):
    tokens = np.arange(64, dtype=np.int32).reshape(16, 4) % 9
    return nf.data.arrays((tokens, tokens), batch_size)


def train(dim=4, layers=1, **kwargs):
    hypers = {"dim": dim, "layers": layers, "rate": 1e-3}
    return nf.train(build, hypers, data(**kwargs), steps=2, key=KEY)


def test_a_model_larger_than_the_device_is_refused(monkeypatch):
    monkeypatch.setattr(device_memory, "total_bytes", lambda: 24e9)
    expected = (
        r"^train: the model has 9\.6e\+09 parameters: 38\.4 GB of parameters \+ 76\.8 GB of optimizer "
        r"state; the device has 24 GB\. Make the model smaller\.$"
    )
    with pytest.raises(ValueError, match=expected):
        train(dim=20_000, layers=2)


def test_a_step_larger_than_the_device_is_refused(monkeypatch):
    hypers = {"dim": 4, "layers": 1, "rate": 1e-3}
    state = jax.eval_shape(lambda: nf.trainer(build).init(hypers, KEY))
    has = device_memory.tree_bytes(state) + 1000
    monkeypatch.setattr(device_memory, "total_bytes", lambda: has)
    with pytest.raises(ValueError, match=r"^train: a step of 8 examples needs .*; the device has"):
        train()


@pytest.mark.parametrize("init", [lambda m: m.init, lambda m: jax.jit(m.init)])
def test_an_array_that_no_device_holds_is_refused_under_jit_too(init):
    """XLA ends the process on these shapes."""
    model = nf.linear(2**30, 2**30)
    with pytest.raises(ValueError, match=r"an array of shape \(1073741824, 1073741824\) should fit into the memory"):
        init(model)(KEY)


def test_init_by_hand_refuses_what_does_not_fit_as_a_whole(monkeypatch):
    monkeypatch.setattr(device_memory, "total_bytes", lambda: 10e9)
    model = nf.mlp([20_000] * 9)
    with pytest.raises(ValueError, match=r"^serial\.init: the model has 3\.2e\+09 parameters, 12\.8 GB; "):
        model.init(KEY)
    assert jax.eval_shape(model.init, KEY)["hidden_0"]["linear"]["weight"].shape == (20_000,) * 2


@pytest.mark.parametrize("size", [2**31, 10**19, 10**400])
def test_sizes_beyond_int32_are_refused(size):
    for make in (
        lambda: nf.linear(size, 2),
        lambda: nf.gpt(9, block_size=4, layers=1, heads=1, dim=size),
        lambda: nf.gpt(9, block_size=size, layers=1, heads=1, dim=4),
        lambda: nf.train(build, {}, data(), steps=size, key=KEY),
        lambda: nf.train(build, {}, data(), steps=2, log_every=size, key=KEY),
        lambda: nf.sweep(build, {"a": [1]}, data(), steps=2, trials=size, key=KEY),
    ):
        with pytest.raises(ValueError, match=r"should be at most (2147483647|1000000), got "):
            make()


def test_a_program_with_one_value_too_large_is_refused():
    def program(x):
        return (jnp.zeros((2**20, 2**20, 2**10)) + x).sum()

    with pytest.raises(ValueError, match=r"^here: an array of shape"):
        device_memory.check_arrays("here", jax.make_jaxpr(jax.jit(program))(1.0))
    device_memory.check_arrays("here", jax.make_jaxpr(lambda x: x + 1)(1.0))


def test_the_peak_of_a_program_by_hand():
    """x [256] is an argument; a and b of 1 kB are held together, then b and c."""

    def program(x):
        a = jnp.sin(x)
        b = jnp.cos(a)
        c = a * b
        return c.sum()

    closed = jax.make_jaxpr(program)(jnp.zeros(256))
    assert device_memory.peak_bytes(closed) == 3 * 1024
    scanned = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (program(c) + c, None), x, None, 9))
    assert device_memory.peak_bytes(scanned(jnp.zeros(256))) >= 3 * 1024


def test_the_limit_of_a_container_counts(tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 50000\n")
    assert list(device_memory._free_in_group(tmp_path, "memory.max", "memory.current")) == [350_000]
    (tmp_path / "memory.max").write_text("max\n")
    assert not list(device_memory._free_in_group(tmp_path, "memory.max", "memory.current"))


def test_what_the_machine_has():
    free, total = device_memory.free_bytes(), device_memory.total_bytes()
    assert free is None or 0 < free <= (total or 0)


ASKS = [nf.debug.doctor, nf.debug.overfit, nf.debug.find_lr]


@pytest.mark.parametrize("ask", ASKS)
def test_looking_at_a_task_refuses_a_model_that_does_not_fit(monkeypatch, ask):
    monkeypatch.setattr(device_memory, "total_bytes", lambda: 1e4)
    with pytest.raises(ValueError, match=r"^debug: the model has .* the device has 10 kB"):
        ask(build, {"dim": 64, "layers": 1, "rate": 1e-3}, data(), key=KEY)


@pytest.mark.parametrize("ask", ASKS[1:])
def test_training_side_by_side_that_does_not_fit_is_refused(monkeypatch, ask):
    monkeypatch.setattr(device_memory, "total_bytes", lambda: 2e4)
    with pytest.raises(ValueError, match=r"learning rates at once needs .* the device has 20 kB"):
        ask(build, {"dim": 4, "layers": 1, "rate": 1e-3}, data(), key=KEY, steps=8)


def test_a_batch_of_doctor_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(device_memory, "total_bytes", lambda: 4e3)
    with pytest.raises(ValueError, match=r"^debug: a batch of 16 examples needs .* has 4 kB"):
        nf.debug.doctor(build, {"dim": 4, "layers": 1, "rate": 1e-3}, data(), key=KEY)


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("Out of memory: 7 B")])
def test_memory_that_ends_in_a_run_is_told_in_one_line(error):
    assert exit_code(error) == 2
    assert error_message(error).startswith("out of memory (")


def test_trials_that_do_not_fit_are_refused_and_others_run(monkeypatch):
    monkeypatch.setattr(device_memory, "total_bytes", lambda: 1e5)
    given = {"steps": 2, "key": KEY, "method": "grid"}
    with pytest.raises(ValueError, match=r"^sweep: the model has .* the device has 100 kB"):
        nf.sweep(build, {"dim": 64, "layers": 1, "rate": [1e-3]}, data(), **given)
    result = nf.sweep(build, {"dim": [4, 64], "layers": 1, "rate": 1e-3}, data(), **given)
    assert list(result.refused) == [1]
    assert "the device has 100 kB" in result.refused[1]
    assert np.isfinite(result.scores[0])


def test_an_evaluation_that_does_not_fit_is_refused(monkeypatch):
    task = build({"dim": 4, "layers": 1, "rate": 1e-3})
    params, tokens = jax.jit(task.model.init)(KEY), np.zeros((16, 4), np.int32)
    monkeypatch.setattr(device_memory, "total_bytes", lambda: 1e4)
    expected = r"^evaluate: an evaluation of 16 examples at once needs .* the device has 10 kB"
    with pytest.raises(ValueError, match=expected):
        nf.evaluate(task, params, (tokens, tokens))


def test_without_jit_nothing_is_compiled():
    """Its loops would be written out in the program: with jax 0.12 that of a small CNN took minutes to compile."""
    add = jax.jit(lambda x: x + 1)
    with jax.disable_jit():
        assert device_memory.compile_checked("add", add, "a sum", "", 1) is add
    assert device_memory.compiled_bytes(add) is None
