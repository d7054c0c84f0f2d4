"""Universal approximation: error against width, and against depth at equal parameters.

python -m scripts.experiments.universal_approximation
"""

import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from scripts.experiments import common

TITLE = "Universal approximation: what width buys, and what depth"

# Of x in [-1, 1], or of a point of the square [-1, 1] x [-1, 1]; each has a deviation of about 1.
FUNCTIONS = {
    "smooth": lambda x, _: 1.4 * np.sin(np.pi * x),
    "kinked": lambda x, _: 3.4 * (np.abs(np.mod(2 * x, 2) - 1) - 0.5),  # a saw of two teeth
    "jump": lambda x, _: np.where(x > 0.2, 1.0, -1.0),
    "fast": lambda x, _: 1.4 * np.sin(8 * np.pi * x),
    "plane": lambda x, y: 2.0 * np.sin(np.pi * x) * np.cos(np.pi * y),
}


def points(n, seed):
    """Inputs [n, functions, 2] and values [n, functions]; functions of x alone are given y = 0."""
    drawn = np.random.default_rng(seed).uniform(-1, 1, (n, 2))
    flat = drawn * [1, 0]
    x = np.stack([drawn if name == "plane" else flat for name in FUNCTIONS], 1)
    y = np.stack([f(x[:, i, 0], x[:, i, 1]) for i, f in enumerate(FUNCTIONS.values())], 1)
    return x.astype(np.float32), y.astype(np.float32)


def network(activation, widest, depth, width):
    """`depth` hidden layers of up to `widest` units; width, which may be traced, says how many live.

    The others are multiplied by 0, so that networks of every width have one shape and one program.
    """
    f = nf.activations.by_name(activation)
    alive = (jnp.arange(widest, dtype=jnp.float32) < width).astype(jnp.float32)

    def hidden(in_dim, weight_init, bias_init):
        linear = nf.linear(in_dim, widest, weight_init=weight_init, bias_init=bias_init)
        return nf.serial(linear=linear, act=f, mask=lambda x: x * alive)

    # With the usual biases of 0 every kink would lie at x = 0: spread them over the interval.
    spread = nf.initializers.normal(3.0), nf.initializers.uniform(-3.0, 3.0)
    layers = {"first": hidden(2, *spread)}
    he = nf.initializers.init_for(activation), nf.initializers.zeros
    layers |= {f"hidden_{i}": hidden(widest, *he) for i in range(1, depth)}
    unit = nf.initializers.scaled(nf.initializers.normal(1.0), width**-0.5)
    return nf.serial(**layers, head=nf.linear(widest, 1, weight_init=unit))


def build_of(activation, widest, depth, steps):
    def build(h):
        model = network(activation, widest, depth, h.get("width", jnp.float32(widest)))

        def objective(predict, batch):
            # which function a member learns is a number, too: all of them share one program
            x, y = (jnp.take(part, h["function"], axis=1) for part in batch)
            return jnp.square(predict(x)[:, 0] - y).mean(), {}

        rate = nf.schedules.cosine(h["rate"], steps)
        return nf.Task(model, objective, nf.optimizers.adam(rate))

    return build


def errors(build, data, steps, **axes):
    """Root mean square error on held-out points as a share of the function's deviation.

    [functions, ..., seeds]: for each, the better of the rates (by the mean over the seeds).
    """
    hypers, shape = common.grid(function=range(len(FUNCTIONS)), **axes)
    keys = common.seed_keys(hypers["seed"])
    many = common.train_many(build, hypers, data, steps=steps, keys=keys, report_every=steps)
    _, y = data.validation
    found = np.sqrt(many.validation["loss"]).reshape(shape)  # [functions, rates, ..., seeds]
    best = found.mean(-1, keepdims=True).argmin(1)[:, None]
    found = np.take_along_axis(found, best, 1)[:, 0]
    return found / np.std(np.asarray(y), 0).reshape(-1, *[1] * (found.ndim - 1))


def spline_errors(data, widths):
    """The same for a line of `width` even pieces, which that many relus can draw: [f, widths]."""
    x, y = (np.asarray(part, np.float64) for part in data.validation)
    rows = []
    for i, (name, f) in enumerate(FUNCTIONS.items()):
        if name != "plane":
            knots = [np.linspace(-1, 1, width + 1) for width in widths]
            drawn = [np.interp(x[:, i, 0], k, f(k, 0 * k)) for k in knots]
            rows.append([np.sqrt(np.mean((line - y[:, i]) ** 2)) / y[:, i].std() for line in drawn])
    return np.array(rows)


