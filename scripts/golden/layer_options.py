"""Golden values and gradients of options of layers, from PyTorch in float64, with channels moved to the end.

python scripts/golden/layer_options.py        (needs torch; renews tests/golden/layer_options.npz)

Each case holds its inputs, y, dy (drawn at random) and the gradients d<name> of sum(y * dy), in the order of axes of
nnfunc, and what else its part below names.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

torch.set_default_dtype(torch.float64)
golden: dict[str, np.ndarray] = {}


class Case:
    """The arrays of one case, drawn by a generator of its own: a new case changes no other."""

    def __init__(self, name):
        self.name, self.draw = name, np.random.default_rng(sum(name.encode()))

    def keep(self, **arrays):
        for name, value in arrays.items():
            value = value.detach().numpy() if isinstance(value, torch.Tensor) else value
            golden[f"{self.name}/{name}"] = np.array(value)

    def leaf(self, name, shape, value=None):
        value = self.draw.normal(size=shape) if value is None else value
        self.keep(**{name: value})
        return torch.tensor(value, requires_grad=True)

    def backward(self, y, **leaves):
        dy = self.draw.normal(size=y.shape)
        y.backward(torch.tensor(dy))
        self.keep(y=y, dy=dy, **{f"d{name}": tensor.grad for name, tensor in leaves.items()})


def first(x):
    """[batch, ..., channels] -> [batch, channels, ...]."""
    return torch.movedim(x, -1, 1)


def last(x):
    return torch.movedim(x, 1, -1)


# Norms: instance norm with running statistics, over three steps, then in inference.
case = Case("instance_norm")
layer = nn.InstanceNorm1d(3, affine=True, track_running_stats=True, momentum=0.3)
layer.weight.data, layer.bias.data = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, 1.0, -1.0])
steps = 2.0 + 3.0 * case.draw.normal(size=(3, 4, 5, 3))
case.keep(steps=steps, scale=layer.weight, bias=layer.bias)
ys, means, variances = [], [], []
for step in steps:
    ys.append(last(layer(first(torch.tensor(step)))).detach().numpy())
    means.append(layer.running_mean.numpy().copy())
    variances.append(layer.running_var.numpy().copy())
case.keep(ys=ys, means=means, variances=variances)
layer.eval()
x = case.leaf("x", (2, 5, 3))
case.backward(last(layer(first(x))), x=x, scale=layer.weight, bias=layer.bias)

for size in (1, 4, 5):
    case = Case(f"local_response_norm_{size}")
    x = case.leaf("x", (2, 3, 6))
    case.backward(last(nn.LocalResponseNorm(size, alpha=0.7, beta=0.6, k=1.3)(first(x))), x=x)

case = Case("weight_norm")
layer = parametrizations.weight_norm(nn.Conv1d(3, 4, 2))
scale, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
scale.data, direction.data = (
    torch.tensor(case.draw.normal(size=(4, 1, 1))),
    torch.tensor(case.draw.normal(size=(4, 3, 2))),
)
case.keep(scale=scale.reshape(4), direction=direction.permute(2, 1, 0), bias=layer.bias)
x = case.leaf("x", (2, 5, 3))
case.backward(last(layer(first(x))), x=x, bias=layer.bias)
case.keep(dscale=scale.grad.reshape(4), ddirection=direction.grad.permute(2, 1, 0))

# Spectral norm: u before and after each of three steps, each with the gradient of the weight; then the singular value.
case = Case("spectral_norm")
layer = nn.Linear(5, 3, bias=False)
layer.weight.data = torch.tensor(case.draw.normal(size=(3, 5)))
layer = parametrizations.spectral_norm(layer, n_power_iterations=2)
weight, state = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
inputs, targets = case.draw.normal(size=(4, 5)), case.draw.normal(size=(4, 3))
us, ys, dweights = [], [], []
case.keep(u=state._u, x=inputs, dy=targets, weight=weight.T)
for _ in range(3):
    layer.zero_grad()
    y = layer(torch.tensor(inputs))
    y.backward(torch.tensor(targets))
    us.append(state._u.numpy().copy())
    ys.append(y.detach().numpy())
    dweights.append(weight.grad.T.numpy().copy())
case.keep(us=us, ys=ys, dweights=dweights, norm=torch.linalg.matrix_norm(weight, 2))

for name, equation, shape in (
    ("heads", "btd,dhk->bthk", (6, 2, 3)),
    ("join", "bthk,hkd->btd", (2, 3, 4)),
    ("groups", "btgi,gio->btgo", (2, 3, 5)),
    ("swapped", "bij,oj->boi", (4, 6)),
):
    case = Case(f"einsum_{name}")
    inside = {"d": 6, "h": 2, "k": 3, "g": 2, "i": 3, "j": 6, "b": 2, "t": 4}
    x = case.leaf("x", tuple(inside[letter] for letter in equation.split(",")[0]))
    weight = case.leaf("weight", shape)
    case.backward(torch.einsum(equation, x, weight), x=x, weight=weight)

# Pools. No value is a tie.
CEIL = {
    "max_ceil": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), (2, 6, 8, 2)),
    "max_ceil_outside": (lambda x: F.max_pool2d(x, 2, 3, 1, ceil_mode=True), (2, 6, 5, 2)),
    "max_ceil_dilated": (lambda x: F.max_pool2d(x, 2, 2, 0, (3, 1), ceil_mode=True), (2, 7, 6, 2)),
    "avg_ceil": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), (2, 6, 8, 2)),
    "avg_ceil_inside": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), (2, 6, 8, 2)),
    "avg_divisor": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, True, 7), (2, 6, 8, 2)),
    "avg_line": (lambda x: F.avg_pool1d(x, 4, 3, 0, ceil_mode=True), (2, 9, 3)),
}
for name, (pool, shape) in CEIL.items():
    case = Case(f"pool_{name}")
    x = case.leaf("x", shape)
    case.backward(last(pool(first(x))), x=x)
case = Case("pool_avg_dilated")  # PyTorch has none: a convolution with a kernel of 1 / 4
x = case.leaf("x", (2, 6, 7, 1))
case.backward(last(F.conv2d(first(x), torch.full((1, 1, 2, 2), 0.25), stride=2, dilation=(2, 3))), x=x)

case = Case("embedding_padding")
layer = nn.Embedding(6, 3, padding_idx=2)
ids = case.draw.integers(0, 6, (4, 5))
ids[0, 0] = 2
case.keep(ids=ids, weight=layer.weight)
case.backward(layer(torch.tensor(ids)), weight=layer.weight)

case = Case("lstm_projected")
layer = nn.LSTM(3, 4, num_layers=2, proj_size=2, batch_first=True)
x = case.leaf("x", (2, 5, 3))
y, (h, c) = layer(x)
names = {"weight": "weight_ih", "recurrent_weight": "weight_hh", "bias": "bias_ih", "projection": "weight_hr"}
case.backward(y, x=x)
case.keep(h=h, c=c)
for i in range(2):
    for name, its in names.items():
        tensor = getattr(layer, f"{its}_l{i}")
        value = tensor + getattr(layer, f"bias_hh_l{i}") if name == "bias" else tensor
        case.keep(**{f"{name}_{i}": value.t(), f"d{name}_{i}": tensor.grad.t()})

for name, (kernel, stride, dilation) in {"plain": (3, 1, 1), "strided": (4, 2, 1), "dilated": (3, 1, 2)}.items():
    case = Case(f"causal_{name}")
    layer = nn.Conv1d(3, 4, kernel, stride=stride, dilation=dilation)
    x = case.leaf("x", (2, 8, 3))
    y = last(layer(F.pad(first(x), ((kernel - 1) * dilation, 0))))
    case.backward(y, x=x, bias=layer.bias)
    case.keep(weight=layer.weight.permute(2, 1, 0), dweight=layer.weight.grad.permute(2, 1, 0), bias=layer.bias)

# Attention with keys and values of sequences and widths of their own; PyTorch's weights are before dropout, too.
case = Case("attention_values")
layer = nn.MultiheadAttention(6, 2, kdim=5, vdim=4, batch_first=True)
x, context, value = case.leaf("x", (2, 3, 6)), case.leaf("context", (2, 7, 5)), case.leaf("value", (2, 7, 4))
mask = case.draw.uniform(size=(3, 7)) < 0.7
mask[:, 0] = True
y, weights = layer(x, context, value, attn_mask=torch.tensor(~mask), average_attn_weights=False)
case.backward(y, x=x, context=context, value=value)
case.keep(weights=weights, mask=mask)
matrices = {"query": layer.q_proj_weight, "key": layer.k_proj_weight, "value": layer.v_proj_weight}
for part, bias in zip(matrices, layer.in_proj_bias.chunk(3), strict=True):
    case.keep(
        **{f"{part}_weight": matrices[part].t(), f"{part}_bias": bias, f"d{part}_weight": matrices[part].grad.t()}
    )
case.keep(out_weight=layer.out_proj.weight.t(), out_bias=layer.out_proj.bias)


def rotate_half(x):
    """As in transformers' modeling_llama."""
    one, two = x.chunk(2, -1)
    return torch.cat((-two, one), -1)


# The angles of Llama 3.1: low frequencies are slower by 8, those between are interpolated.
case = Case("rotary_tables")
frequencies = 500000.0 ** -(torch.arange(0, 8, 2) / 8)
waves = 2 * torch.pi / frequencies
between = ((8192 / waves - 1.0) / (4.0 - 1.0)).clip(0, 1)
frequencies = (1 - between) * frequencies / 8.0 + between * frequencies
angles = 97.0 * torch.arange(6)[:, None] * frequencies
angles = torch.cat((angles, angles), -1)
x = case.leaf("x", (2, 5, 3, 8))
cos, sin = angles[1:].cos()[:, None], angles[1:].sin()[:, None]
case.keep(cos=angles.cos(), sin=angles.sin())
case.backward(x * cos + rotate_half(x) * sin, x=x)

path = Path(__file__).parents[2] / "tests/golden/layer_options.npz"
np.savez_compressed(path, **golden)
print(f"{len(golden)} arrays in {path.name}, {path.stat().st_size} bytes, torch {torch.__version__}")
