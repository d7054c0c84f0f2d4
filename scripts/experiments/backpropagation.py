"""Backpropagation: three ways to one gradient, and what becomes of it through 64 layers.

python -m scripts.experiments.backpropagation
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import nnfunc as nf
from scripts.experiments import common

TITLE = "Backpropagation: the chain rule, checked, and where it fades"
WIDTH = 64


def case(activation, dtype, widths=(16, 24, 24, 10), examples=32):
    """Parameters, inputs and labels of a small network, and its loss as a function of a vector."""
    model = nf.mlp(widths, activation=activation)
    params = jax.jit(model.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (examples, widths[0]), jnp.float32)
    params, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, x))
    labels = jnp.arange(examples) % widths[-1]
    vector, unravel = ravel_pytree(params)

    def loss(vector):
        return nf.losses.cross_entropy(model.apply(unravel(vector), x), labels).mean()

    return params, x, labels, vector, loss


def agreement(activation):
    """Largest difference between nf.backprop, the chain rule spelled out, and jax.grad, in float64.

    As a share of the largest gradient.
    """
    params, x, labels, vector, loss = case(activation, jnp.float64)
    by_hand = jax.jit(partial(nf.backprop.gradients, activation=activation))
    spelled_out, _ = ravel_pytree(by_hand(params, x, labels))
    exact = jax.jit(jax.grad(loss))(vector)
    return float(jnp.abs(spelled_out - exact).max() / jnp.abs(exact).max())


def finite_differences(activation, dtype, sizes):
    """The same for forward and central differences from jax.grad in float64: [sizes] each."""
    *_, exact_vector, exact_loss = case(activation, jnp.float64)
    exact = jax.jit(jax.grad(exact_loss))(exact_vector)
    *_, vector, loss = case(activation, dtype)

    @jax.jit
    def errors(h):
        def along(i):  # one coordinate after another, all of them in one program
            step = h * (jnp.arange(vector.size) == i).astype(dtype)
            ahead, here, behind = loss(vector + step), loss(vector), loss(vector - step)
            return (ahead - here) / h, (ahead - behind) / (2 * h)

        found = jax.lax.map(along, jnp.arange(vector.size), batch_size=128)
        return [jnp.abs(f.astype(jnp.float64) - exact).max() / jnp.abs(exact).max() for f in found]

    return np.array([errors(jnp.asarray(h, dtype)) for h in sizes]).T


def deep(activation, kind, depth):
    """A stem, `depth` layers f(Wx + b), plain or with a way around each, and a head."""
    f = nf.activations.by_name(activation)
    weight_init = nf.initializers.init_for(activation)
    if kind == "plain":
        block = nf.serial(linear=nf.linear(WIDTH, WIDTH, weight_init=weight_init), act=f)
    else:
        # 1 / sqrt(depth) on what each layer adds: the sum of all stays of the size of x.
        share = depth**-0.5 if kind == "residual, scaled" else 1.0
        branch = nf.serial(linear=nf.linear(WIDTH, WIDTH, weight_init=weight_init), act=f, share=lambda x: x * share)
        block = nf.residual(branch)
    return nf.serial(stem=nf.linear(64, WIDTH), blocks=nf.repeat(block, depth), head=nf.linear(WIDTH, 10))


@partial(jax.jit, static_argnums=(0, 1, 2))
def layer_gradients(activation, kind, depth, keys, x, labels):
    """The norm of the gradient of each layer's weights before any training, [networks, depth]."""
    model = deep(activation, kind, depth)

    def of_one(params):
        def loss(params):
            return nf.losses.cross_entropy(model.apply(params, x), labels).mean()

        blocks = jax.grad(loss)(params)["blocks"]
        weight = nf.paths.flatten(blocks)["linear/weight" if kind == "plain" else "body/linear/weight"]
        return jnp.sqrt(jnp.square(weight).sum((1, 2)))

    # float64: what a sigmoid leaves after 64 layers is below the smallest float32
    double = partial(jax.tree.map, lambda leaf: leaf.astype(jnp.float64))
    x = x.astype(jnp.float64)
    return jax.vmap(of_one)(double(jax.lax.map(model.init, keys)))


