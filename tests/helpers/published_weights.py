"""Parameters by the names that others published, as ours, by the tables of `nnfunc.interop`."""

import zlib

import jax
import numpy as np

import nnfunc as nf
from nnfunc.interop.name_table import expand
from nnfunc.interop.published_config import arguments_of


def filled(name, shape):
    """The numbers of scripts/golden/transformer.py and published_models.py that belong to a name."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        return 1 + 0.2 * np.abs(draw)
    return 1 + 0.2 * draw if len(shape) == 1 and name.endswith("weight") else 0.3 * draw


def leaves_of(model):
    """The shapes of parameters and state by path: no path is in both."""
    both = jax.eval_shape(model.init, jax.random.key(0)), jax.eval_shape(model.init_state)
    params, state = map(nf.paths.flatten, both)
    assert not set(params) & set(state)
    return params, state


def entries_of(model, family):
    """The published tensors of a model, in the names of a family."""
    params, state = leaves_of(model)
    return expand(family.table(arguments_of(model)[1]), params | state)


def ours(model, family, published):
    """(params, state) of published arrays by name, each of which has one path, and none is left."""
    params, state = leaves_of(model)
    shapes = params | state
    made = {path: np.full(leaf.shape, np.nan) for path, leaf in shapes.items()}
    entries = entries_of(model, family)
    assert sorted(entry.name for entry in entries) == sorted(published)
    for entry in entries:
        assert published[entry.name].shape == entry.shape, entry
        for path, part in entry.split(published[entry.name], shapes):
            assert np.isnan(made[path][entry.layer]).all(), f"{path} has a second name, {entry.name}"
            made[path][entry.layer] = part
    assert not [path for path, array in made.items() if np.isnan(array).any()]
    unflat = nf.paths.unflatten
    return unflat({path: made[path] for path in params}), unflat({path: made[path] for path in state})
