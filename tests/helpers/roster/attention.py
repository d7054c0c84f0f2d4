"""Rows of the roster: attention."""

import jax
import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from helpers.roster.row import KEY, Row, sample

Q, K, V = sample(2, 3, 4, 4), sample(2, 5, 2, 4)[:, ::-1], sample(2, 5, 2, 4) * 0.7
NUMBERS = {"window": (2, 1), "start": (2, 1), "scale": (0.5, 1.0), "soft_cap": (2.0, 0.5), "dropout": (0.25, 0.5)}
SCALINGS = [
    {"name": "linear", "factor": 4.0},
    {"name": "dynamic", "factor": 4.0, "length": 2},
    {"name": "yarn", "factor": 4.0, "length": 8},
    {"name": "llama3", "factor": 8.0, "length": 8, "low": 1.0, "high": 4.0},
    {"name": "longrope", "factor": 4.0, "length": 2, "short": [1.0, 1.5], "long": [2.0, 3.0]},
]
MODELS: dict[str, Row] = {
    "attention": Row(
        (6, 3),
        {"causal": True, "positions": "rotary", "qk_norm": True, "kv_heads": 1, "head_dim": 4},
        {
            "window": (2, 3),
            "rotary_base": (100.0, 50.0),
            "scale": (0.5, 1.0),
            "soft_cap": (2.0, 0.5),
            "dropout": (0.25, 0.5),
            "eps": (1e-3, 1e-1),
        },
        x=sample(2, 4, 6),
    ),
    "attention:cross": Row(
        (6, 2),
        {"context_dim": 5, "out_bias": False},
        x=nf.AttentionInput(sample(2, 3, 6), sample(2, 4, 5), mask=np.arange(24).reshape(2, 3, 4) % 3 > 0),
    ),
    "attention:values": Row(
        (6, 2),
        {
            "value_dim": 5,
            "return_weights": True,
            "causal": True,
            "positions": "rotary",
            "rotary_tables": (np.cos(sample(9, 1)), np.sin(sample(9, 1))),
        },
        x=nf.AttentionInput(sample(2, 4, 6), value=sample(2, 4, 5)),
    ),
    "learned_positions": Row((5, 6), x=sample(2, 4, 6)),
    "sinusoidal_positions": Row((6,), {}, {"base": (10000.0, 100.0)}, x=sample(2, 4, 6)),
}
FUNCTIONS: dict[str, Row] = {
    "attend": Row((Q, K, V), {"causal": True, "key": KEY}, NUMBERS),
    "attend:gradients": Row(
        (Q, K, V), {"slopes": jnp.array([0.5, 0.1, 0.2, 0.3]), "soft_cap": 3.0, "causal": True}, differentiate=True
    ),
    "alibi_slopes": Row((6,), then=jax.tree_util.Partial(jnp.sin)),
    "rotary:tables": Row(
        (Q, np.array([2, 0, 1])), {"tables": (np.cos(sample(4, 1)), np.sin(sample(4, 1)))}, differentiate=True
    ),
    "rotary": Row((Q,), {"dim": 2}, {"base": (10000.0, 100.0)}, differentiate=True),
    **{
        f"rotary:{scaling['name']}": Row((Q,), {"scaling": scaling}, {"base": (10000.0, 100.0)}) for scaling in SCALINGS
    },
}
NOT_FACTORIES: dict[str, str] = {}