def main(argv=None):
    args = common.arguments(__doc__, argv)
    activations = ("sigmoid", "tanh", "relu")
    powers = (-2, -5, -8) if args.small else tuple(range(-1, -13, -1))
    sizes = 10.0 ** np.array(powers)

    depth, networks = (16, 2) if args.small else (64, 16)
    kinds = ("plain",) if args.small else ("plain", "residual", "residual, scaled")
    x, labels = (jnp.asarray(part[:64]) for part in nf.data.digits().train)

    with jax.enable_x64(True):
        agree = {name: agreement(name) for name in activations}
        curves = {
            f"{name}, {kind}": found
            for dtype, kind in ((jnp.float64, "float64"), (jnp.float32, "float32"))
            for name, found in zip(("forward", "central"), finite_differences("tanh", dtype, sizes), strict=True)
        }
        curves["central, float64, relu"] = finite_differences("relu", jnp.float64, sizes)[1]
        keys = jax.random.split(jax.random.key(3), networks)
        gradients = {
            (activation, kind): np.asarray(layer_gradients(activation, kind, depth, keys, x, labels))
            for activation in activations
            for kind in kinds
        }

    draw(sizes, curves, gradients, args.out)
    by_step = common.table(
        ["h", *curves],
        [[f"1e{power}", *(f"{curve[i]:.0e}" for curve in curves.values())] for i, power in enumerate(powers)],
    )
    rows = []
    for (activation, kind), norms in gradients.items():
        logs = np.log10(norms)
        first, last = logs[:, 0].mean(), logs[:, -1].mean()
        factor = 10 ** ((first - last) / (depth - 1))
        rows.append([f"{activation}, {kind}", f"{10**last:.1e}", f"{10**first:.1e}", f"{factor:.2f}"])
    by_layer = common.table(["network", "gradient, last layer", "first layer", "factor a layer, on the way back"], rows)
    found = ", ".join(f"{name} {difference:.0e}" for name, difference in agree.items())
    common.write_page(
        "backpropagation",
        "The difference between `nf.backprop.gradients`, the chain rule written out, and `jax.grad` in "
        f"float64, relative to the largest gradient: {found}. The same for finite differences and "
        "`jax.grad`, with tanh unless stated otherwise:",
        by_step,
        f"The norm of the gradient with respect to a layer's weights, {depth} layers of {WIDTH} units, on "
        f"digits before training (geometric means of {networks} networks):",
        by_layer,
        common.image("backpropagation", "errors over h, and gradients over the layers"),
        title=TITLE,
        out=args.out,
        seconds=args.seconds(),
    )
    return agree, dict(zip(powers, np.transpose(list(curves.values())), strict=True)), gradients


def draw(sizes, curves, gradients, out):
    fig, (left, right) = common.figure(1, 2, wide=10, high=3.6)
    for (name, errors), marker in zip(curves.items(), common.MARKERS, strict=False):
        left.loglog(sizes, errors, marker=marker, label=name)
    left.set(xlabel="step size h", ylabel="largest error / largest gradient", ylim=(1e-11, 1e10))
    left.set_title("finite differences: truncation and rounding")
    left.legend(ncols=2, loc="upper center")
    colours = {"sigmoid": common.BLUE, "tanh": common.ORANGE, "relu": common.GREEN}
    lines = {"plain": "-", "residual": "--", "residual, scaled": ":"}
    for (activation, kind), norms in gradients.items():
        middle = np.exp(np.log(norms).mean(0))
        layers = np.arange(1, len(middle) + 1)
        style = {"color": colours[activation], "ls": lines[kind]}
        right.semilogy(layers, middle, label=f"{activation}, {kind}", **style)
    right.set(xlabel="layer", ylabel="gradient norm of its weights")
    right.set_title("the gradient on its way back, before training")
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    common.save_figure(fig, "backpropagation", out)


if __name__ == "__main__":
    main()
