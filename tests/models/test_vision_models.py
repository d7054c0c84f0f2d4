"""Vision models against PyTorch (tests/golden/vision_models.npz), published sizes, depth, errors.

The golden numbers are float64, made with PyTorch 2.13 by scripts/golden/vision_models.py, from weights
in torchvision's names and layout; `value` and `digest` are the script's.
"""

import functools
import importlib.util
import math
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import ROOT
from helpers.published_weights import entries_of, leaves_of, ours

import nnfunc as nf
from nnfunc.interop.name_table import SAME, axes
from nnfunc.interop.published_config import Family
from nnfunc.interop.registry import FAMILIES

GOLDEN = np.load(ROOT / "tests/golden/vision_models.npz")
SHAPES = {
    "resnet_basic": (3, 16, 16, 3),
    "resnet_bottleneck": (3, 17, 14, 3),
    "cifar_pad": (3, 9, 7, 3),
    "cifar_projection": (3, 8, 8, 3),
    "convnext": (2, 17, 24, 3),
    "lenet_tanh": (2, 28, 28, 1),
    "lenet_relu": (2, 15, 15, 1),
    "cnn_flatten": (3, 9, 9, 2),
    "cnn_global": (3, 8, 5, 2),
}
CASES = {
    "resnet_basic": nf.resnet(5, depths=[2, 3], widths=[4, 6]),
    "resnet_bottleneck": nf.resnet(5, depths=[1, 2], widths=[2, 3], block="bottleneck"),
    "cifar_pad": nf.cifar_resnet(5, depth=8, width=4),
    "cifar_projection": nf.resnet(5, depths=[1, 3], widths=[3, 6], stem="cifar"),
    "convnext": nf.convnext(5, depths=[1, 2], widths=[4, 6], drop_path=0.5),
    "lenet_tanh": nf.lenet(),
    "lenet_relu": nf.lenet(image_size=15, activation="relu", pool="max"),
    "cnn_flatten": nf.cnn(5, in_dim=2, image_size=9, widths=[3, 4], convs=2, hidden=7, norm="batch"),
    "cnn_global": nf.cnn(
        5, in_dim=2, widths=[4], kernel=5, pool="avg", hidden=0, head="global", activation="gelu", norm="layer"
    ),
}


def value(name, shape, phase=0.0):
    """Numbers that look drawn, of the size that their name calls for."""
    i = np.arange(math.prod(shape), dtype=np.float64)
    wave = np.sin(0.37 * i * i + i + zlib.crc32(name.encode()) % 1000 + phase).reshape(shape)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return 1 + 0.4 * wave
    if name.endswith("weight"):
        return wave * 2 / math.sqrt(math.prod(shape[1:]))
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


# Which of ours a name of torchvision's state dict is: by the tables of nnfunc.interop.

CHANGES = {1: SAME, 2: axes(1, 0), 4: axes(2, 3, 1, 0)}


def table(case):
    """The family of a case; LeNet's and CNN's names are our own."""
    if case.startswith(("lenet", "cnn")):
        return Family("own names", nf.cnn, [], [own_row(*item) for item in names_of(case).items()], {})
    return FAMILIES["torchvision-convnext" if case == "convnext" else "torchvision-resnet"]


def own_row(name, shape):
    module, _, leaf = name.rpartition(".")
    ours = {"running_mean": "mean", "running_var": "var", "bias": "bias"}.get(leaf)
    return (
        module,
        module.replace(".", "/"),
        {leaf: (ours or ("scale" if len(shape) == 1 else "weight"), CHANGES[len(shape)])},
    )


def names_of(case):
    found = [line.split(" ", 1) for line in GOLDEN[f"{case}:names"].tolist()]
    return {name: tuple(map(int, re.findall(r"\d+", shape))) for name, shape in found}


