"""Data in memory whose rows are divided over the devices: the batches are those of data that each device has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.distributed.collectives import collectives
from nnfunc.distributed.placement import Placement
from nnfunc.training import cut_data, device_feed
from nnfunc.training.cut_data import cut_rows, is_large

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)


def images(rows=33):  # which 4 devices do not divide
    x, y = DRAW.integers(0, 255, (rows, 6), np.uint8), DRAW.integers(0, 3, rows).astype(np.int32)
    scale = lambda batch: (batch[0].astype(jnp.float32) / 255, batch[1])
    return nf.data.arrays((x, y), batch_size=8, classes=3, transform=scale)


def placement(**axes):
    return Placement.of("test", nf.mesh(**axes), None)


@pytest.mark.parametrize("window", [None, 5])
def test_the_batches_are_the_same(window):
    data = images()
    if window is not None:
        data = nf.data.arrays(DRAW.integers(0, 9, 42).astype(np.int32), batch_size=8, window=window, classes=9)
    cut = cut_rows(data.for_training(), placement(data=4))
    part = jax.tree.leaves(cut.data.arrays)[0].addressable_shards[0].data
    assert len(part) == -(-len(jax.tree.leaves(data.arrays)[0]) // 4)
    for step in (0, 3, 7):
        jax.tree.map(np.testing.assert_array_equal, jax.jit(type(cut).batch)(cut, step), data.batch(step))


def test_no_device_gathers_all_rows():
    data, mesh = images(400), placement(data=4)
    cut = cut_rows(data.for_training(), mesh)
    with mesh.tracing():
        program = jax.jit(lambda cut, step: cut.batch(step)).lower(cut, jnp.int32(0)).compile()
    assert sum(part.bytes for part in collectives(program)) < 8 * (4 * 6 + 4) * 2  # a batch; XLA sums bytes as integers


def test_large_data_is_cut(monkeypatch):
    data, one, four = images(), placement(model=2), placement(data=4)
    monkeypatch.setattr(cut_data, "total_bytes", lambda: 1000)
    assert [is_large(data, four, fraction) for fraction in (0, 0.25, 0.5, 1)] == [True, True, False, False]  # 330 bytes
    assert not is_large(data, one, 0)
    monkeypatch.setattr(cut_data, "total_bytes", lambda: 1)
    assert [is_large(data, four, fraction) for fraction in (0.9, 1)] == [True, False]
    monkeypatch.setattr(cut_data, "total_bytes", lambda: None)
    assert not is_large(data, four, 0.25)


def test_a_run_on_cut_data_gives_the_losses_of_one_device(monkeypatch):
    cuts = []
    monkeypatch.setattr(device_feed, "cut_rows", lambda *args: cuts.append(cut_rows(*args)) or cuts[-1])
    build = lambda h: nf.Task(nf.mlp([6, 8, 3]), nf.classification(), nf.optimizers.adamw(h))
    data, losses = images(), []
    for options in ({}, {"mesh": {"data": 4}, "cut_data": 0}):
        losses.append(nf.train(build, 1e-2, data, steps=6, key=KEY, log_every=1, **options)[1].train["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert len(cuts) == 1


def test_a_fraction_out_of_range():
    build = lambda h: nf.Task(nf.mlp([6, 8, 3]), nf.classification(), nf.optimizers.adamw(h))
    with pytest.raises(ValueError, match=r"cut_data should be in \[0, 1\], got 25"):
        nf.train(build, 1e-2, images(), steps=1, key=KEY, cut_data=25)
