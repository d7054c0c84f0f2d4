"""Golden values and gradients of convolution and pooling, from PyTorch in float64, channels last.

python scripts/golden/vision.py        (needs torch; renews tests/golden/vision.npz)

Each case holds x, y, dy (drawn at random), dx and, where there are parameters, weight, bias and the
gradients of sum(y * dy). "same" with a stride, which PyTorch has not, is padded here as TensorFlow
does. What is drawn is a multiple of 1/64, and so exact in float32.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
draw = np.random.default_rng(0)
golden: dict[str, np.ndarray] = {}


def usual(*shape):
    """Normal numbers, rounded."""
    return np.round(draw.normal(size=shape) * 64) / 64


def first(array):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(array, -1, 1)), requires_grad=True)


def last(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def case(name, function, x, weight=None, bias=None, order=()):
    """function: (x, weight, bias) of torch -> y. order: of the axes of torch's weight in ours."""
    inside = first(x)
    params = [torch.tensor(p, requires_grad=True) for p in (weight, bias) if p is not None]
    y = function(inside, *params)
    dy = usual(*last(y).shape)
    y.backward(torch.tensor(np.moveaxis(dy, -1, 1).copy()))
    values = {"x": x, "y": last(y), "dy": dy, "dx": last(inside.grad)}
    for param, key in zip(params, ("weight", "bias"), strict=False):
        axes = order if key == "weight" else (0,)
        values |= {key: param.detach().numpy().transpose(axes)}
        values |= {f"d{key}": param.grad.numpy().transpose(axes)}
    golden.update({f"{name}/{key}": np.asarray(value) for key, value in values.items()})


