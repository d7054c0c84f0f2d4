"""nf.summary against a table worked by hand, and flops.count against sums worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc import flops


def test_a_table_by_hand():
    """Batch 2, 3 -> 5 -> 4. A product of [2, 3] and [3, 5] is 2 * 2 * 3 * 5 = 60 FLOPs, its bias 10."""
    model = nf.serial(up=nf.linear(3, 5), act=jax.nn.relu, down=nf.linear(5, 4, bias=False))
    table = nf.summary(model, (2, 3))
    rows = [
        ("up", "linear", "float32[2,5]", 3 * 5 + 5, 80, 60 + 10),
        ("act", "relu", "float32[2,5]", 0, 0, 10),
        ("down", "linear", "float32[2,4]", 5 * 4, 80, 2 * 2 * 5 * 4),
    ]
    assert [tuple(row) for row in table.rows] == rows
    assert table[1:5] == ("float32[2,4]", 40, 160, 160)
    assert str(table) == (
        "path   layer   output        params  bytes  FLOPs\n"
        "-------------------------------------------------\n"
        "up     linear  float32[2,5]      20   80 B     70\n"
        "act    relu    float32[2,5]       0    0 B     10\n"
        "down   linear  float32[2,4]      20   80 B     80\n"
        "-------------------------------------------------\n"
        "total          float32[2,4]      40  160 B    160"
    )


def test_large_numbers_are_readable():
    text = str(nf.summary(nf.linear(1000, 2000), (1, 1000)))
    assert "2,002,000" in text
    assert "8.01 MB" in text
    assert "4,002,000" in text


def test_a_repeated_layer_counts_n_times():
    block = nf.residual(nf.serial(nf.linear(4, 4), jax.nn.relu))
    model = nf.serial(blocks=nf.repeat(block, 10), head=nf.linear(4, 1))
    table = nf.summary(model, (2, 4))
    rows = {row.path: row for row in table.rows}
    linear = rows["blocks/*/body/linear"]
    assert (linear.params, linear.bytes) == (10 * 20, 10 * 80)
    assert linear.flops == 10 * (2 * 2 * 4 * 4 + 8)
    assert rows["blocks/*/body/relu"].flops == 10 * 8
    assert table.params == 10 * 20 + 5
    assert table.flops == 10 * (64 + 8 + 8 + 8) + (2 * 2 * 4 + 2)  # the third 8 is the residual's sum


@pytest.mark.parametrize("wrap", [nf.remat, lambda m: nf.precision(m, jnp.bfloat16)])
def test_wrappers_keep_the_rows(wrap):
    model = nf.serial(up=nf.linear(3, 5), act=jax.nn.relu)
    plain, wrapped = nf.summary(model, (2, 3)), nf.summary(wrap(model), (2, 3))
    assert [row.path for row in wrapped.rows] == [row.path for row in plain.rows]
    assert wrapped.params == plain.params
    assert wrapped.bytes == plain.bytes
    assert wrapped.flops == plain.flops


def test_repeats_within_repeats_multiply():
    table = nf.summary(nf.repeat(nf.serial(inner=nf.repeat(nf.linear(4, 4), 3)), 5), (1, 4))
    assert table.params == 15 * 20
    assert sum(row.params for row in table.rows) == 15 * 20
    assert sum(row.flops for row in table.rows) == table.flops == 15 * (32 + 4)


def test_nothing_is_computed():
    """4 TB of weights, and a batch that no machine holds."""
    model = nf.serial(nf.linear(10**6, 10**6), nf.batch_norm(10**6), nf.dropout(0.5))
    table = nf.summary(model, (10**9, 10**6))
    assert table.rows[0].params == 10**12 + 10**6
    assert table.rows[0].bytes == 4 * (10**12 + 10**6)
    assert table.rows[0].flops == 2 * 10**9 * 10**12 + 10**15
    assert "4 TB" in str(table)


def test_shared_parameters_count_once_in_the_total():
    tied = nf.tie(
        nf.serial(encode=nf.linear(4, 2, bias=False), decode=nf.linear(2, 4, bias=False)),
        {"decode/weight": ("encode/weight", jnp.transpose)},
    )
    table = nf.summary(tied, (1, 4))
    assert table.params == 8
    assert [row.params for row in table.rows] == [8, 8]


def test_a_model_without_named_children_has_one_row():
    table = nf.summary(nf.linear(3, 2), (1, 3))
    assert [(row.path, row.params) for row in table.rows] == [("linear", 8)]
    assert nf.summary(jnp.tanh, (5,)).rows[0][:3] == ("tanh", "tanh", "float32[5]")


def test_inputs_of_other_kinds():
    pair = (jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((2, 4), jnp.float32))
    assert nf.summary(nf.bilinear(3, 4, 5), pair).output == "float32[2,5]"
    assert nf.summary(nf.embedding(10, 4), (2, 7), jnp.int32).output == "float32[2,7,4]"
    two = nf.summary(nf.parallel(a=nf.linear(3, 1), b=nf.linear(3, 2)), (1, 3))
    assert two.output == "float32[1,1] float32[1,2]"


def test_errors_name_the_layer():
    with pytest.raises(ValueError, match=r"^head: linear: the last axis of x should be 5 \(in_dim\)"):
        nf.summary(nf.serial(up=nf.linear(3, 4), head=nf.linear(5, 2)), (1, 3))
    with pytest.raises(TypeError, match=r"^summary: shape should be a tuple such as \(1, 64\), got 64"):
        nf.summary(nf.linear(64, 2), 64)


# flops.count: two for a multiply-add, one for an elementwise result.

A, B, X = np.ones((2, 3), "f4"), np.ones((3, 4), "f4"), np.ones((5, 4), "f4")
W = np.ones((4, 4), "f4")


def step(x, _):
    return jnp.tanh(x @ W), None


def loop(x):
    return jax.lax.scan(step, x, length=7)[0]


STEP = 2 * 5 * 4 * 4 + 5 * 4  # the product and tanh of one step


@pytest.mark.parametrize(
    "function,args,expected",
    [
        (jnp.dot, (A, B), 2 * 2 * 3 * 4),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (np.ones((7, 2, 3), "f4"), np.ones((7, 3, 4), "f4")), 7 * 48),
        (lambda x: x + x * x, (X,), 2 * 20),
        (jnp.sum, (X,), 20),
        (lambda x: x.T.reshape(2, 10)[0], (X,), 0),
        (loop, (X,), 7 * STEP),
        (jax.jit(loop), (X,), 7 * STEP),
        (jax.checkpoint(loop), (X,), 7 * STEP),
        (jax.vmap(loop), (X[None].repeat(3, 0),), 3 * 7 * STEP),
        (lambda x: jax.lax.cond(x[0, 0] > 0, loop, jnp.tanh, x), (X,), 7 * STEP),
    ],
)
def test_flops_by_hand(function, args, expected):
    assert flops.count(function, *args) == expected


def test_flops_of_shapes_alone():
    huge = jax.ShapeDtypeStruct((10**7, 10**7), jnp.float32)
    assert flops.count(jnp.matmul, huge, huge) == 2 * 10**21


def test_flops_of_a_gradient():
    """Of sum(x W): one product forward; backward one for x and one for W."""
    product = 2 * 5 * 4 * 4

    def cost(x, w):
        return (x @ w).sum()

    count = flops.count(jax.grad(cost, (0, 1)), X, W)
    assert 3 * product <= count <= 3 * product + 40


def test_flops_through_remat_count_the_second_forward_pass():
    """tanh(tanh(x W) W): two products forward and four backward; with remat two more."""
    product = 2 * 5 * 4 * 4

    def cost(x, w):
        return jax.checkpoint(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w))(x, w).sum()

    plain = flops.count(jax.grad(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w).sum(), (0, 1)), X, W)
    remat = flops.count(jax.grad(cost, (0, 1)), X, W)
    assert 6 * product <= plain <= 6 * product + 15 * 20  # and a few elementwise ones
    assert 2 * product <= remat - plain <= 2 * product + 3 * 20


def test_flops_of_a_convolution():
    """[1, 8, 8, 3] with a 3x3 kernel to 5 channels: 64 places of 3 * 3 * 3 multiply-adds, 5 times."""
    x, kernel = np.ones((1, 8, 8, 3), "f4"), np.ones((3, 3, 3, 5), "f4")

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert flops.count(convolve, x, kernel) == 2 * 64 * 27 * 5
