"""Golden values and gradients of layers, from PyTorch in float64, with channels moved to the end.

python scripts/golden/layers.py        (needs torch; renews tests/golden/layers.npz)

Each case holds x, y, dy (drawn at random), dx and, for each parameter p, p and dp: the gradients of
sum(y * dy). The inputs of the norms that begin with `nasty` are exact in float32.
"""

from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
draw = np.random.default_rng(0)
golden: dict[str, np.ndarray] = {}


def keep(case, values):
    golden.update({f"{case}/{name}": np.asarray(value) for name, value in values.items()})


def back(tensor, order):
    """An array with its axes moved into our order."""
    return tensor.detach().numpy().transpose(order)


def last_to_second(ndim):
    """The orders of axes [batch, ..., channels] -> [batch, channels, ...] and of the way back."""
    there = (0, ndim - 1, *range(1, ndim - 1))
    return there, np.argsort(there)


def leaf(array):
    return torch.tensor(array, requires_grad=True)


def run(case, layer, x, params, *, channels_second=False):
    """y and gradients of a layer; params: our name -> (torch's name, the order of its axes)."""
    there, here = last_to_second(x.ndim) if channels_second else ((range(x.ndim),) * 2)
    for name, (its, _) in params.items():
        own = getattr(layer, its)
        value = draw.normal(size=own.shape) + (1.0 if name == "scale" else 0.0)
        own.data = torch.tensor(value)
    inside = leaf(x.transpose(there))
    y = layer(inside)
    dy = draw.normal(size=back(y, here).shape)
    layer.zero_grad()
    y.backward(torch.tensor(dy.transpose(there)))
    values = {"x": x, "y": back(y, here), "dy": dy, "dx": back(inside.grad, here)}
    for name, (its, order) in params.items():
        values |= {name: back(getattr(layer, its), order), f"d{name}": back(getattr(layer, its).grad, order)}
    keep(case, values)


class TwoPassGroupNorm(torch.nn.GroupNorm):
    """PyTorch's own computes E[x^2] - E[x]^2: at mean 1e4 even its float64 result has six digits."""

    def forward(self, x):
        grouped = x.reshape(x.shape[0], self.num_groups, -1)
        var, mean = torch.var_mean(grouped, dim=-1, correction=0, keepdim=True)
        normal = ((grouped - mean) / torch.sqrt(var + self.eps)).reshape(x.shape)
        wide = (1, -1) + (1,) * (x.ndim - 2)
        return normal * self.weight.reshape(wide) + self.bias.reshape(wide)


BOTH = {"scale": ("weight", (0,)), "bias": ("bias", (0,))}
nn = torch.nn

run("linear", nn.Linear(5, 3), draw.normal(size=(2, 4, 5)), {"weight": ("weight", (1, 0)), "bias": ("bias", (0,))})
run("prelu_one", nn.PReLU(), draw.normal(size=(4, 3)), {"slope": ("weight", (0,))})
run("prelu", nn.PReLU(3), draw.normal(size=(4, 3)), {"slope": ("weight", (0,))})

bilinear = nn.Bilinear(3, 4, 2)
left, right = leaf(draw.normal(size=(2, 5, 3))), leaf(draw.normal(size=(2, 5, 4)))
y = bilinear(left, right)
dy = draw.normal(size=y.shape)
y.backward(torch.tensor(dy))
keep(
    "bilinear",
    {
        "left": left.detach(),
        "right": right.detach(),
        "y": y.detach(),
        "dy": dy,
        "dleft": left.grad,
        "dright": right.grad,
        "weight": back(bilinear.weight, (1, 2, 0)),
        "bias": bilinear.bias.detach(),
        "dweight": back(bilinear.weight.grad, (1, 2, 0)),
        "dbias": bilinear.bias.grad,
    },
)

table = nn.Embedding(6, 3)
ids = torch.tensor([[0, 5, 2], [2, 2, 1]])
y = table(ids)
dy = draw.normal(size=y.shape)
y.backward(torch.tensor(dy))
keep(
    "embedding", {"ids": ids, "y": y.detach(), "dy": dy, "weight": table.weight.detach(), "dweight": table.weight.grad}
)


def nasty(kind, shape):
    """Inputs that norms get wrong when written carelessly."""
    noise = draw.normal(size=shape)
    made = {
        "usual": noise,
        "nasty_mean": 1e4 + 0.1 * noise,  # E[x^2] - E[x]^2 has no digit left in float32
        "nasty_constant": np.full(shape, 3.0),
        "nasty_large": 1e15 * noise,
        "nasty_small": 1e-4 * noise,  # eps counts as much as the variance
    }
    return made[kind].astype(np.float32).astype(np.float64)


KINDS = ["usual", "nasty_mean", "nasty_constant", "nasty_large", "nasty_small"]
for kind in KINDS:
    shape = (3, 2, 3, 6)
    run(f"layer_norm/{kind}", nn.LayerNorm(6), nasty(kind, shape), BOTH)
    run(f"rms_norm/{kind}", nn.RMSNorm(6, eps=1e-6), nasty(kind, shape), {"scale": BOTH["scale"]})
    group_norm = nn.GroupNorm(2, 6) if kind == "usual" else TwoPassGroupNorm(2, 6)
    run(f"group_norm/{kind}", group_norm, nasty(kind, shape), BOTH, channels_second=True)
    run(f"instance_norm/{kind}", nn.InstanceNorm2d(6, affine=True), nasty(kind, shape), BOTH, channels_second=True)
    run(f"batch_norm/{kind}", nn.BatchNorm2d(6), nasty(kind, shape), BOTH, channels_second=True)

# Batch norm over five training steps, then in inference. Momentum None is the plain mean over batches.
steps = 2.0 + 3.0 * draw.normal(size=(5, 7, 2, 3))
there, here = last_to_second(3)
for name, momentum in {"pytorch": 0.1, "fast": 0.6, "paper": None}.items():
    layer = nn.BatchNorm1d(3, momentum=momentum)
    layer.weight.data, layer.bias.data = (torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, 1.0, -1.0]))
    values = {"x": steps, "scale": layer.weight.detach(), "bias": layer.bias.detach()}
    ys, means, variances = [], [], []
    for x in steps:
        ys.append(back(layer(torch.tensor(x.transpose(there))), here))
        means.append(layer.running_mean.numpy().copy())
        variances.append(layer.running_var.numpy().copy())
    layer.eval()
    x = leaf(steps[0].transpose(there))
    y = layer(x)
    dy = draw.normal(size=steps[0].shape)
    y.backward(torch.tensor(dy.transpose(there)))
    values |= {"y": ys, "mean": means, "var": variances, "y_eval": back(y, here), "dy": dy}
    values |= {"dx_eval": back(x.grad, here), "dscale_eval": layer.weight.grad}
    keep(f"batch_norm_steps/{name}", values)

path = Path(__file__).parents[2] / "tests/golden/layers.npz"
np.savez_compressed(path, **golden)
print(f"{len(golden)} arrays in {path.name}, {path.stat().st_size} bytes, torch {torch.__version__}")
