"""Activations: what each learns over learning rates, and how many of its units fall silent.

python -m scripts.experiments.activations
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from scripts.experiments import common

TITLE = "Activations: learning rates, dead units, saturation"
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu")
SILENT = 0.005  # of the largest slope; below the 0.01 of leaky relu


def network(name, pixels):
    """Five hidden layers, each with the initializer that suits the activation (nf.mlp's default)."""
    return nf.mlp([pixels, 64, 64, 64, 64, 64, 10], activation=name)


def build_of(name, pixels):
    def build(h):
        # Plain gradient descent: Adam would hide how large or small the gradients are.
        return nf.Task(network(name, pixels), nf.classification(), nf.optimizers.sgd(h["rate"]))

    return build


@partial(jax.jit, static_argnums=(0, 1))
def silence(name, pixels, params, x):
    """The fraction of silent pairs of unit and example, and of units silent for all: [trials] each.

    Silent: the activation's slope there is under SILENT of its largest, so hardly anything is learned
    through it. That is a saturated sigmoid or tanh, and a relu that is off.
    """
    slope = jax.vmap(jax.grad(nf.activations.by_name(name)))
    largest = slope(jnp.linspace(-8.0, 8.0, 4001)).max()

    def of_one(params):
        _, taps = nf.capture(network(name, pixels), "hidden_*/linear")(params, x)
        z = jnp.stack(list(taps.values()))  # [layers, examples, units]
        silent = jnp.abs(slope(z.ravel()).reshape(z.shape)) < SILENT * largest
        return silent.mean(), silent.all(1).mean()

    return jax.vmap(of_one)(params)


def main(argv=None):
    args = common.arguments(__doc__, argv)
    names = ("sigmoid", "relu", "leaky_relu") if args.small else ACTIVATIONS
    rates = (0.1, 1.5) if args.small else (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    steps, seeds = (150, 2) if args.small else (600, 5)
    found = common.images(mnist=False)
    data = found.splits.data(batch_size=64)
    inputs, _ = data.validation

    hypers, shape = common.grid(rate=rates, seed=range(seeds))
    results = {}
    for name in names:
        many = common.train_many(
            build_of(name, found.pixels),
            hypers,
            data,
            steps=steps,
            report_every=max(10, steps // 30),
            keys=common.seed_keys(hypers["seed"]),  # seed s has the same weights at every rate
        )
        silent, dead = silence(name, found.pixels, many.states.params, inputs)
        results[name] = {
            "accuracy": many.validation["accuracy"].reshape(shape),
            "loss": many.curves["loss"].reshape(*shape, -1),  # [rates, seeds, reports]
            "silent": np.asarray(silent).reshape(shape),
            "dead": np.asarray(dead).reshape(shape),
            "steps": many.steps,
        }

    draw(rates, results, args.out)
    rows = []
    for name, result in results.items():
        accuracy, half = common.interval(100 * result["accuracy"])  # [rates]
        best = accuracy.argmax()
        good = [rate for rate, a in zip(rates, accuracy, strict=True) if a > 95]
        usable = f"{good[0]:g} to {good[-1]:g}" if good else "none"
        silent, dead = 100 * result["silent"].mean(-1), 100 * result["dead"].mean(-1)
        rows.append(
            [
                name,
                f"{rates[best]:g}",
                f"{accuracy[best]:.1f} ± {half[best]:.1f}",
                usable,
                *(f"{silent[i]:.0f}, {dead[i]:.0f}" for i in (best, -2, -1)),
            ]
        )
    heads = [
        "activation",
        "best rate",
        "accuracy there, %",
        "rates above 95 %",
        "silent, dead there, %",
        f"at rate {rates[-2]:g}",
        f"at rate {rates[-1]:g}",
    ]
    about = (
        f"Held-out accuracy after {steps} steps of plain SGD with batch size 64 on {found.name}: five hidden "
        f"layers of 64 units; means of {seeds} seeds and 95 % intervals. Silent: pairs of unit and example for "
        f"which the slope of the activation is below {SILENT:.1%} of its maximum; dead: units that are silent "
        "for all held-out examples."
    )
    common.write_page(
        "activations",
        common.table(heads, rows),
        about,
        common.image("activations", "accuracy and dead units over learning rates, and loss curves"),
        title=TITLE,
        out=args.out,
        seconds=args.seconds(),
    )
    return dict(zip(("rates", "results"), (rates, results), strict=True))


def draw(rates, results, out):
    fig, (left, middle, right) = common.figure(1, 3, wide=11, high=3.6)
    for name, colour, marker in zip(results, common.COLOURS, common.MARKERS, strict=False):
        result, style = results[name], {"color": colour, "marker": marker, "label": name}
        accuracy, half = common.interval(100 * result["accuracy"])
        left.errorbar(rates, accuracy, half, capsize=2, **style)
        middle.plot(rates, 100 * result["dead"].mean(-1), **style)
        at = min(range(len(rates)), key=lambda i: abs(rates[i] - 0.1))
        right.plot(result["steps"], result["loss"][at].mean(0), color=colour, label=name)
    left.set(xscale="log", xlabel="learning rate", ylabel="held-out accuracy, %", ylim=(0, 102))
    left.set_title("accuracy")
    middle.set(xscale="log", xlabel="learning rate", ylabel="dead units, %", ylim=(-3, 103))
    middle.set_title("units silent for every example")
    right.set(yscale="log", xlabel="step", ylabel="training loss")
    right.set_title(f"learning at rate {rates[at]:g}")
    middle.legend(loc="upper left")
    common.save_figure(fig, "activations", out)


if __name__ == "__main__":
    main()
