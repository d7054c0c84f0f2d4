"""Convolution against PyTorch's values and gradients (tests/golden/vision.npz), and its forms.

The golden numbers are float64, made with PyTorch 2.13 by scripts/golden/vision.py.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import GOLDEN as GOLDEN_FILES
from jax import lax

import nnfunc as nf
from nnfunc.layers.conv import transpose
from nnfunc.layers.conv.algorithms import FORMS, _possible_forms
from nnfunc.layers.conv.channels_last import ConvPlan

GOLDEN = np.load(GOLDEN_FILES / "vision.npz")
conv, depthwise, spread = nf.conv, nf.depthwise_conv, nf.conv_transpose
CASES = {
    "conv/plain": conv(3, 4, 3),
    "conv/patches": conv(1, 4, 3),
    "conv/strided_same": conv(4, 5, (3, 4), stride=(2, 3)),
    "conv/pairs": conv(4, 3, 3, padding=[[0, 1], [2, 0]], stride=[2, 1]),
    "conv/dilated": conv(4, 3, (3, 2), dilation=(2, 3)),
    "conv/valid": conv(4, 3, 3, padding="valid", stride=(3, 2), bias=False),
    "conv/circular": conv(4, 3, (3, 4), padding="circular"),
    "conv/groups": conv(6, 4, 3, padding=1, groups=2),
    "conv/pointwise": conv(4, 3, 1, stride=(2, 1)),
    "conv/blocks": conv(2, 3, (3, 2), stride=(3, 2), padding="valid"),
    "conv/whole": conv(3, 4, (4, 5), padding="valid"),
    "conv/one_place": conv(9, 4, 3),
    "conv/line": conv(9, 3, 4, padding=2, stride=2, dilation=2, dims=1),
    "conv/volume": conv(2, 3, (2, 3, 3), stride=(1, 2, 1)),
    "conv/volume_direct": conv(20, 2, 3, dims=3),
    "conv/offset": conv(4, 3, 3),
    "conv/zeros": conv(4, 3, 3),
    "depthwise/plain": depthwise(4, 3),
    "depthwise/multiplied": depthwise(3, (3, 2), multiplier=2, stride=(2, 3), dilation=(2, 1)),
    "depthwise/long": depthwise(2, 5, dims=1),
    "depthwise/volume": depthwise(2, (2, 3, 2), padding=1),
    "spread/plain": spread(3, 2, 3),
    "spread/strided": spread(3, 2, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2)),
    "spread/groups": spread(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
    "spread/gaps": spread(2, 3, 2, stride=3),
    "spread/line": spread(4, 3, 4, stride=2, padding=1, dims=1),
    "spread/volume": spread(2, 2, (2, 3, 2), stride=2, padding=(0, 1, 0), groups=2),
}
SINGLE = (
    "conv/plain",
    "conv/patches",
    "conv/groups",
    "conv/pointwise",
    "conv/blocks",
    "conv/offset",
    "conv/zeros",
    "depthwise/plain",
    "spread/strided",
)


def golden(case):
    names = [name for name in GOLDEN.files if name.rpartition("/")[0] == case]
    assert names, case
    return {name.rpartition("/")[2]: GOLDEN[name] for name in names}


@functools.cache
def errors(dtype, cases=tuple(CASES)):
    """Of y and each gradient the largest error as a share of the largest value, in one program."""
    its = {case: golden(case) for case in cases}

    @jax.jit
    def run(values):
        got = {}
        for case, own in values.items():
            params = {name: own[name] for name in ("weight", "bias") if name in own}
            y, back = jax.vjp(CASES[case].apply, params, own["x"])
            dparams, dx = back(own["dy"])
            got[case] = {"y": y, "dx": dx} | {f"d{name}": leaf for name, leaf in dparams.items()}
        return got

    names = ("x", "dy", "weight", "bias")
    values = {c: {n: jnp.asarray(v, dtype) for n, v in own.items() if n in names} for c, own in its.items()}
    found = {}
    for case, got in run(values).items():
        for name, value in got.items():
            expected = its[case][name]
            assert value.dtype == dtype
            assert value.shape == expected.shape, (case, name)
            apart = np.abs(np.asarray(value, np.float64) - expected).max()
            found[case, name] = apart / max(np.abs(expected).max(), 1e-30)
    return found


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_pytorchs(case):
    with jax.enable_x64(True):
        double = {name: error for (at, name), error in errors("float64").items() if at == case}
    assert max(double.values()) < 1e-13, double
    if case in SINGLE:
        single = {name: error for (at, name), error in errors("float32", SINGLE).items() if at == case}
        assert max(single.values()) < 2e-6, single


# Every form against XLA's plain convolution, in float64: value, gradients, forward mode, forward over
# reverse; and gradients with weights vmapped, as a sweep has them.

ONE, NONE = (1, 1), ((0, 0), (0, 0))
ODD = ConvPlan((2, 3), (1, 2), ((2, 0), (0, 3)))
LINE = ConvPlan((2,), (2,), ((5, 7),))
FORM_CASES = [
    ("direct", (2, 5, 6, 3), (3, 3, 3, 4), ConvPlan(ONE, ONE, ((1, 1), (1, 1)))),
    ("direct", (2, 9, 8, 3), (3, 2, 3, 4), ODD),
    ("direct", (2, 9, 8, 2), (2, 2, 2, 3), ConvPlan((3, 3), ONE, NONE)),  # places that no window reaches
    ("direct", (2, 9, 3), (4, 3, 2), LINE),  # padding wider than the kernel
    ("patches", (2, 9, 8, 3), (3, 2, 3, 4), ODD),
    ("groups", (2, 7, 6, 4), (3, 3, 2, 6), ConvPlan((2, 1), ONE, ((1, 1), (1, 1)), 2)),
    ("blocks", (2, 7, 6, 4), (3, 2, 4, 6), ConvPlan((3, 2), ONE, NONE)),
    ("matrix", (2, 7, 6, 4), (1, 1, 4, 6), ConvPlan((3, 2), ONE, ((0, 1), (2, 0)))),
    ("depthwise", (4, 5, 6, 3), (3, 3, 1, 3), ConvPlan(ONE, ONE, ((1, 1), (1, 1)), 3)),
    ("depthwise", (3, 9, 8, 2), (3, 2, 1, 4), ODD._replace(groups=2)),
    ("depthwise", (2, 75, 2), (4, 1, 4), LINE._replace(groups=2)),
]


def everything(function, sweep):
    """x, weight -> the derivatives of a function of two arrays."""

    @jax.jit
    def run(x, weight):
        along = jnp.cos(x), jnp.sin(3 * weight)
        grad = jax.grad(lambda x, weight: jnp.sum(jnp.sin(function(x, weight))), (0, 1))
        if sweep:
            return jax.vmap(grad, (None, 0))(x, jnp.stack([weight, along[1]]))
        return {
            "value and forward mode": jax.jvp(function, (x, weight), along),
            "gradients and their forward mode": jax.jvp(grad, (x, weight), along),
        }

    return run


def same(one, other, x, weight, sweep=False):
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        x, weight = (jnp.asarray(draw.normal(size=shape)) for shape in (x, weight))
        got, expected = everything(one, sweep)(x, weight), everything(other, sweep)(x, weight)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def forms(name, plan):
    return (functools.partial(FORMS[form], plan=plan) for form in (name, "plain"))


@pytest.mark.parametrize("form, x, weight, plan", FORM_CASES)
def test_every_form_is_the_plain_one(form, x, weight, plan):
    same(*forms(form, plan), x, weight)


@pytest.mark.parametrize("form, x, weight, plan", [FORM_CASES[i] for i in (0, 4, 5, 6, 7, 8)])
def test_every_form_takes_vmapped_weights(form, x, weight, plan):
    same(*forms(form, plan), x, weight, sweep=True)


@pytest.mark.parametrize("groups, extra", [(1, 0), (2, 1)])
def test_transposed_form_is_the_plain_one(groups, extra):
    win = transpose.parse_windows("test", (3, 2), 2, 1, (2, 1), 2)
    cut = ((1, 1 - extra), (1, 1 - extra))
    fast, plain = (
        functools.partial(function, win=win, cut=cut, groups=groups)
        for function in (transpose._transposed, transpose.plain_transpose)
    )
    same(fast, plain, (2, 4, 5, 4), (3, 2, 4, 3))


def test_forms_depend_on_machine_and_shape():
    """The first is the default."""
    plan = ConvPlan(ONE, ONE, ((1, 1), (1, 1)))
    apart = ConvPlan((2, 2), ONE, NONE)
    assert _possible_forms("gpu", (3, 3), 32, 196, plan) == ("plain",)
    assert _possible_forms("cpu", (3, 3), 32, 196, plan) == ("direct", "patches", "plain")
    assert _possible_forms("cpu", (3, 3), 1, 784, plan) == ("patches", "direct", "plain")
    assert _possible_forms("cpu", (3, 3), 512, 16, plan)[0] == "patches"
    assert _possible_forms("cpu", (3, 3, 3), 16, 512, plan)[0] == "patches"
    assert {_possible_forms(m, (1, 1), 8, 9, plan) for m in ("cpu", "gpu")} == {("matrix",)}
    assert {_possible_forms(m, (2, 2), 8, 9, apart) for m in ("cpu", "gpu")} == {("blocks",)}
    assert _possible_forms("cpu", (2, 2), 9, 9, apart._replace(dilation=(2, 1)))[0] == "direct"
    assert _possible_forms("cpu", (3, 3), 4, 9, plan._replace(groups=8)) == ("groups", "plain")
    assert _possible_forms("cpu", (7, 7), 1, 9, plan._replace(groups=8)) == ("depthwise", "groups", "plain")
    assert _possible_forms("cpu", (7, 7), 1, 9, plan._replace(groups=96)) == ("depthwise", "plain")
    assert _possible_forms("gpu", (7, 7), 1, 9, plan._replace(groups=8)) == ("plain",)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the form for CPU")
@pytest.mark.parametrize("model", [conv(8, 4, 3), conv(8, 4, 3, stride=2), spread(8, 4, 3, stride=2)])
def test_gradients_are_convolutions_with_channels_last(model, key):
    """In any other order of axes XLA for CPU is up to 50 times slower inside `lax.scan`."""
    params, x = model.init(key), jnp.ones((2, 6, 6, 8))
    loss = jax.grad(lambda params, x: jnp.sum(jnp.tanh(model.apply(params, x))), (0, 1))
    program = jax.jit(loss).lower(params, x).as_text()
    orders = re.findall(r"dim_numbers = (\S+, \S+, \S+, \S+, \S+, \S+, \S+, \S+, \S+, \S+),", program)
    assert orders == ["[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"] * 3


def test_gradient_inside_scan_is_that_outside(key):
    model = conv(4, 4, 3)
    params, x = model.init(key), jnp.asarray(GOLDEN["conv/offset/x"] / 4096, jnp.float32)
    grad = jax.grad(lambda params: jnp.sum(jnp.sin(model.apply(params, x))))
    inside = jax.jit(lambda p: lax.scan(lambda p, _: (p, grad(p)), p, None, length=1)[1])(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5), inside, grad(params))


def test_conv_by_hand():
    params = {"weight": jnp.array([1.0, 10.0, 100.0])[:, None, None], "bias": jnp.ones(1)}

    @jax.jit
    def run(x):
        apply = lambda x, **kw: conv(1, 1, 3, dims=1, **kw).apply(params, x[:, None])[:, 0]
        circular = apply(x, padding="circular")
        return apply(x), circular, apply(x, stride=2), apply(x[:4], stride=2)

    same, circular, odd, even = run(jnp.arange(1.0, 6.0))
    np.testing.assert_array_equal(same, [211, 322, 433, 544, 55])  # 1 + 10 * 1 + 100 * 2, ...
    np.testing.assert_array_equal(circular, [216, 322, 433, 544, 155])
    np.testing.assert_array_equal(odd, [211, 433, 55])  # one zero on each side
    np.testing.assert_array_equal(even, [322, 44])  # one zero, after: SAME


@pytest.mark.parametrize("stride, kernel", [(2, 3), (3, 2), (2, 4)])
def test_transposed_same_is_the_transpose_of_same(stride, kernel, key):
    """sum(conv(x) * y) = sum(x * transposed(y)), on n * stride and n places."""
    down = conv(2, 3, kernel, stride=stride, bias=False)
    up = spread(3, 2, kernel, stride=stride, padding="same", bias=False)
    n = 3 * stride
    x = jnp.sin(jnp.arange(2.0 * n * n)).reshape(1, n, n, 2)

    @jax.jit
    def run(x):
        weight = down.init(key)["weight"]
        y = down.apply({"weight": weight}, x)
        other = up.apply({"weight": weight.swapaxes(-1, -2)}, jnp.cos(y))
        return x * other, y * jnp.cos(y)

    one, other = run(x)
    np.testing.assert_allclose(jnp.sum(one), jnp.sum(other), rtol=1e-5)


def test_separable_is_depthwise_then_pointwise(key):
    model = nf.separable_conv(2, 5, 3, multiplier=2, stride=2)
    x = jnp.sin(jnp.arange(144.0)).reshape(2, 6, 6, 2)

    @jax.jit
    def run(x):
        params = model.init(key)
        between = depthwise(2, 3, multiplier=2, stride=2, bias=False)
        point = params["pointwise"]
        y = between.apply(params["depthwise"], x) @ point["weight"][0, 0] + point["bias"]
        return params, model.apply(params, x), y

    params, y, expected = run(x)
    paths = {"depthwise/weight", "pointwise/weight", "pointwise/bias"}
    assert nf.paths.flatten(params).keys() == paths
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    line = jax.eval_shape(nf.separable_conv(2, 5, (3,)).init, key)
    assert line["pointwise"]["weight"].shape == (1, 2, 5)


def test_patch_embedding_takes_patches_row_by_row(key):
    model = nf.patch_embedding((2, 3), 1, 4)
    params = model.init(key)
    assert jax.tree.map(jnp.shape, params) == {"weight": (2, 3, 1, 4), "bias": (4,)}
    x = jnp.arange(24.0).reshape(4, 6, 1)
    rows = jnp.stack([x[i : i + 2, j : j + 3].ravel() for i in (0, 2) for j in (0, 3)])
    expected = rows @ params["weight"].reshape(6, 4)
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-5)


def test_leading_axes_are_free(key):
    models = (conv(2, 3, 3), depthwise(2, 3), spread(2, 3, 3))
    x = jnp.sin(jnp.arange(240.0)).reshape(2, 3, 4, 5, 2)

    @jax.jit
    def run(x):
        params = [model.init(key) for model in models]
        apply = lambda x: [model.apply(p, x) for model, p in zip(models, params, strict=True)]
        return apply(x), apply(x[1, 2]), apply(x[:, :0])

    for y, one, none in zip(*run(x), strict=True):
        np.testing.assert_allclose(y[1, 2], one, rtol=1e-5, atol=1e-6)
        assert none.shape == (2, 0, *y.shape[2:])


def test_initial_deviation_counts_what_one_output_sees(key):
    models = {
        9 * 16: conv(64, 64, 3, groups=4),
        25: depthwise(512, 5),
        9 * 8: spread(32, 64, 3, groups=4),
        16 * 8: nf.patch_embedding(4, 8, 64),
    }
    made = jax.jit(lambda: {n: model.init(key)["weight"] for n, model in models.items()})()
    for fan_in, weight in made.items():
        assert np.std(weight) == pytest.approx(fan_in**-0.5, rel=0.03)


@pytest.mark.parametrize("model", [conv(2, 3, 3), conv(9, 3, 3), depthwise(2, 3), spread(2, 3, 3)])
def test_half_precision_stays(model, key):
    half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), jax.eval_shape(model.init, key))
    x = jax.ShapeDtypeStruct((2, 5, 5, 9 if half["weight"].shape[-2] == 9 else 2), jnp.bfloat16)
    assert jax.eval_shape(model.apply, half, x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: conv(4, 6, 3, groups=4),
            r"groups should divide in_dim and out_dim, got groups 4, in_dim 4, out_dim 6",
        ),
        (
            lambda: conv(4, 6, 3, stride=(1, 2, 3)),
            r"stride should be one number or 2, one for each spatial axis, got \(1, 2, 3\)",
        ),
        (lambda: conv(4, 6, (3, 0)), r"kernel\[1\] should be at least 1, got 0"),
        (
            lambda: conv(4, 6, 3, padding="some"),
            r"padding should be one of 'same', 'valid', 'circular', 'causal', got 'some'",
        ),
        (lambda: conv(4, 6, 3, padding=(1, 2), dims=1), r"padding should be a name, a number, or 1 numbers or pairs"),
        (lambda: conv(4, 6, 3, padding=-1), r"padding should be at least 0, got -1"),
        (lambda: conv(4, 6, 3, dims=4), r"there should be 1, 2 or 3 spatial axes, got 4"),
        (lambda: depthwise(4, 3, multiplier=0), r"depthwise_conv: multiplier should be at least 1"),
        (
            lambda: spread(4, 6, 3, stride=2, output_padding=2),
            r"output_padding should be below stride or dilation, 2, got 2",
        ),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "model, shape, words",
    [
        (
            conv(1, 4, 3),
            (5, 28, 28),
            r"conv: .* should be 1 \(in_dim\), got shape \(5, 28, 28\). For x\[\.\.\., 28, 28\] without a channel axis: x\[\.\.\., None\]",
        ),
        (
            conv(1, 4, 3),
            (28, 28),
            r"x should be \[\.\.\., height, width, channels\], got shape \(28, 28\). Images without a channel axis: x\[\.\.\., None\]",
        ),
        (
            conv(3, 4, 3),
            (5, 3, 8, 9),
            r"should be 3 \(in_dim\), got shape \(5, 3, 8, 9\). Channels are last: jnp.moveaxis\(x, -3, -1\)",
        ),
        (conv(3, 4, 3), (5, 8, 9, 4), r"Make this layer for 4 channels, or let the one before it give 3"),
        (
            conv(3, 4, 5, padding="valid"),
            (2, 4, 9, 3),
            r"conv: windows of \(5, 5\) should fit into x, got spatial sizes \(4, 9\)",
        ),
        (
            conv(3, 4, 3, padding=1, dilation=3),
            (2, 4, 9, 3),
            r"windows of \(3, 3\), which reach \(7, 7\) should fit into x, got spatial sizes \(4, 9\) and padding",
        ),
        (conv(3, 4, 3, dims=1), (3,), r"x should be \[\.\.\., length, channels\], got shape \(3,\)"),
        (
            spread(3, 4, 2, padding=1),
            (2, 1, 1, 3),
            r"padding should leave an output of at least one position an axis, got spatial sizes \(1, 1\)",
        ),
        (
            nf.patch_embedding(7, 3, 4),
            (2, 28, 30, 3),
            r"patches of \(7, 7\) should cover the image exactly, got spatial sizes \(28, 30\)",
        ),
        (nf.separable_conv(3, 4, 3), (2, 8, 8, 5), r"^depthwise: depthwise_conv: .* 3 \(in_dim\), got shape"),
    ],
)
def test_wrong_inputs(model, shape, words):
    params = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(model.apply, params, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_wrong_type_and_wrong_weights(key):
    model = conv(1, 4, 3)
    with pytest.raises(TypeError, match=r"conv: x should hold floats, got uint8"):
        model.apply(model.init(key), jnp.ones((2, 8, 8, 1), jnp.uint8))
    with pytest.raises(ValueError, match=r"weight should have shape \(3, 3, 1, 4\), got shape \(5, 5, 1, 4\)"):
        model.apply(conv(1, 4, 5).init(key), jnp.ones((2, 8, 8, 1)))
