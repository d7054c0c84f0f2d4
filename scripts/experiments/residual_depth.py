"""Residual connections: 8, 32 and 128 layers, with and without, each at its own best learning rate.

python -m scripts.experiments.residual_depth
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from scripts.experiments import common

WIDTH = 32
TITLE = "Residual connections: what makes 128 layers trainable"
# The second and the third differ by the shortcut alone; the first shows that the norm is not what
# does it. Without any norm a residual stream doubles its variance in every layer.
KINDS = ("plain", "plain, layer norm", "residual, layer norm")
COLOURS = dict(zip(KINDS, (common.GREY, common.ORANGE, common.BLUE), strict=True))


def network(kind, depth, pixels):
    """A linear stem, `depth` equal layers, a linear head. `repeat` compiles one layer of them."""
    layer = {"linear": nf.linear(WIDTH, WIDTH, weight_init=nf.initializers.he_normal)}
    if "layer norm" in kind:
        layer = {"norm": nf.layer_norm(WIDTH)} | layer
    block = nf.serial(**layer, act=jax.nn.relu)
    if "residual" in kind:
        block = nf.residual(block)
    return nf.serial(stem=nf.linear(pixels, WIDTH), blocks=nf.repeat(block, depth), head=nf.linear(WIDTH, 10))


@partial(jax.jit, static_argnums=(0, 1))
def first_gradients(kind, depth, keys, x, y):
    """Norms of the loss's gradient by the first and the last layer's weights, fresh: [keys] each."""
    model = network(kind, depth, x.shape[1])

    def norms(key):
        loss = lambda params: nf.losses.cross_entropy(model.apply(params, x), y).mean()
        blocks = jax.grad(loss)(model.init(key))["blocks"]
        # [depth, WIDTH, WIDTH]: repeat stacks the layers' parameters
        weight = blocks.get("body", blocks)["linear"]["weight"]
        return jnp.linalg.norm(weight[0]), jnp.linalg.norm(weight[-1])

    return jax.lax.map(norms, keys)


def main(argv=None):
    args = common.arguments(__doc__, argv)
    if args.small:
        kinds, depths, rates, seeds, steps = KINDS[1:], (64,), [3e-3], range(1), 80
    else:
        kinds, depths, seeds, steps = KINDS, (8, 32, 128), range(3), 400
        rates = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    # Digits, so that it runs anywhere: what is shown is whether the training loss falls at all.
    found = common.images(mnist=False)
    data = found.splits._replace(validation=None).data(64)
    x, y = data.batch(0)

    hypers, shape = common.grid(rate=rates, seed=seeds)
    results = {}
    for kind in kinds:
        for depth in depths:
            model = network(kind, depth, found.pixels)

            def build(h, model=model):
                return nf.Task(model, nf.classification(), nf.optimizers.adam(h["rate"]))

            many = common.train_many(build, hypers, data, steps=steps, keys=common.seed_keys(hypers["seed"]))
            curves = many.curves["loss"].reshape(*shape, -1)  # [rates, seeds, reports]
            # Chosen by the training loss itself, as the question is what can be trained. A diverged
            # run's loss is not finite, and no rate is best by that.
            final = np.nan_to_num(curves[..., -2:].mean(-1), nan=np.inf).mean(1)
            best = int(np.argmin(final))
            first, last = first_gradients(kind, depth, common.seed_keys(jnp.arange(8)), x, y)
            results[kind, depth] = {
                "rate": rates[best],
                "steps": many.steps,
                "curves": curves[best],
                "loss": float(final[best]),
                "first": np.asarray(first),
                "last": np.asarray(last),
                "accuracy": float(many.curves["accuracy"].reshape(*shape, -1)[best, :, -2:].mean()),
            }

    draw(results, kinds, depths, args.out)
    rows = [
        [
            f"{kind}, {depth} layers",
            f"{r['rate']:g}",
            f"{r['loss']:.3f}",
            f"{100 * r['accuracy']:.0f}",
            f"{np.median(r['first']):.1e}",
            f"{np.median(r['first'] / r['last']):.1e}",
        ]
        for (kind, depth), r in results.items()
    ]
    heads = ["network", "best rate", "training loss", "training accuracy, %", "gradient, first layer", "first / last"]
    listed = ", ".join(f"{rate:g}" for rate in rates)
    about = (
        f"{found.name}, layers of {WIDTH} units, Adam, {steps} steps with batch size 64. Loss and "
        f"accuracy over the last tenth of the steps, means over {len(seeds)} initializations, at the best of "
        f"the learning rates {listed} by that loss. Gradient: its norm with respect to the weights of the "
        "first layer before training, and the ratio of this norm to that for the last layer; medians over 8 "
        "initializations. Guessing has a loss of 2.303."
    )
    common.write_page(
        "residual_depth",
        common.table(heads, rows),
        about,
        common.image("residual_depth", "training loss over steps; first layer's gradient by depth"),
        title=TITLE,
        out=args.out,
        seconds=args.seconds(),
    )
    return results


def draw(results, kinds, depths, out):
    fig, axes = common.figure(1, len(depths) + 1, wide=10, high=3.2)
    for axis, depth in zip(axes, depths, strict=False):
        for kind in kinds:
            found = results[kind, depth]
            axis.plot(found["steps"], found["curves"].mean(0), color=COLOURS[kind], label=kind)
            for curve in found["curves"]:
                axis.plot(found["steps"], curve, color=COLOURS[kind], lw=0.6, alpha=0.6)
        axis.set(title=f"{depth} layers", xlabel="step", yscale="log", ylim=(3e-3, 4))
    axes[0].set_ylabel("training loss")
    axes[0].legend(loc="lower left")
    axis = axes[-1]
    for kind, marker in zip(kinds, common.MARKERS, strict=False):
        first = np.array([results[kind, depth]["first"] for depth in depths])
        axis.plot(depths, np.median(first, 1), marker=marker, color=COLOURS[kind])
        axis.fill_between(depths, first.min(1), first.max(1), color=COLOURS[kind], alpha=0.2, lw=0)
    axis.set(title="gradient, first layer", xlabel="layers", xscale="log", yscale="log")
    axis.set_xticks(depths, [str(depth) for depth in depths])
    axis.minorticks_off()
    common.save_figure(fig, "residual_depth", out)


if __name__ == "__main__":
    main()