CONV = (F.conv1d, F.conv2d, F.conv3d)
SPREAD = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def conv(name, shape, out, kernel, *, padding=0, mode="constant", bias=True, x=None, **options):
    """padding: a number, "same", or torch's own list for F.pad, last axis first."""
    dims, groups = len(shape) - 2, options.get("groups", 1)
    x = usual(*shape) if x is None else x
    if padding == "same":
        padding = []
        strides = options.get("stride", (1,) * dims)
        dilations = options.get("dilation", (1,) * dims)
        for n, k, s, d in reversed(list(zip(shape[1:], kernel, strides, dilations, strict=False))):
            total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            padding += [total // 2, total - total // 2]
    elif isinstance(padding, int):
        padding = [padding] * (2 * dims)

    def function(x, weight, bias=None):
        return CONV[dims - 1](F.pad(x, padding, mode), weight, bias, **options)

    weight = usual(out, shape[-1] // groups, *kernel)
    order = (*range(2, dims + 2), 1, 0)
    case(name, function, x, weight, usual(out) if bias else None, order)


def spread(name, shape, out, kernel, **options):
    dims, groups = len(shape) - 2, options.get("groups", 1)
    weight = usual(shape[-1], out // groups, *kernel)
    order = (*range(2, dims + 2), 0, 1)
    function = lambda *args: SPREAD[dims - 1](*args, **options)
    case(name, function, usual(*shape), weight, usual(out), order)


def ties(*shape):
    """Few values, many of them 0, as after relu."""
    return np.maximum(draw.integers(-2, 3, size=shape), 0).astype(float)


# Convolution: name, shape of x, channels out, kernel
conv("conv/plain", (2, 5, 6, 3), 4, (3, 3), padding="same")
conv("conv/patches", (2, 5, 6, 1), 4, (3, 3), padding="same")
conv("conv/strided_same", (2, 6, 7, 4), 5, (3, 4), padding="same", stride=(2, 3))
conv("conv/pairs", (2, 6, 5, 4), 3, (3, 3), padding=[2, 0, 0, 1], stride=(2, 1))
conv("conv/dilated", (2, 7, 8, 4), 3, (3, 2), padding="same", dilation=(2, 3))
conv("conv/valid", (2, 6, 7, 4), 3, (3, 3), stride=(3, 2), bias=False)
conv("conv/circular", (2, 5, 4, 4), 3, (3, 4), padding=[1, 2, 1, 1], mode="circular")
conv("conv/groups", (2, 5, 6, 6), 4, (3, 3), padding=1, groups=2)
conv("conv/pointwise", (2, 5, 6, 4), 3, (1, 1), stride=(2, 1))
conv("conv/blocks", (2, 6, 7, 2), 3, (3, 2), stride=(3, 2))
conv("conv/whole", (2, 4, 5, 3), 4, (4, 5))
conv("conv/one_place", (2, 1, 1, 9), 4, (3, 3), padding="same")
conv("conv/line", (2, 9, 9), 3, (4,), padding=2, stride=(2,), dilation=(2,))
conv("conv/volume", (2, 3, 4, 5, 2), 3, (2, 3, 3), padding="same", stride=(1, 2, 1))
conv("conv/volume_direct", (1, 3, 4, 3, 20), 2, (3, 3, 3), padding="same")
conv("conv/offset", (2, 5, 6, 4), 3, (3, 3), padding="same", x=2.0**12 + draw.integers(-8, 9, (2, 5, 6, 4)))
conv("conv/zeros", (2, 5, 6, 4), 3, (3, 3), padding="same", x=np.zeros((2, 5, 6, 4)))
conv("depthwise/plain", (3, 5, 6, 4), 4, (3, 3), padding="same", groups=4)
conv("depthwise/multiplied", (2, 6, 7, 3), 6, (3, 2), padding="same", groups=3, stride=(2, 3), dilation=(2, 1))
conv("depthwise/long", (2, 70, 2), 2, (5,), padding="same", groups=2)
conv("depthwise/volume", (2, 3, 4, 3, 2), 2, (2, 3, 2), padding=1, groups=2)
# Transposed
spread("spread/plain", (2, 4, 3, 3), 2, (3, 3))
spread("spread/strided", (2, 4, 3, 3), 2, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2))
spread("spread/groups", (2, 3, 4, 4), 6, (3, 3), stride=2, padding=1, output_padding=1, groups=2, dilation=2)
spread("spread/gaps", (2, 3, 4, 2), 3, (2, 2), stride=3)
spread("spread/line", (2, 5, 4), 3, (4,), stride=2, padding=1)
spread("spread/volume", (1, 2, 3, 2, 2), 2, (2, 3, 2), stride=2, padding=(0, 1, 0), groups=2)
# Pooling
for kind, make in (("usual", usual), ("ties", ties)):
    case(f"max/apart/{kind}", lambda x: F.max_pool2d(x, 2), make(2, 5, 6, 2))
    case(f"max/over/{kind}", lambda x: F.max_pool2d(x, 3, 2, 1), make(2, 6, 7, 2))
    case(f"max/dilated/{kind}", lambda x: F.max_pool2d(x, (2, 3), (1, 2), (0, 1), (2, 1)), make(2, 5, 6, 2))
    case(f"max/line/{kind}", lambda x: F.max_pool1d(x, 3, 2), make(2, 8, 3))
    case(f"max/volume/{kind}", lambda x: F.max_pool3d(x, 2, 1), make(1, 3, 3, 4, 2))
    case(f"max/adaptive/{kind}", lambda x: F.adaptive_max_pool2d(x, (3, 2)), make(2, 7, 5, 2))
    case(f"max/global/{kind}", lambda x: F.adaptive_max_pool2d(x, 1)[..., 0, 0], make(2, 3, 4, 2))
case("avg/apart", lambda x: F.avg_pool2d(x, 2), usual(2, 5, 6, 2))
case("avg/padded", lambda x: F.avg_pool2d(x, 3, 2, 1), usual(2, 6, 7, 2))
case("avg/counted", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), usual(2, 6, 7, 2))
case("avg/volume", lambda x: F.avg_pool3d(x, (2, 1, 3), 1), usual(1, 3, 3, 4, 2))
case("avg/adaptive", lambda x: F.adaptive_avg_pool2d(x, (3, 4)), usual(2, 7, 5, 2))
case("avg/adaptive_even", lambda x: F.adaptive_avg_pool2d(x, (2, 5)), usual(2, 6, 5, 2))
case("avg/adaptive_up", lambda x: F.adaptive_avg_pool2d(x, (3, 5)), usual(2, 2, 3, 2))
case("avg/adaptive_line", lambda x: F.adaptive_avg_pool1d(x, 4), usual(2, 11, 2))
case("avg/global", lambda x: F.adaptive_avg_pool2d(x, 1)[..., 0, 0], usual(2, 3, 4, 2))
case("avg/offset", lambda x: F.avg_pool2d(x, 2), 2.0**14 + draw.integers(-8, 9, (2, 4, 4, 2)))
case("lp/two", lambda x: F.lp_pool2d(x, 2.0, 2), usual(2, 5, 6, 2))
case("lp/three", lambda x: F.lp_pool2d(x, 3.0, 3, 2), np.abs(usual(2, 7, 7, 2)))
case("lp/line", lambda x: F.lp_pool1d(x, 1.5, 4, 2), np.abs(usual(2, 9, 2)))

path = Path(__file__).parents[2] / "tests/golden/vision.npz"
np.savez_compressed(path, **golden)
print(f"{len(golden)} arrays in {path.name}, {path.stat().st_size} bytes, torch {torch.__version__}")
