"""What the tests of sweeps train: small, and built once, so that programs are shared."""

from concurrent.futures import Future

import jax
import numpy as np

import nnfunc as nf

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


def swept(trials=9, build=plain, space=None, **options):
    options = {"steps": STEPS, "key": KEY, "execution": "loop", **options}
    if not isinstance(space, list):
        options["trials"] = trials
    return nf.sweep(build, SPACE if space is None else space, DATA, **options)


SEARCHES = {
    "everything": lambda: None,
    "halving": lambda: nf.sweeps.halving(3),
    "population": lambda: nf.sweeps.population(rounds=5),
    "optuna": lambda: nf.sweeps.optuna("random", batch=4),
}


def same(one, other):
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.table() == other.table()
    assert (one.stopped_at, one.lineage, one.diverged) == (other.stopped_at, other.lineage, other.diverged)
    for i in range(len(one.hypers)):
        left, right = one.trial(i).state, other.trial(i).state
        for a, b in zip(jax.tree.leaves(left.params), jax.tree.leaves(right.params), strict=True):
            np.testing.assert_array_equal(a, b)
        for name, curve in one.curves.items():
            np.testing.assert_array_equal(curve[i], other.curves[name][i])


class Inline:
    """Runs jobs here, and loses those of these numbers, before or after they have run."""

    def __init__(self, before=(), after=()):
        self.before, self.after, self.count = before, after, 0

    def submit(self, function, *args):
        future, number = Future(), self.count
        self.count += 1
        if number not in self.before:
            function(*args)
        if number in (*self.before, *self.after):
            future.set_exception(ConnectionError("the machine is gone"))
        else:
            future.set_result(None)
        return future
