"""What the tests of sweeps train: small, and built once, so that programs are shared."""

import jax
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.sweeps import sweep


@pytest.fixture
def no_report(monkeypatch):
    """A sweep with a folder draws no report, which takes seconds."""
    monkeypatch.setattr(sweep, "REPORT", None)


DIM, CLASSES, STEPS = 6, 3, 40
KEY = jax.random.key(5)


def blobs(n=48, seed=0, spread=1.0):
    draw = np.random.default_rng(seed)
    labels = (np.arange(n) % CLASSES).astype(np.int32)
    x = 2 * np.eye(CLASSES, DIM, dtype=np.float32)[labels]
    return x + spread * draw.normal(size=(n, DIM)).astype(np.float32), labels


DATA = nf.data.arrays(blobs(), batch_size=8, validation=blobs(20, 1))


def plain(h):
    model = nf.mlp([DIM, 5, CLASSES], dropout=h["dropout"])
    return nf.Task(model, nf.classification(), nf.optimizers.adam(h["lr"]))


SPACE = {"lr": nf.log_uniform(1e-4, 1.0), "dropout": nf.uniform(0.0, 0.5)}


def swept(members=9, build=plain, space=None, **options):
    options = {"steps": STEPS, "key": KEY, "way": "loop", **options}
    if not isinstance(space, list):
        options["members"] = members
    return nf.sweep(build, SPACE if space is None else space, DATA, **options)
