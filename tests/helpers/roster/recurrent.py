"""Rows of the roster: recurrent."""

import numpy as np

import nnfunc as nf
from helpers.roster.row import Row, ids, sample

X = sample(2, 4, 3)
LENGTHS = np.array([4, 2], np.int32)
CARRY = (sample(2, 3), sample(2, 3)[::-1])

MODELS: dict[str, Row] = {
    "rnn_cell": Row((3, 2), {"activation": "relu"}, x=(sample(4, 2), sample(4, 3))),
    "gru_cell": Row((3, 2), x=(sample(4, 2), sample(4, 3))),
    "lstm_cell": Row(
        (3, 2), {"peepholes": True}, {"forget_bias": (1.0, 0.5)}, x=((sample(4, 2), sample(4, 2)[::-1]), sample(4, 3))
    ),
    "rnn": Row((3, 3), {"layers": 2, "return_carry": True}, {"dropout": (0.25, 0.5)}, X),
    "gru": Row((3, 3), {"reset": "before", "reverse": True}, {"dropout": (0.25, 0.5)}, nf.RecurrentInput(X, LENGTHS)),
    "lstm": Row(
        (3, 3),
        {"peepholes": True, "return_carry": True},
        {"forget_bias": (1.0, 0.0), "dropout": (0.25, 0.5)},
        nf.RecurrentInput(X, carry={"layer_0": CARRY}),
    ),
    "lstm:deep": Row(
        (3, 2), {"layers": 2, "bidirectional": True}, {"dropout": (0.25, 0.5)}, nf.RecurrentInput(X, LENGTHS)
    ),
    "lstm_cell:projected": Row((3, 4), {"proj_dim": 2}, x=((sample(4, 2), sample(4, 4)[::-1]), sample(4, 3))),
    "lstm:projected": Row(
        (3, 4), {"layers": 2, "proj_dim": 3, "peepholes": True, "return_carry": True}, x=nf.RecurrentInput(X, LENGTHS)
    ),
    "rnn_classifier": Row((3, 2), {"dim": 2, "layers": 2}, {"dropout": (0.25, 0.5)}, X, order=1),
    "rnn_classifier:mean": Row(
        (3, 2),
        {"dim": 2, "cell": "gru", "bidirectional": True, "pool": "mean"},
        x=nf.RecurrentInput(X, LENGTHS),
        order=1,
    ),
    "rnn_lm": Row((5,), {"dim": 3, "tied": True}, {"dropout": (0.25, 0.5)}, ids(2, 4, below=5), order=1),
}
FUNCTIONS: dict[str, Row] = {}
NOT_FACTORIES: dict[str, str] = {"initial_carry": "zeros of a shape, from a model: test_recurrent.py"}
