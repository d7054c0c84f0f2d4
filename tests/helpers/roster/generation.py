"""Rows of the roster: generation."""

import jax
import jax.numpy as jnp

import nnfunc as nf
from helpers.roster.row import KEY, Row, ids

MODEL = nf.serial(nf.embedding(7, 4, weight_init=nf.initializers.normal(1.0)), jnp.tanh, nf.linear(4, 7))
PARAMS = MODEL.init(jax.random.key(2))

MODELS: dict[str, Row] = {}
FUNCTIONS: dict[str, Row] = {
    "generate": Row(
        (MODEL, PARAMS, ids(2, 3, below=7), 4),
        {"key": KEY, "top_k": 6},
        {"temperature": (0.7, 0.0), "top_p": (0.9, 0.4)},
    )
}
NOT_FACTORIES: dict[str, str] = {"keep_memory": "a setting of the process: test_memory.py"}
