"""Write tests/golden/activations.json: values and derivatives of PyTorch's activations in float64.

python scripts/golden/activations.py        (needs torch; the tests do not)
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

# Zero, its neighbours, the kinks, the bend, where float32 saturates, and far out.
POSITIVE = [1e-8, 1e-3, 0.1, 0.5, 1.0, 1.7, 2.5, 3.0, 4.0, 5.5, 6.0, 7.5, 10.0, 20.0, 50.0, 90.0]
POSITIVE += [1e3, 1e4]
GRID = [-x for x in reversed(POSITIVE)] + [0.0] + POSITIVE
ROWS = [[0.0, 1e-8, -1e-8, 1.0], [20.0, -20.0, 0.5, 19.0]]
ROWS += [[1e4, -1e4, 1e4, 0.0], [-1e4, -1e4, -9999.0, 2.0]]

ELEMENTWISE = {
    "identity": lambda x: x * 1,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "leaky_relu slope=0.2": lambda x: F.leaky_relu(x, 0.2),
    "prelu slope=0.25": lambda x: F.prelu(x, torch.tensor(0.25, dtype=x.dtype)),
    "elu": F.elu,
    "elu alpha=0.5": lambda x: F.elu(x, 0.5),
    "selu": F.selu,
    "celu": F.celu,
    "celu alpha=2.0": lambda x: F.celu(x, 2.0),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softplus beta=2.0": lambda x: F.softplus(x, beta=2.0),
    "softplus beta=0.5 threshold=1.0": lambda x: F.softplus(x, beta=0.5, threshold=1.0),
    "log_sigmoid": F.logsigmoid,
    "hard_tanh": F.hardtanh,
    "hard_tanh lower=-2.5 upper=0.5": lambda x: F.hardtanh(x, -2.5, 0.5),
    "soft_shrink": F.softshrink,
    "soft_shrink threshold=1.0": lambda x: F.softshrink(x, 1.0),
    "hard_shrink": F.hardshrink,
    "hard_shrink threshold=1.0": lambda x: F.hardshrink(x, 1.0),
    "tanh_shrink": F.tanhshrink,
    "threshold threshold=0.5 value=-1.5": lambda x: F.threshold(x, 0.5, -1.5),
    "softsign": F.softsign,
    "hard_sigmoid": F.hardsigmoid,
    "hard_sigmoid slope=0.2": lambda x: F.hardtanh(0.2 * x + 0.5, 0.0, 1.0),
    "hard_swish": F.hardswish,
    "squared_relu": lambda x: F.relu(x).square(),
}
ROWWISE = {
    "softmax": lambda x: F.softmax(x, -1),
    "softmax axis=0": lambda x: F.softmax(x, 0),
    "softmin": lambda x: F.softmin(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "glu": F.glu,
    "bilinear_glu": lambda x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1],
    "reglu": lambda x: x.chunk(2, -1)[0] * F.relu(x.chunk(2, -1)[1]),
    "geglu": lambda x: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1]),
    "swiglu": lambda x: x.chunk(2, -1)[0] * F.silu(x.chunk(2, -1)[1]),
}


def value_and_slope(function, points):
    """The values, and the derivative of sum(y * weight): ones, or 1, 2, 3, ... along a row."""
    x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    y = function(x)
    weight = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype) if x.dim() > 1 else torch.ones_like(y)
    (y * weight).sum().backward()
    return {"y": y.tolist(), "slope": x.grad.tolist()}


golden = {
    "source": f"PyTorch {torch.__version__}, float64",
    "grid": GRID,
    "rows": ROWS,
    "elementwise": {name: value_and_slope(f, GRID) for name, f in ELEMENTWISE.items()},
    "rowwise": {name: value_and_slope(f, ROWS) for name, f in ROWWISE.items()},
}
target = Path(__file__).parents[2] / "tests/golden/activations.json"
text = json.dumps(golden, indent=1)
target.write_text(text.replace("\n   ", "").replace("\n  ]", "]") + "\n")
