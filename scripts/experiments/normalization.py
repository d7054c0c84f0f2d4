"""Normalization: batch, layer, group, RMS and none, over batch sizes and learning rates.

python -m scripts.experiments.normalization
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from scripts.experiments import common

TITLE = "Normalization: batch sizes, learning rates, and batch norm's two modes"
WIDTH = 64
NORMS = {
    "none": None,
    "batch": nf.batch_norm,
    # Algorithm 2 of the paper: statistics that are the plain mean over all batches seen
    "batch, averaged": partial(nf.batch_norm, convention="paper"),
    "layer": nf.layer_norm,
    "group": partial(nf.group_norm, 8),
    "rms": nf.rms_norm,
}
TRAINED = ("none", "batch", "layer", "group", "rms")


def network(norm, pixels):
    """A stem, six hidden layers of linear, norm, relu, and a head."""

    def hidden(in_dim):
        linear = nf.linear(in_dim, WIDTH, weight_init=nf.initializers.he_normal)
        layers = {"linear": linear} | ({"norm": NORMS[norm](WIDTH)} if NORMS[norm] else {})
        return nf.serial(**layers, act=jax.nn.relu)

    return nf.serial(stem=hidden(pixels), blocks=nf.repeat(hidden(WIDTH), 6), head=nf.linear(WIDTH, 10))


def build_of(norm, pixels):
    def build(h):
        return nf.Task(network(norm, pixels), nf.classification(), nf.optimizers.sgd(h["rate"]))

    return build


def both(logits, labels):
    """(mean cross-entropy, accuracy)."""
    loss = nf.losses.cross_entropy(logits, labels).mean()
    return loss, (logits.argmax(-1) == labels).astype(jnp.float32).mean()


@partial(jax.jit, static_argnums=(0, 1))
def two_modes(pixels, batches, states, data):
    """(loss, accuracy) of trained batch-norm networks, [trials] each, by mode.

    training: on held-out batches of the training's size, each normalised by its own statistics.
    running: with the statistics kept in training. {k}: with the mean over k training batches of the
    statistics of the final network ("precise" statistics: Wu and Johnson 2021, arXiv:2105.07576).
    """
    model = network("batch, averaged", pixels)
    held_out, labels = data.validation
    whole = len(labels) // data.batch_size  # batches, without the rest

    def of_one(params, kept):
        def normalised_by_itself(x):
            ctx = nf.Context(train=True, state=model.init_state())
            return model.forward(params, x, ctx)[0]

        x = held_out[: whole * data.batch_size].reshape(whole, data.batch_size, -1)
        logits = jax.vmap(normalised_by_itself)(x).reshape(-1, 10)
        found = {"training": both(logits, labels[: len(logits)])}
        plain = network("batch", pixels)
        found["running"] = both(plain.apply(params, held_out, state=kept), labels)

        def see(step, state):
            x, _ = data.batch(step)
            ctx = nf.Context(train=True, state=state)
            return model.forward(params, x, ctx)[1].state

        state, seen = model.init_state(), 0
        for k in batches:
            state = jax.lax.fori_loop(seen, k, see, state)
            seen = k
            found[str(k)] = both(model.apply(params, held_out, state=state), labels)
        return found

    return jax.lax.map(lambda s: of_one(s.params, s.model_state), states)


def main(argv=None):
    args = common.arguments(__doc__, argv)
    norms = ("batch",) if args.small else TRAINED
    batch_sizes = (2, 64) if args.small else (2, 4, 16, 128)
    rates = (0.1,) if args.small else (0.01, 0.03, 0.1, 0.3, 1.0)
    examples, seeds = (3200, 2) if args.small else (6400, 3)  # examples seen by each run
    batches = (1, 100) if args.small else (1, 3, 10, 30, 100, 300, 1000)
    images = common.images(mnist=False)

    hypers, shape = common.grid(rate=rates, seed=range(seeds))
    accuracy, modes = {}, {}
    for batch_size in batch_sizes:
        data = images.splits.data(batch_size)
        for norm in norms:
            steps = examples // batch_size
            many = common.train_many(
                build_of(norm, images.pixels),
                hypers,
                data,
                steps=steps,
                report_every=steps,
                keys=common.seed_keys(hypers["seed"]),
            )
            print(f"batch {batch_size}, {norm}: {args.seconds():.0f} s", flush=True)
            accuracy[norm, batch_size] = many.validation["accuracy"].reshape(shape)
            if norm == "batch":
                # The seeds at the rate that was best by their mean, in inference.
                best = int(accuracy[norm, batch_size].mean(-1).argmax())
                chosen = slice(best * seeds, (best + 1) * seeds)
                states = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], many.states)
                # Another seed: an order of examples that training did not end with.
                other = dataclasses.replace(data, seed=jnp.uint32(1))
                found = jax.device_get(two_modes(images.pixels, batches, states, other))
                modes[batch_size] = rates[best], found

    draw(batch_sizes, rates, batches, accuracy, modes, args.out)
    rows = []
    for norm in norms:
        cells = []
        for batch_size in batch_sizes:
            mean, half = common.interval(100 * accuracy[norm, batch_size])  # [rates]
            best = mean.argmax()
            cells.append(f"{mean[best]:.1f} ± {half[best]:.1f} at {rates[best]:g}")
        rows.append([norm, *cells])
    by_size = common.table(["norm", *(f"batch {size}" for size in batch_sizes)], rows)
    rows = []
    for batch_size, (rate, found) in modes.items():
        cells = [
            f"{np.mean(found[mode][0]):.3f}, {100 * np.mean(found[mode][1]):.1f}"
            for mode in ("training", "running", *map(str, batches))
        ]
        rows.append([f"{batch_size} at {rate:g}", *cells])
    heads = ["batch, rate", "its own batch's", "running", *(f"mean of {k}" for k in batches)]
    common.write_page(
        "normalization",
        f"Held-out accuracy in percent at the best learning rate, {images.name}, seven hidden layers "
        f"of {WIDTH} units, plain SGD. Every run sees {examples} examples, {examples // 1257} "
        f"epochs, so small batches take more steps; means of {seeds} seeds and 95 % intervals:",
        by_size,
        "Batch norm: loss and accuracy on held-out examples, by the source of its statistics: those of the "
        "batch itself, as in training; the running statistics, momentum 0.1; the mean over a number of "
        "batches, computed after training:",
        common.table(heads, rows),
        common.image("normalization", "accuracy over rates and batch sizes, and loss by statistics"),
        title=TITLE,
        out=args.out,
        seconds=args.seconds(),
    )
    return accuracy, modes


def draw(batch_sizes, rates, batches, accuracy, modes, out):
    fig, axes = common.figure(1, len(batch_sizes) + 1, wide=12, high=3.5)
    for axis, batch_size in zip(axes, batch_sizes, strict=False):
        for norm, colour, marker in zip(TRAINED, common.COLOURS, common.MARKERS, strict=False):
            if (norm, batch_size) in accuracy:
                mean, half = common.interval(100 * accuracy[norm, batch_size])
                style = {"color": colour, "marker": marker, "capsize": 2, "label": norm}
                axis.errorbar(rates, mean, half, **style)
        axis.set(xscale="log", xlabel="learning rate", ylim=(0, 103))
        axis.set_title(f"batch {batch_size}")
    axes[0].set_ylabel("held-out accuracy, %")
    axes[0].legend(loc="upper right")
    last = axes[-1]
    for (batch_size, (_, found)), colour in zip(modes.items(), common.COLOURS, strict=False):
        losses = [np.mean(found[str(k)][0]) for k in batches]
        last.plot(batches, losses, marker="o", color=colour, label=f"batch {batch_size}")
        for mode, ls in (("running", "--"), ("training", ":")):
            last.axhline(np.mean(found[mode][0]), color=colour, ls=ls, lw=1.2)
    lines = "batches averaged\n(-- running, ·· its own batch)"
    last.set(xscale="log", yscale="log", ylim=(0.1, 10), xlabel=lines)
    last.set_title("batch norm: held-out loss")
    last.legend()
    common.save_figure(fig, "normalization", out)


if __name__ == "__main__":
    main()