@functools.cache
def runs(case):
    """Compiled once a type: y in evaluation, and all that training gives."""
    model = CASES[case]

    @jax.jit
    def run(params, state, x, dy):
        y = model.apply(params, x, state=state)
        ctx = nf.Context(train=True, state=state)
        trained, pull, out = jax.vjp(lambda params, x: model.forward(params, x, ctx), params, x, has_aux=True)
        dparams, dx = pull(dy)
        return {"eval/y": y, "train/y": trained, "train/dx": dx}, {
            **nf.paths.flatten(dparams),
            **nf.paths.flatten(out.state),
        }

    return run


def errors(case, dtype, expected, phase=0.0):
    """The largest error of each result, as a share of its largest expected value."""
    names = names_of(case)
    family, published = table(case), {name: value(name, shape, phase) for name, shape in names.items()}
    params, state = ours(CASES[case], family, published)
    x, dy = value("x", SHAPES[case], phase), value("dy", expected["eval/y"].shape, phase)
    cast = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)
    whole, by_path = runs(case)(*cast((params, state, x, dy)))
    assert {leaf.dtype for leaf in jax.tree.leaves((whole, by_path))} == {jnp.dtype(dtype)}
    got = {k: np.asarray(v) if k.endswith("y") else digest(v) for k, v in whole.items()}
    for entry in entries_of(CASES[case], family):
        arrays = {path: np.asarray(by_path[path]) for path in entry.paths}
        got[f"train/{entry.name}"] = digest(entry.join(arrays))
    assert set(got) == set(expected) - {"names"}
    size = lambda name: max(float(np.abs(expected[name]).max()), 1e-2)
    return {name: float(np.abs(got[name] - expected[name]).max()) / size(name) for name in got}


def golden(case):
    start = f"{case}:"
    return {name[len(start) :]: GOLDEN[name] for name in GOLDEN.files if name.startswith(start)}


@pytest.mark.parametrize("case", CASES)
def test_values_gradients_and_statistics_are_pytorchs_in_float64(case):
    with jax.enable_x64(True):
        found = errors(case, jnp.float64, golden(case))
    assert max(found.values()) < 1e-9, found


QUICK = ("resnet_basic", "convnext", "lenet_relu")


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES])
def test_values_gradients_and_statistics_are_pytorchs_in_float32(case):
    found = errors(case, jnp.float32, golden(case))
    assert max(found.values()) < 1e-3, found


