"""Schedules: six at equal budget, each at its own best rate; a Transformer with and without warm-up.

python -m scripts.experiments.schedules
"""

import jax
import numpy as np

import nnfunc as nf
from nnfunc import schedules
from scripts.experiments import _more, common

TITLE = "Schedules: six at equal budget, and what warm-up is for"
FAILED = 1.0  # nats of training loss; ten classes guessed have 2.3

# What each asks of a whole run of n steps, from its peak rate. The numbers in them are usual ones, not
# tuned: only the rate is.
SCHEDULES = {
    "constant": lambda peak, n: schedules.constant(peak),
    "step": lambda peak, n: schedules.step(peak, every=n / 3),
    "exponential": lambda peak, n: schedules.exponential(peak, factor=0.01, every=n),
    "cosine": lambda peak, n: schedules.cosine(peak, n),
    "one-cycle": lambda peak, n: schedules.one_cycle(peak, n),
    "warm-up, stable, decay": lambda peak, n: schedules.warmup_stable_decay(peak, 0.05 * n, n, decay_steps=0.2 * n),
}


def compare(names, rates, seeds, steps):
    """{schedule: rates' validation loss, best rate, test metrics and curves of the seeds at it}."""
    found = _more.small_images()
    data = found.splits.data(64)
    model = nf.mlp([found.pixels, 64, 10])
    hypers, shape = common.grid(rate=rates, seed=seeds)
    task = nf.Task(model, nf.classification(), None)

    results = {}
    for name in names:

        def build(h, schedule=SCHEDULES[name]):
            return task._replace(optimizer=nf.optimizers.sgd(schedule(h["rate"], steps), momentum=0.9))

        many = common.train_many(build, hypers, data, steps=steps, keys=common.seed_keys(hypers["seed"]))
        validation = many.validation["loss"].reshape(shape)
        # The rate is chosen on one set of images and reported on another: the least of many noisy
        # metrics is too good. A diverged run has no finite loss, and its rate is not chosen.
        best = int(np.argmin(np.nan_to_num(validation, nan=np.inf).mean(1)))
        trials = slice(best * shape[1], (best + 1) * shape[1])
        params = jax.tree.map(lambda leaf, at=trials: leaf[at], many.states.params)
        loss, accuracy = _more.split_metrics(model, params, found.splits.test, data.transform)
        results[name] = {
            "rate": rates[best],
            "validation": validation.mean(1),
            "steps": many.steps,
            "curve": many.curves["loss"].reshape(*shape, -1)[best].mean(0),
            "loss": loss,
            "accuracy": accuracy,
        }
    return found.name, results


def transformer(orders, rates, seeds, steps, layers):
    """Final training losses under Adam, {order: [rates, without and with warm-up, seeds]}."""
    # Digits read row by row, eight tokens of eight pixels.
    data = nf.data.digits(layout="image").data(32)
    dim = 32
    warmups = [0.0, steps / 4]
    hypers, shape = common.grid(rate=rates, warmup=warmups, seed=seeds)
    losses = {}
    for order in orders:
        block = nf.transformer_block(dim, nf.attention(dim, 4), nf.feed_forward(dim, 2 * dim), order=order)
        model = nf.serial(
            rows=lambda x: x[..., 0],
            stem=nf.linear(8, dim),
            positions=nf.learned_positions(8, dim),
            blocks=nf.repeat(block, layers),
            norm=nf.layer_norm(dim),  # what a pre-norm stack ends with; to the other it does nothing
            mean=lambda x: x.mean(-2),
            head=nf.linear(dim, 10),
        )

        def build(h, model=model):
            # Warm-up of 0 steps is off: one program trains both.
            rate = nf.schedules.warmup_linear(h["rate"], h["warmup"], steps)
            return nf.Task(model, nf.classification(), nf.optimizers.adam(rate))

        many = common.train_many(build, hypers, data, steps=steps, keys=common.seed_keys(hypers["seed"]))
        final = many.curves["loss"][:, -2:].mean(1)
        losses[order] = np.nan_to_num(final, nan=np.inf).reshape(shape)
    return warmups[1], losses


