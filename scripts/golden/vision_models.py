"""Golden values and gradients of vision models, from PyTorch in float64.

python scripts/golden/vision_models.py      (needs torch; renews tests/golden/vision_models.npz)

The residual networks and ConvNeXt have the architecture and the state-dict names of torchvision's
resnet.py and convnext.py, written out here because torchvision need not be installed; the CIFAR form is
that of He et al. 2015, section 4.2. LeNet and the plain CNN have the names of nnfunc's paths.

Inputs, weights, buffers and the cotangent dy come from `value`, a formula of their name and shape that
the test repeats, so that only results are stored: y in evaluation and training mode, and for training mode
the gradients of sum(y * dy) by x and every parameter, and the running statistics after the one step;
large arrays as `digest`.
"""

import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn


def value(name, shape, phase=0.0):
    """Numbers that look drawn, of the size that their name calls for."""
    i = np.arange(math.prod(shape), dtype=np.float64)
    wave = np.sin(0.37 * i * i + i + zlib.crc32(name.encode()) % 1000 + phase).reshape(shape)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return 1 + 0.4 * wave
    if name.endswith("weight"):
        return wave * 2 / math.sqrt(math.prod(shape[1:]))  # a variance of 2 / fan_in
    if name.endswith("layer_scale"):
        return 0.5 + 0.3 * wave
    return wave if name in ("x", "dy") else 0.2 * wave


def digest(array):
    """The array, or its products with eight waves when it has more than 300 numbers."""
    flat = np.asarray(array, np.float64).ravel()
    if flat.size <= 300:
        return flat
    i = np.arange(flat.size, dtype=np.float64)
    return np.array([np.sum(flat * np.cos(k * i * i + i)) for k in range(1, 9)])


class Basic(nn.Module):
    expansion = 1

    def __init__(self, inplanes, planes, stride, option):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(inplanes, planes, stride, option)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inplanes, planes, stride, option):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)  # v1.5
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = shortcut(inplanes, 4 * planes, stride, option)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + self.downsample(x))


class OptionA(nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def forward(self, x):
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra))


def shortcut(inplanes, outplanes, stride, option):
    if stride == 1 and inplanes == outplanes:
        return nn.Identity()
    if option == "pad":
        return OptionA(outplanes - inplanes)
    conv = nn.Conv2d(inplanes, outplanes, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outplanes))


class ResNet(nn.Module):
    def __init__(self, block, depths, widths, classes, stem="imagenet", option="projection"):
        super().__init__()
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(3, widths[0], 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        planes = widths[0]
        self.layers = len(depths)
        for s, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for b in range(depth):
                stride = 2 if s > 0 and b == 0 else 1
                blocks.append(block(planes, width, stride, option))
                planes = width * block.expansion
            setattr(self, f"layer{s + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(planes, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for s in range(self.layers):
            x = getattr(self, f"layer{s + 1}")(x)
        return self.fc(x.mean((2, 3)))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Permute(nn.Module):
    def __init__(self, *dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return x.permute(self.dims)


class CNBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, 7, padding=3, groups=dim),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(dim, eps=1e-6),
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Linear(4 * dim, dim),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.ones(dim, 1, 1) * 1e-6)

    def forward(self, x):
        return x + self.layer_scale * self.block(x)


class ConvNeXt(nn.Module):
    def __init__(self, depths, widths, classes, patch=4):
        super().__init__()
        norm = lambda dim: LayerNorm2d(dim, eps=1e-6)
        features = [nn.Sequential(nn.Conv2d(3, widths[0], patch, patch), norm(widths[0]))]
        for s, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if s:
                before = widths[s - 1]
                features.append(nn.Sequential(norm(before), nn.Conv2d(before, width, 2, 2)))
            features.append(nn.Sequential(*(CNBlock(width) for _ in range(depth))))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(norm(widths[-1]), nn.Flatten(1), nn.Linear(widths[-1], classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3), keepdim=True))