@pytest.mark.parametrize("case", CASES)
def test_live_against_pytorch_with_other_weights(case):
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("golden_vision_models", ROOT / "scripts/golden/vision_models.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with jax.enable_x64(True):
        found = errors(case, jnp.float64, script.results(case, phase=0.7), phase=0.7)
    assert max(found.values()) < 1e-9, found


# Published models: their sizes, and a place for every name of ResNet-18.


PUBLISHED = {  # torchvision's weights' meta data; He et al. 2015, table 6, rounded to 0.27M and 1.7M
    "resnet18": (nf.resnet18(), 11_689_512),
    "resnet34": (nf.resnet34(), 21_797_672),
    "resnet50": (nf.resnet50(), 25_557_032),
    "convnext_tiny": (nf.convnext_tiny(), 28_589_128),
    "convnext_small": (nf.convnext_small(), 50_223_688),
    "cifar_resnet20": (nf.cifar_resnet(depth=20), 269_722),
    "cifar_resnet110": (nf.cifar_resnet(depth=110), 1_727_962),
    "lenet": (nf.lenet(), 61_706),
}


def size_of(model):
    return sum(math.prod(leaf.shape) for leaf in leaves_of(model)[0].values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    model, expected = PUBLISHED[name]
    assert size_of(model) == expected


def torchvision_resnet(depths, widths=(64, 128, 256, 512), expansion=1, classes=1000):
    """Every name of torchvision's ResNet with its shape, but for the counts num_batches_tracked."""
    names = {}

    def norm(name, dim):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            names[f"{name}.{leaf}"] = (dim,)

    names["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    dim = 64
    for s, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        for b in range(depth):
            out = width * expansion
            kernels = [(width, dim, 3), (width, width, 3)]
            if expansion == 4:
                kernels = [(width, dim, 1), (width, width, 3), (out, width, 1)]
            for k, (to, own, side) in enumerate(kernels, 1):
                names[f"layer{s}.{b}.conv{k}.weight"] = (to, own, side, side)
                norm(f"layer{s}.{b}.bn{k}", to)
            if b == 0 and (s > 1 or dim != out):
                names[f"layer{s}.0.downsample.0.weight"] = (out, dim, 1, 1)
                norm(f"layer{s}.0.downsample.1", out)
            dim = out
    return names | {"fc.weight": (classes, dim), "fc.bias": (classes,)}


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_every_name_of_torchvision_has_one_place_of_its_shape(name):
    depths = [2, 2, 2, 2] if name == "resnet18" else [3, 4, 6, 3]
    names = torchvision_resnet(depths, expansion=4 if name == "resnet50" else 1)
    count = {"resnet18": 102, "resnet34": 182, "resnet50": 267}[name]  # of 122, 218, 320 with the counts
    assert len(names) == count
    model = PUBLISHED[name][0]
    entries = entries_of(model, FAMILIES["torchvision-resnet"])
    assert {entry.name: entry.shape for entry in entries} == names
    params, state = leaves_of(model)
    paths = [(entry.paths[0], entry.layer) for entry in entries]
    assert (
        len({*paths})
        == len(paths)
        == sum(leaf.shape[0] if "/rest/" in path else 1 for path, leaf in (params | state).items())
    )


# Depth.


def instructions(model, x, compiled):
    """How many instructions the gradient program of a model has."""

    def loss(params, x):
        y, out = model.forward(params, x, nf.Context(train=True, state=model.init_state()))
        return y.sum(), out

    params = jax.eval_shape(model.init, jax.random.key(0))
    program = jax.jit(jax.grad(loss, has_aux=True)).lower(params, x)
    text = program.compile().as_text() if compiled else program.as_text()
    return text.count(" = ")


BY_DEPTH = {
    "cifar_pad": lambda longer: nf.cifar_resnet(depth=56 if longer else 20, width=2),
    "cifar_projection": lambda longer: nf.cifar_resnet(depth=56 if longer else 20, width=2, shortcut="projection"),
    "convnext": lambda longer: nf.convnext(5, depths=[12, 9] if longer else [3, 2], widths=[2, 3], kernel=3),
}


def same_program(name, compiled):
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    short, long = (instructions(BY_DEPTH[name](longer), x, compiled) for longer in (False, True))
    assert short == long > 100


@pytest.mark.parametrize("name", BY_DEPTH)
def test_the_program_does_not_grow_with_depth(name):
    """The one that XLA is given: what it makes of it is the next test's."""
    same_program(name, compiled=False)
    assert {len(leaves_of(BY_DEPTH[name](longer))[0]) for longer in (False, True)} == {
        {"cifar_pad": 35, "cifar_projection": 41, "convnext": 30}[name]
    }


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize("name", BY_DEPTH)
def test_the_compiled_program_does_not_grow_with_depth(name):
    same_program(name, compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize("last_scale", [1.0, 0.0])
def test_gradients_of_110_layers_have_reasonable_sizes(key, last_scale):
    model = nf.cifar_resnet(depth=110, last_scale=last_scale)
    x, labels = value("x", (8, 16, 16, 3)).astype("f4"), jnp.arange(8)

    def loss(params):
        y, _ = model.forward(params, x, nf.Context(train=True, state=model.init_state()))
        return nf.losses.cross_entropy(y, labels).mean()

    @jax.jit
    def run(key):
        params = model.init(key)
        return (*jax.value_and_grad(loss)(params), params)

    start, gradients, params = run(key)
    assert 1.5 < float(start) < 8  # log 10 is 2.3
    gradients, params = nf.paths.flatten(gradients), nf.paths.flatten(params)
    assert all(np.isfinite(g).all() for g in gradients.values())
    assert 0.1 < math.sqrt(sum(float((g**2).sum()) for g in gradients.values())) < 100
    if last_scale:  # every block learns: no layer's gradient vanishes or explodes beside another's
        norms = [
            np.sqrt((np.asarray(g) ** 2).sum((1, 2, 3, 4)))
            for path, g in gradients.items()
            if re.search(r"rest/body/conv_\d/weight", path)
        ]
        norms = np.concatenate(norms)
        assert norms.shape == (2 * (18 + 17 + 17),)
        assert norms.max() < 100 * norms.min(), (norms.min(), norms.max())


# What the arguments do.


def waves(model):
    """Parameters without drawing them: compiling what draws them takes longer than these tests."""
    shapes = nf.paths.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    made = {path: value(path, leaf.shape).astype(leaf.dtype) for path, leaf in shapes.items()}
    return nf.paths.unflatten(made)


def initial(model, path, key):
    """One initial parameter; jit leaves out the others."""
    return jax.jit(lambda key: nf.paths.flatten(model.init(key))[path])(key)


def test_a_last_scale_of_0_starts_every_block_as_its_shortcut(key):
    model = nf.resnet(4, depths=[1, 2], widths=[2, 4], stem="cifar", shortcut="pad", last_scale=0.0)
    params = waves(model)
    for part in ("stage_1/rest", "stage_2/first", "stage_2/rest"):
        stage, block = part.split("/")
        body = params[stage][block]["body"]
        body["norm_2"] = {name: initial(model, f"{part}/body/norm_2/{name}", key) for name in ("scale", "bias")}
        assert not np.any(body["norm_2"]["scale"])
        assert np.all(initial(model, f"{part}/body/norm_1/scale", key) == 1)
    x = value("x", (2, 6, 6, 3)).astype("f4")
    y, taps = jax.jit(lambda params: nf.capture(model, "stem")(params, x, state=model.init_state()))(params)
    features = np.pad(taps["stem"][:, ::2, ::2], [(0, 0)] * 3 + [(0, 2)]).mean((1, 2))
    expected = features @ params["head"]["weight"] + params["head"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)


def test_resnet_takes_a_norm_of_the_users(key):
    norm = lambda dim: nf.group_norm(2, dim, spatial=2)
    model = nf.resnet(3, depths=[1, 2], widths=[2, 4], stem="cifar", norm=norm, last_scale=0.5)
    assert model.init_state() == {}
    assert np.all(initial(model, "stage_2/rest/body/norm_2/scale", key) == 0.5)
    assert jax.eval_shape(model.apply, waves(model), jnp.ones((5, 8, 8, 3))).shape == (5, 3)
    plain = nf.resnet(3, depths=[1], widths=[2], norm=lambda dim: lambda x: x, last_scale=0.5)
    assert "norm" not in waves(plain)["stem"]


def test_drop_path_rises_in_a_line_to_the_last_block(key):
    from nnfunc.models.convnext import rising_drop_path

    x = jnp.ones((4000, 1))
    drop = rising_drop_path(0.6, 4)
    ctx = nf.Context(key=key)
    shares = [float((drop.forward({}, (x, jnp.int32(i)), ctx)[0] == 0).mean()) for i in range(4)]
    np.testing.assert_allclose(shares, [0.0, 0.2, 0.4, 0.6], atol=0.03)


def test_drop_path_counts_the_blocks_of_all_stages(key):
    """Rates 0, 0.5 and 1 for three blocks in two stages."""
    model = nf.convnext(3, depths=[1, 2], widths=[2, 4], patch=1, kernel=3, drop_path=1.0, layer_scale=1.0)
    params = waves(model)
    x = value("x", (64, 4, 4, 3)).astype("f4")
    captured = nf.capture(model, ["stem", "stage_1", "stage_2", "stage_2/down"])
    taps = jax.jit(lambda params: captured(params, x, key=key)[1])(params)
    moved = lambda y, x: np.abs(np.asarray(y) - np.asarray(x)).max((1, 2, 3)) > 1e-3
    assert moved(taps["stage_1"], taps["stem"]).all()  # the first block, of rate 0
    share = moved(taps["stage_2"], taps["stage_2/down"]).mean()
    assert 0.35 < share < 0.65  # by the second block, of rate 0.5, and not by the third, of rate 1


def test_cnn_is_sized_by_hidden_to_any_number_of_parameters():
    for budget in (30_000, 100_000, 400_000):
        empty, one = (size_of(nf.cnn(10, widths=[8, 16], hidden=h, norm="batch")) for h in (1, 2))
        hidden = 1 + round((budget - empty) / (one - empty))
        got = size_of(nf.cnn(10, widths=[8, 16], hidden=hidden, norm="batch"))
        assert abs(got / budget - 1) < 0.03


def test_configs_can_name_every_vision_model():
    pytest.importorskip("pydantic")
    from nnfunc.config.schema import factories, get_schema

    names = {
        "lenet",
        "cnn",
        "resnet",
        "resnet18",
        "resnet34",
        "resnet50",
        "cifar_resnet",
        "convnext",
        "convnext_tiny",
        "convnext_small",
    }
    assert names <= set(factories("model"))
    assert get_schema("model", "resnet").python_only == ("norm",)
    assert all(get_schema("model", name).python_only == () for name in names - {"resnet"})


# Errors: where, what should be, what came, what to do.

IMAGES = jnp.ones((2, 28, 28, 1))
SMALL = nf.cnn(10, widths=[4, 4], head="global")
WRONG_INPUT = {
    "lenet_size": (
        nf.lenet(),
        jnp.ones((2, 32, 32, 1)),
        ValueError,
        r"^lenet: images should be 28 x 28 \(image_size\), got shape \(2, 32, 32, 1\)\. Make it with image_size=32",
    ),
    "lenet_channels": (
        nf.lenet(),
        jnp.ones((2, 28, 28, 3)),
        ValueError,
        r"^conv_1/conv: the last axis of x should be 1 \(in_dim\), got shape \(2, 28, 28, 3\)",
    ),
    "lenet_axes": (
        nf.lenet(),
        jnp.ones((28, 28)),
        ValueError,
        r"^lenet: x should be images \[\.\.\., height, width, channels\], got .*\(28, 28\).*x\[\.\.\., None\]",
    ),
    "lenet_no_axis": (
        nf.lenet(),
        jnp.ones((2, 28, 28)),
        ValueError,
        r"^lenet: images should be 28 x 28 \(image_size\), got shape \(2, 28, 28\)",
    ),
    "lenet_integers": (
        nf.lenet(),
        IMAGES.astype(jnp.uint8),
        TypeError,
        r"^lenet: x should hold floats, got uint8\. Convert it first",
    ),
    "lenet_list": (nf.lenet(), [1.0], TypeError, r"^lenet: x should be an array of floats, got \[.* \(list\)"),
    "cnn_oblong": (
        nf.cnn(10),
        jnp.ones((2, 28, 20, 1)),
        ValueError,
        r"^cnn: images should be 28 x 28 .* got shape \(2, 28, 20, 1\)\. Resize them",
    ),
    "cnn_small": (
        SMALL,
        jnp.ones((2, 9, 3, 1)),
        ValueError,
        r"^cnn: images should be at least 4 x 4 for its stages, got shape \(2, 9, 3, 1\)\. Use fewer stages",
    ),
    "resnet_channels": (
        nf.cifar_resnet(depth=8),
        IMAGES,
        ValueError,
        r"^stem/conv: the last axis of x should be 3 \(in_dim\), got shape \(2, 28, 28, 1\)",
    ),
    "resnet_axes": (nf.cifar_resnet(depth=8), jnp.ones((28, 28)), ValueError, r"^resnet: x should be images"),
    "convnext_small": (
        nf.convnext(10, depths=[1, 1, 1], widths=[2, 2, 2]),
        jnp.ones((2, 15, 32, 3)),
        ValueError,
        r"^convnext: images should be at least 16 x 16 for its stages, got shape \(2, 15, 32, 3\)",
    ),
    "convnext_channels": (
        nf.convnext(10, depths=[1], widths=[2]),
        IMAGES,
        ValueError,
        r"^stem/patches: conv: the last axis of x should be 3 \(in_dim\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_INPUT)
def test_wrong_images_are_named(case):
    model, x, kind, words = WRONG_INPUT[case]
    params = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(kind, match=words):
        jax.eval_shape(lambda params: model.apply(params, x, state=model.init_state()), params)


WRONG_ARGUMENTS = {
    "lenet_small": (lambda: nf.lenet(image_size=11), ValueError, r"^lenet: image_size should be at least 12, got 11"),
    "lenet_pool": (
        lambda: nf.lenet(pool="mean"),
        ValueError,
        r"^lenet: pool should be one of 'avg', 'max', got 'mean'",
    ),
    "cnn_small": (
        lambda: nf.cnn(10, image_size=28, widths=[4] * 5),
        ValueError,
        r"^cnn: image_size should be at least 32 for these widths \(5 stages.*got 28\. Give fewer widths",
    ),
    "cnn_widths": (
        lambda: nf.cnn(10, widths=32),
        ValueError,
        r"^cnn: widths should be a list of integers, one for each stage, got 32 \(int\)",
    ),
    "cnn_no_widths": (lambda: nf.cnn(10, widths=[]), ValueError, r"^cnn: widths should be a list"),
    "cnn_width": (lambda: nf.cnn(10, widths=[4, 0]), ValueError, r"^cnn: widths\[1\] should be at least 1, got 0"),
    "cnn_norm": (lambda: nf.cnn(10, norm="bath"), ValueError, r"^cnn: norm should be one of .* did you mean 'batch'"),
    "cnn_head": (lambda: nf.cnn(10, head="mean"), ValueError, r"^cnn: head should be one of 'flatten', 'global'"),
    "cnn_activation": (lambda: nf.cnn(10, activation="rellu"), ValueError, r"did you mean 'relu'"),
    "cnn_dropout": (lambda: nf.cnn(10, dropout=1.5), ValueError, r"rate should be in \[0, 1\], got 1\.5"),
    "depth_21": (
        lambda: nf.cifar_resnet(depth=21),
        ValueError,
        r"^cifar_resnet: depth should be 6 n \+ 2, at least 8, got 21\. The nearest: 20, 26\.",
    ),
    "depth_2": (lambda: nf.cifar_resnet(depth=2), ValueError, r"got 2\. The nearest: 8\."),
    "lengths": (
        lambda: nf.resnet(10, depths=[1, 1], widths=[2]),
        ValueError,
        r"^resnet: depths and widths should have the same length, got \[1, 1\] and \[2\]",
    ),
    "block": (
        lambda: nf.resnet(10, depths=[1], widths=[2], block="bottle"),
        ValueError,
        r"^resnet: block should be one of .* did you mean 'bottleneck'",
    ),
    "stem": (
        lambda: nf.resnet(10, depths=[1], widths=[2], stem="small"),
        ValueError,
        r"^resnet: stem should be one of 'imagenet', 'cifar'",
    ),
    "momentum": (lambda: nf.resnet18(momentum=2.0), ValueError, r"momentum should be in \[0, 1\], got 2\.0"),
    "kernel": (
        lambda: nf.convnext(10, kernel=6),
        ValueError,
        r"^convnext: kernel should be odd, to keep the size, got 6",
    ),
    "drop_path": (
        lambda: nf.convnext(10, drop_path=1.5),
        ValueError,
        r"^convnext: drop_path should be in \[0, 1\], got 1\.5",
    ),
    "classes": (lambda: nf.convnext_tiny(0), ValueError, r"^convnext: classes should be at least 1, got 0"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_wrong_arguments_are_named(case):
    make, kind, words = WRONG_ARGUMENTS[case]
    with pytest.raises(kind, match=words):
        make()


def test_a_shortcut_without_parameters_does_not_narrow():
    model = nf.resnet(3, depths=[1, 1], widths=[4, 2], stem="cifar", shortcut="pad")
    params = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"'pad' should not reduce the channels, got 4 to 2 channels.*projection"):
        jax.eval_shape(functools.partial(model.apply, state=model.init_state()), params, jnp.ones((2, 8, 8, 3)))