def main(argv=None):
    args = common.arguments(__doc__, argv)
    if args.small:
        names, rates, seeds, steps = ["constant", "one-cycle"], [0.1, 1.0], range(2), 150
        orders, peaks, runs, long, layers = ["post"], [1e-3, 1e-2], range(1), 80, 6
    else:
        names, rates = list(SCHEDULES), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
        seeds, steps = range(5), 600
        orders, peaks = ["post", "pre"], [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
        runs, long, layers = range(3), 240, 6
    name, results = compare(names, rates, seeds, steps)
    warmup, losses = transformer(orders, peaks, runs, long, layers)
    draw(rates, results, steps, peaks, losses, warmup, args.out)

    first = common.table(
        ["schedule", "best peak rate", "validation loss", "test loss", "test accuracy, %"],
        [
            [
                schedule,
                f"{r['rate']:g}",
                f"{r['validation'].min():.3f}",
                _more.plus_minus(r["loss"], 3),
                _more.plus_minus(r["accuracy"], 2, 100),
            ]
            for schedule, r in results.items()
        ],
    )
    kinds = [(order, w) for order in losses for w in (0, 1)]
    second = common.table(
        ["blocks", *(f"{peak:g}" for peak in peaks), "failed"],
        [
            [
                f"{order}-norm, {'warm-up' if w else 'no warm-up'}",
                *(f"{median:.3f}" for median in np.median(losses[order][:, w], -1)),
                f"{np.sum(losses[order][:, w] > FAILED)} of {losses[order][:, w].size}",
            ]
            for order, w in kinds
        ],
    )
    listed = ", ".join(f"{rate:g}" for rate in rates)
    about = (
        f"{name}, one hidden layer of 64 units, SGD with momentum 0.9, {steps} steps with batch size 64. "
        f"Each schedule at the best of the peak rates {listed} by validation loss; means and 95 % intervals "
        f"over {len(seeds)} initializations.",
        f"A Transformer of {layers} blocks on digits, Adam, {long} steps with batch size 32; the learning "
        f"rate falls linearly to 0 from each peak, and warm-up takes {warmup:g} of the steps. Medians of the "
        f"final training loss over {len(runs)} initializations. Failed: runs that end above {FAILED:g} nat.",
    )
    common.write_page(
        "schedules",
        first,
        about[0],
        second,
        about[1],
        common.image("schedules", "rates and losses of six schedules; a Transformer by peak rate"),
        title=TITLE,
        out=args.out,
        seconds=args.seconds(),
    )
    return {"schedules": results, "peaks": peaks, "transformer": losses}


def draw(rates, results, steps, peaks, losses, warmup, out):
    fig, axes = common.figure(2, 2, wide=9, high=6)
    at = np.arange(steps)
    for i, (name, found) in enumerate(results.items()):
        style = {"color": common.COLOURS[i]}
        axes[0, 0].plot(at, SCHEDULES[name](found["rate"], steps)(at), label=name, **style)
        axes[0, 1].plot(rates, found["validation"], marker=common.MARKERS[i], **style)
        axes[1, 0].plot(found["steps"], found["curve"], **style)
    axes[0, 0].set(title="each at its own best peak", xlabel="step", ylabel="rate")
    axes[0, 0].legend()
    axes[0, 1].set(title="validation loss", xlabel="peak rate", xscale="log", yscale="log")
    axes[1, 0].set(title="training loss, at the best rate", xlabel="step", yscale="log")
    for axis in (axes[0, 1], axes[1, 0]):
        axis.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
        axis.minorticks_off()
    axis = axes[1, 1]
    for order, colour in zip(losses, (common.RED, common.BLUE), strict=False):
        for w, line in enumerate((":", "-")):
            values = np.minimum(losses[order][:, w], 4)
            label = f"{order}-norm, {f'{warmup:g} steps' if w else 'no warm-up'}"
            axis.plot(peaks, np.median(values, 1), ls=line, color=colour, label=label)
            axis.plot(peaks, values, ".", color=colour, mfc=colour if w else "white")
    axis.axhline(np.log(10), color=common.BLACK, lw=0.8)
    axis.set(title="Transformer, final training loss", xlabel="peak rate", xscale="log", yscale="log")
    axis.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    axis.minorticks_off()
    axis.set_ylim(0.06, 12)  # room for the legend
    axis.legend(loc="upper left")
    common.save_figure(fig, "schedules", out)


if __name__ == "__main__":
    main()
