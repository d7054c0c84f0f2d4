"""Initialization: the variance of activations and gradients through 50 layers, measured and predicted.

python -m scripts.experiments.initialization
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from nnfunc import initializers
from scripts.experiments import common

DEPTH = 50
TITLE = "Initialization: what 50 layers make of a variance"

# Name, activation, initializer, and the variance of a weight times fan_in, which the theory asks for.
# In square layers fan_in is fan_out, and Xavier and LeCun are the same; `scaled` is a wrong gain.
CHOICES = [
    ("Xavier", "tanh", initializers.xavier_normal, 1.0),
    ("Xavier, gain 5/3", "tanh", initializers.scaled(initializers.xavier_normal, 5 / 3), 25 / 9),
    ("Xavier x 3 (too large)", "tanh", initializers.scaled(initializers.xavier_normal, 3.0), 9.0),
    ("Xavier / 3 (too small)", "tanh", initializers.scaled(initializers.xavier_normal, 1 / 3), 1 / 9),
    ("He", "relu", initializers.he_normal, 2.0),
    ("LeCun or Xavier", "relu", initializers.lecun_normal, 1.0),
    ("He x 2 (too large)", "relu", initializers.scaled(initializers.he_normal, 2.0), 8.0),
    ("He / 4 (too small)", "relu", initializers.scaled(initializers.he_normal, 0.25), 1 / 8),
    ("LeCun", "selu", initializers.lecun_normal, 1.0),
    ("He (too large)", "selu", initializers.he_normal, 2.0),
    ("LeCun / 2 (too small)", "selu", initializers.scaled(initializers.lecun_normal, 0.5), 1 / 4),
]


def network(width, activation, weight_init):
    """DEPTH equal layers; `repeat` stacks their parameters, and compiles one of them."""
    layer = nf.serial(linear=nf.linear(width, width, weight_init=weight_init), act=nf.activations.by_name(activation))
    return nf.serial(blocks=nf.repeat(layer, DEPTH))


def log_variance(values):
    """log10 of the mean square of each layer's values, [depth, ...] -> [depth].

    Squares of small float32 numbers are 0, so the largest value is taken out first.
    """
    values = values.reshape(DEPTH, -1)
    largest = jnp.maximum(jnp.abs(values).max(1), 1e-45)
    scaled = jnp.square(values / largest[:, None]).mean(1)
    return 2 * jnp.log10(largest) + jnp.log10(scaled)


@partial(jax.jit, static_argnums=0)
def measure(activation, params, x, direction):
    """log10 variance of the sums z^l and of the gradients dC/dz^l, [networks, depth] each.

    For one example, dC/dz^l is the gradient of layer l's bias. C is the output along a random
    direction, so that the gradient at the last layer has variance 1 before its activation.
    """
    model = network(x.shape[1], activation, initializers.zeros)

    def of_one(params):
        # [depth, examples, width]; inside `repeat` one path stands for all layers
        _, taps = nf.capture(model, "blocks/*/linear")(params, x)

        def output_along(bias, x, direction):
            linear = params["blocks"]["linear"] | {"bias": bias}
            return jnp.vdot(model.apply({"blocks": {"linear": linear}}, x), direction)

        gradient = jax.vmap(jax.grad(output_along), in_axes=(None, 0, 0))
        delta = gradient(params["blocks"]["linear"]["bias"], x, direction)  # [examples, depth, width]
        return log_variance(taps["blocks/*/linear"]), log_variance(jnp.moveaxis(delta, 1, 0))

    return jax.vmap(of_one)(params)


def predicted(activation, weight_variance):
    """The same two for infinitely wide layers, whose sums z are normal: [depth] each.

    Var z^(l+1) = s E[f(z^l)^2] and Var dC/dz^l = s E[f'(z^l)^2] Var dC/dz^(l+1), s being the variance
    of a weight times fan_in. Poole et al. 2016, arXiv:1606.05340; Schoenholz et al., arXiv:1611.01232.
    """
    f = nf.activations.by_name(activation)
    value_and_slope = jax.jit(jax.vmap(jax.value_and_grad(f)))
    # A fine even grid, not Gauss's points: selu and relu have a kink at 0.
    points = np.linspace(-8, 8, 16001)
    weights = np.exp(-(points**2) / 2)
    weights = weights / weights.sum()

    forward, slopes = [weight_variance], []  # the inputs have variance 1
    for _ in range(DEPTH):
        both = value_and_slope(jnp.asarray(np.sqrt(forward[-1]) * points, jnp.float32))
        value, slope = (weights @ np.square(np.asarray(part, np.float64)) for part in both)
        forward.append(weight_variance * value)
        slopes.append(slope)
    steps = np.log10(slopes[::-1])
    steps[1:] += math.log10(weight_variance)  # behind the last layer there are no weights
    return np.log10(forward[:DEPTH]), np.cumsum(steps)[::-1]


def main(argv=None):
    args = common.arguments(__doc__, argv)
    width, examples, networks = (64, 8, 32) if args.small else (256, 32, 64)
    x, direction = jax.random.normal(jax.random.key(1), (2, examples, width))

    results = {}
    for name, activation, weight_init, weight_variance in CHOICES[4:6] if args.small else CHOICES:
        model = network(width, activation, weight_init)
        keys = jax.random.split(jax.random.key(0), networks)
        params = jax.jit(lambda keys, model=model: jax.lax.map(model.init, keys))(keys)
        measured = np.asarray(measure(activation, params, x, direction), np.float64)
        results[name, activation] = (*measured, *predicted(activation, weight_variance))

    draw(results, args.out)
    rows = []
    for (name, activation), (forward, backward, theory, theory_back) in results.items():
        # The mean over networks is of the variances themselves; theory speaks of that one.
        grown = mean_variance(forward)[-1] - mean_variance(forward)[0]
        back = mean_variance(backward)[0] - mean_variance(backward)[-1]
        powers = (grown, theory[-1] - theory[0], back, theory_back[0] - theory_back[-1])
        cells = [f"{round(float(power), 1) + 0.0:.1f}" for power in powers]  # + 0.0: never -0.0
        rows.append([f"{name}, {activation}", *cells, f"{np.std(forward[:, -1]):.2f}"])
    heads = [
        "initializer, activation",
        "activations: measured",
        "predicted",
        "gradients: measured",
        "predicted",
        "spread",
    ]
    about = (
        f"Change of the variance over {DEPTH} layers of {width} units, in powers of ten: of the "
        "pre-activations z from the first layer to the last, and of the gradients dC/dz from the last to the "
        f"first. Means over {networks} networks; spread: the standard deviation of the change of z across "
        "networks."
    )
    common.write_page(
        "initialization",
        common.table(heads, rows),
        about,
        common.image("initialization", "variances of activations and gradients over the layers"),
        title=TITLE,
        out=args.out,
        seconds=args.seconds(),
    )
    return results


def mean_variance(logs):
    """log10 of the mean over networks of 10 ** logs, [networks, depth] -> [depth]."""
    top = logs.max(0)
    return top + np.log10(np.mean(10 ** (logs - top), 0))


def draw(results, out):
    fig, axes = common.figure(2, 3, high=5.2, sharex=True)
    layers = np.arange(1, DEPTH + 1)
    theory_style = {"color": "black", "ls": (0, (1, 2)), "lw": 1.2}
    for column, wanted in enumerate(("tanh", "relu", "selu")):
        colours = iter((common.BLUE, common.ORANGE, common.RED, common.PURPLE))
        for (name, activation), found in results.items():
            if activation != wanted:
                continue
            colour = next(colours)
            for axis, logs, theory in zip(axes[:, column], found[:2], found[2:], strict=True):
                low, high = np.quantile(logs, [0.1, 0.9], axis=0)
                axis.fill_between(layers, low, high, color=colour, alpha=0.2, lw=0)
                axis.plot(layers, mean_variance(logs), color=colour, label=name)
                axis.plot(layers, theory, **theory_style)
            axes[0, column].legend()
        axes[0, column].set_title(wanted)
        axes[1, column].set_xlabel("layer")
    for axis in axes.flat:
        axis.set_ylim(-13, 13)
        axis.set_yticks(range(-12, 13, 4), [f"$10^{{{power}}}$" for power in range(-12, 13, 4)])
    axes[0, 0].set_ylabel("variance of the sums z")
    axes[1, 0].set_ylabel("variance of dC/dz")
    theory = axes[1, 2].plot([], [], **theory_style)
    axes[1, 2].legend(theory, ["predicted for infinite width"])
    common.save_figure(fig, "initialization", out)


if __name__ == "__main__":
    main()
