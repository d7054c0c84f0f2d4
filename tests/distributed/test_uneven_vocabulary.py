"""A vocabulary that the devices do not divide: it is padded while a step is computed, and stored in equal parts."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.distributed.collectives import collectives
from nnfunc.distributed.placement import Placement

KEY = jax.random.key(0)
VOCABULARY, DIM, TIME = 65, 8, 4
TESTS = str(Path(__file__).parent.parent)


def gpt(**options):
    return nf.gpt(VOCABULARY, block_size=TIME, layers=2, heads=2, dim=DIM, **options)


def build_of(model):
    return lambda h: nf.Task(model, nf.language_modelling(), nf.optimizers.adamw(h["rate"]))


def losses(model, **options):
    x = np.random.default_rng(0).integers(0, VOCABULARY, (24, TIME + 1)).astype(np.int32)
    x, y = x[:, :-1], x[:, 1:]
    data = nf.data.arrays((x[:16], y[:16]), batch_size=8, validation=(x[16:], y[16:]))
    options = {"steps": 4, "log_every": 1, "evaluate_every": 2, "key": KEY} | options
    state, history = nf.train(build_of(model), {"rate": 1e-2}, data, **options)
    return state, np.concatenate([history.train["loss"], history.validation["loss"]])


def spec(tied, shard, **axes):
    model = gpt(tied=tied)
    return {
        path: tuple(leaf.spec)
        for path, leaf in nf.paths.flatten(
            nf.shardings(jax.eval_shape(model.init, KEY), nf.mesh(**axes), shard, model=model)
        ).items()
    }


def test_another_axis_is_divided_between_steps():
    rows = {"tokens/weight": ["model", ""], "head/weight": ["", "model"]}
    placed = spec(False, rows, data=2, model=2)
    assert placed["tokens/weight"] == (None, "model")
    assert placed["head/weight"] == ("model", None)
    both = spec(True, {"tokens/weight": ["model", "data"]}, data=2, model=2)
    assert both["tokens/weight"] == (None, ("data", "model"))
    assert spec(True, "fsdp", data=4)["tokens/weight"] == (None, "data")
    model = nf.serial(nf.embedding(65, 3), head=nf.linear(3, 65))  # of which no axis divides
    params = jax.eval_shape(model.init, KEY)
    placed = nf.shardings(
        params, nf.mesh(data=2), {"embedding/weight": ["data", ""], "head/bias": ["data"]}, model=model
    )
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(placed))


def test_other_axes_have_to_divide():
    model = nf.serial(nf.embedding(65, 8), up=nf.linear(8, 7))
    with pytest.raises(ValueError, match=r"data = 2 should divide the axis of size 7 of up/weight"):
        nf.shardings(jax.eval_shape(model.init, KEY), nf.mesh(data=2), {"up/weight": ["", "data"]}, model=model)


def test_losses_are_those_of_one_device():
    model = nf.serial(tokens=nf.embedding(VOCABULARY, DIM), act=jnp.tanh, head=nf.linear(DIM, VOCABULARY))
    shard = {"tokens/weight": ["model", ""], "head/weight": ["data", "model"], "head/bias": ["model"]}
    state, actual = losses(model, mesh={"data": 2, "model": 2}, shard=shard)
    np.testing.assert_allclose(actual, losses(model)[1], rtol=1e-5, atol=1e-5)
    assert state.params["tokens"]["weight"].shape == (VOCABULARY, DIM)
    assert state.params["tokens"]["weight"].sharding.shard_shape((VOCABULARY, DIM)) == (VOCABULARY, DIM // 2)


def test_no_device_has_the_whole_table_or_all_logits():
    model, mesh, shard = gpt(), nf.mesh(model=2), {"tokens/weight": ["model", ""]}
    init, step = nf.trainer(build_of(model), mesh=mesh, shard=shard)
    state = Placement.of("test", mesh, shard).structs(jax.eval_shape(init, {"rate": 0.1}, KEY), model)
    batch = 2 * (jax.ShapeDtypeStruct((8, TIME), jnp.int32),)
    program = jax.jit(step, donate_argnums=1).lower({"rate": 0.1}, state, batch).compile()
    table = [part for part in collectives(program) if part.operation == "all-to-all"]
    padded = 4 * DIM * 66 // 2  # bytes: 33 rows on each of 2 devices
    assert {part.bytes for part in table} == {padded}
    logits = 4 * 8 * TIME * VOCABULARY
    assert all(part.bytes < logits / 2 for part in collectives(program))


MATRIX = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from distributed.test_uneven_vocabulary import gpt, losses

rows = {"tokens/weight": ["model", ""]}
for tied in (True, False):
    shard = rows if tied else rows | {"head/weight": ["", "model"]}
    expected = losses(gpt(tied=tied))[1]
    for n in (2, 4, 8) if tied else (8,):
        cases = [({"data": n}, "fsdp"), ({"model": n}, "tensor"), ({"model": n}, shard)]
        cases += [({"data": 2, "model": n // 2}, one) for one in ("fsdp+tensor", shard) if n > 2]
        for mesh, one in cases:
            actual = losses(gpt(tied=tied), mesh=mesh, shard=one)[1]
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5, err_msg=f"{tied} {mesh} {one}")
            print("equal", tied, mesh, one)
"""


@pytest.mark.slow
def test_losses_on_two_four_and_eight_devices(tmp_path):
    (tmp_path / "matrix.py").write_text(MATRIX)
    result = subprocess.run([sys.executable, str(tmp_path / "matrix.py"), TESTS], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("equal") == (3 * 3 + 2 * 2) + (3 + 2)