def equal_widths(parameters, depths):
    """The width with which a network of each depth comes nearest to that many parameters."""

    def count(width, depth):
        return 3 * width + (depth - 1) * width * (width + 1) + width + 1

    return [min(range(2, 1000), key=lambda w: abs(count(w, d) - parameters)) for d in depths]


def main(argv=None):
    args = common.arguments(__doc__, argv)
    widths = (2, 32) if args.small else (2, 4, 8, 16, 32, 64, 128)
    depths = (1, 2) if args.small else (1, 2, 3, 5)
    parameters = 100 if args.small else 1000
    steps, seeds = (300, 2) if args.small else (2000, 4)
    rates = (1e-2,) if args.small else (3e-3, 2e-2)
    activations = ("relu",) if args.small else ("relu", "tanh")
    data = nf.data.arrays(points(512, 0), batch_size=128, validation=points(1024, 1))

    axes = {"rate": rates, "seed": range(seeds)}
    by_width, by_depth = {}, {}
    for activation in activations:
        wide = {"rate": rates, "width": np.array(widths, float), "seed": range(seeds)}
        build = build_of(activation, max(widths), 1, steps)
        by_width[activation] = errors(build, data, steps, **wide)
        # Depth changes the shapes: one program for each.
        by_depth[activation] = np.stack(
            [
                errors(build_of(activation, width, depth, steps), data, steps, **axes)
                for depth, width in zip(depths, equal_widths(parameters, depths), strict=True)
            ],
            1,
        )
    splines = spline_errors(data, widths)

    draw(widths, depths, parameters, by_width, by_depth, splines, args.out)
    tables = []
    for over, values, found in (("width", widths, by_width), ("depth", depths, by_depth)):
        rows = [
            [f"{name}, {activation}", *(f"{np.median(cell):.4f}" for cell in found[activation][i])]
            for i, name in enumerate(FUNCTIONS)
            for activation in activations
        ]
        if over == "width":
            rows += [
                [f"{name}, even pieces", *(f"{e:.4f}" for e in errors_)]
                for name, errors_ in zip(FUNCTIONS, splines, strict=False)
            ]
        tables.append(common.table([f"function, {over}", *values], rows))
    pairs = zip(depths, equal_widths(parameters, depths), strict=True)
    shapes = ", ".join(f"{depth} x {width}" for depth, width in pairs)
    common.write_page(
        "universal_approximation",
        "Root mean square error on held-out points, relative to the function's standard deviation; "
        f"medians of {seeds} seeds, at the better of Adam's learning rates "
        f"{', '.join(f'{r:g}' for r in rates)}, {steps} steps. One hidden layer, over its width, and the "
        "piecewise linear function with that many equal pieces:",
        tables[0],
        f"Over depth, with about {parameters} parameters (depth x width: {shapes}):",
        tables[1],
        common.image("universal_approximation", "errors over width, and over depth"),
        title=TITLE,
        out=args.out,
        seconds=args.seconds(),
    )
    return by_width, by_depth, splines


def draw(widths, depths, parameters, by_width, by_depth, splines, out):
    fig, axes = common.figure(2, len(FUNCTIONS), wide=11, high=4.6, sharey=True)
    styles = {"relu": (common.BLUE, "o"), "tanh": (common.RED, "s")}
    for row, (values, found) in enumerate(((widths, by_width), (depths, by_depth))):
        for i, axis in enumerate(axes[row]):
            for activation, errors_ in found.items():
                colour, marker = styles[activation]
                axis.plot(values, np.median(errors_[i], -1), color=colour, marker=marker, label=activation)
                axis.fill_between(values, errors_[i].min(-1), errors_[i].max(-1), color=colour, alpha=0.2, lw=0)
            if row == 0 and i < len(splines):
                style = {"color": common.GREY, "ls": "--", "lw": 1.2}
                axis.plot(values, splines[i], label="even pieces", **style)
            axis.set(yscale="log", ylim=(2e-4, 3))
            axis.set_xticks(values, [str(v) for v in values])
            axis.set_xlabel("width" if row == 0 else f"depth, {parameters} parameters")
        axes[row, 0].set_ylabel("error / deviation")
    for i, (axis, name) in enumerate(zip(axes[0], FUNCTIONS, strict=True)):
        axis.set_title(name)
        axis.set_xscale("log", base=2)
        axis.set_xticks(widths, [str(w) for w in widths])
        if i == 0:
            axis.legend()
    common.save_figure(fig, "universal_approximation", out)


if __name__ == "__main__":
    main()