class Tree(nn.Module):
    """Modules under dotted names, run by a function."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.run(self, x)


def last(x):
    """Flattened with channels last, as [height, width, channels]."""
    return x.permute(0, 2, 3, 1).flatten(1)


def lenet(image_size, act, pool):
    def run(net, x):
        x = pool(act(net.conv_1.conv(x)))
        x = pool(act(net.conv_2.conv(x)))
        x = act(net.hidden_1.linear(last(x)))
        return net.head(act(net.hidden_2.linear(x)))

    side = (image_size // 2 - 4) // 2
    one = lambda **modules: Tree(None, **modules)
    return Tree(
        run,
        conv_1=one(conv=nn.Conv2d(1, 6, 5, padding=2)),
        conv_2=one(conv=nn.Conv2d(6, 16, 5)),
        hidden_1=one(linear=nn.Linear(16 * side**2, 120)),
        hidden_2=one(linear=nn.Linear(120, 84)),
        head=nn.Linear(84, 10),
    )


def cnn_flatten():
    """Two stages of two convolutions with batch norm, max pooling, a hidden layer; images 9 x 9."""

    def stage(before, width):
        def run(net, x):
            x = torch.relu(net.norm_1(net.conv_1(x)))
            x = torch.relu(net.norm_2(net.conv_2(x)))
            return nn.functional.max_pool2d(x, 2)

        conv = lambda before: nn.Conv2d(before, width, 3, padding=1, bias=False)
        return Tree(
            run, conv_1=conv(before), norm_1=nn.BatchNorm2d(width), conv_2=conv(width), norm_2=nn.BatchNorm2d(width)
        )

    def run(net, x):
        x = last(net.stage_2(net.stage_1(x)))
        return net.head(torch.relu(net.hidden.linear(x)))

    hidden = Tree(None, linear=nn.Linear(2 * 2 * 4, 7))
    return Tree(run, stage_1=stage(2, 3), stage_2=stage(3, 4), hidden=hidden, head=nn.Linear(7, 5))


def cnn_global():
    """One stage with layer norm, gelu, average pooling, the mean over places, no hidden layer."""

    def run(net, x):
        x = nn.functional.gelu(net.stage_1.norm_1(net.stage_1.conv_1(x)))
        return net.head(nn.functional.avg_pool2d(x, 2).mean((2, 3)))

    stage_1 = Tree(None, conv_1=nn.Conv2d(2, 4, 5, padding=2), norm_1=LayerNorm2d(4))
    return Tree(run, stage_1=stage_1, head=nn.Linear(4, 5))


CASES = {  # name: (the model, the shape of x, channels last)
    "resnet_basic": (lambda: ResNet(Basic, [2, 3], [4, 6], 5), (3, 16, 16, 3)),
    "resnet_bottleneck": (lambda: ResNet(Bottleneck, [1, 2], [2, 3], 5), (3, 17, 14, 3)),
    "cifar_pad": (lambda: ResNet(Basic, [1] * 3, [4, 8, 16], 5, "cifar", "pad"), (3, 9, 7, 3)),
    "cifar_projection": (lambda: ResNet(Basic, [1, 3], [3, 6], 5, "cifar"), (3, 8, 8, 3)),
    "convnext": (lambda: ConvNeXt([1, 2], [4, 6], 5), (2, 17, 24, 3)),
    "lenet_tanh": (lambda: lenet(28, torch.tanh, nn.AvgPool2d(2)), (2, 28, 28, 1)),
    "lenet_relu": (lambda: lenet(15, torch.relu, nn.MaxPool2d(2)), (2, 15, 15, 1)),
    "cnn_flatten": (cnn_flatten, (3, 9, 9, 2)),
    "cnn_global": (cnn_global, (3, 8, 5, 2)),
}


def results(case, phase=0.0):
    """What is compared, by name, from the formula's weights and inputs."""
    make, shape = CASES[case]
    torch.set_default_dtype(torch.float64)
    try:
        model = make()
    finally:
        torch.set_default_dtype(torch.float32)
    state = model.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    made = {name: torch.tensor(value(name, state[name].shape, phase)) for name in names}
    model.load_state_dict(state | made)
    x = torch.tensor(value("x", shape, phase)).permute(0, 3, 1, 2).requires_grad_()
    found = {"names": np.array([f"{name} {tuple(state[name].shape)}" for name in names])}
    model.eval()
    y = model(x)
    found |= {"eval/y": y.detach().numpy()}
    model.train()
    y, dy = model(x), torch.tensor(value("dy", y.shape, phase))
    parameters = dict(model.named_parameters())
    dx, *gradients = torch.autograd.grad((y * dy).sum(), [x, *parameters.values()])
    found |= {"train/y": y.detach().numpy(), "train/dx": digest(dx.permute(0, 2, 3, 1))}
    found |= {f"train/{n}": digest(d) for n, d in zip(parameters, gradients, strict=True)}
    return found | {f"train/{n}": digest(b) for n, b in model.named_buffers() if "running" in n}


if __name__ == "__main__":
    golden = {f"{case}:{name}": array for case in CASES for name, array in results(case).items()}
    path = Path(__file__).parents[2] / "tests/golden/vision_models.npz"
    np.savez_compressed(path, **golden)
    print(f"{len(golden)} arrays, {path.stat().st_size} bytes, torch {torch.__version__}")
