"""Dropout: what it gains with few examples, and what it knows of inputs far from the data.

python -m scripts.experiments.dropout
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from scripts.experiments import _more, common

TITLE = "Dropout: generalisation, and uncertainty against a real ensemble"
KNOWN = 7  # the classes 0 to 6 are trained on; 7, 8 and 9 are digits that no network has seen
RATE = 0.3  # of MC dropout on images
METHODS = ("one network", "with dropout, not sampled", "MC dropout, 32 samples")


def by_rate(rates, seeds, examples, steps):
    """{"train", "test", "loss"}: [rates, seeds]: accuracies, and the test loss; nothing is dropped."""
    found = _more.small_images(examples=examples)
    splits = found.splits
    data = splits._replace(validation=None).data(32)
    hypers, shape = common.grid(rate=rates, seed=seeds)
    # At rate 0 the layer does nothing, so one program trains all rates.
    network = lambda rate: nf.mlp([found.pixels, 128, 128, 10], dropout=rate)

    def build(h):
        return nf.Task(network(h["rate"]), nf.classification(), nf.optimizers.adam(1e-3))

    keys = common.seed_keys(hypers["seed"])
    many = common.train_many(build, hypers, data, steps=steps, keys=keys)

    train, test = (
        _more.split_metrics(network(0.0), many.states.params, part, data.transform)
        for part in (splits.train, splits.test)
    )
    metrics = {"train": train[1], "test": test[1], "loss": test[0]}
    return found.name, {key: value.reshape(shape) for key, value in metrics.items()}


def regression(members, steps):
    """Means and deviations over x, {method: (mean, deviation)}: a curve known on two stretches."""
    random = np.random.RandomState(0)
    x = np.concatenate([random.uniform(-1, -0.6, 30), random.uniform(0.2, 1, 60)])[:, None]
    y = np.sin(4 * x) + 0.1 * random.normal(size=x.shape)
    x, y = x.astype(np.float32), y.astype(np.float32)
    data = nf.data.arrays((x, y), len(x))
    network = lambda rate: nf.mlp([1, 64, 64, 1], dropout=rate)

    def build(h):
        rate = nf.schedules.cosine(3e-3, steps)
        return nf.Task(network(h["rate"]), nf.regression(), nf.optimizers.adam(rate))

    # Member 0 drops values, in training and after; the others are the ensemble.
    hypers = {"rate": np.float32([0.1] + [0.0] * members)}
    params = common.train_many(build, hypers, data, steps=steps).states.params
    at = jnp.linspace(-2, 2, 201)[:, None]
    first = jax.tree.map(lambda leaf: leaf[0], params)
    sampled = jax.jit(partial(nf.mc_dropout, network(0.1), samples=200))
    mean, deviation = sampled(first, at, key=jax.random.key(1))
    each = _more.outputs(network(0.0), params, at)[1:, :, 0]
    return (
        (x[:, 0], y[:, 0]),
        np.asarray(at[:, 0]),
        {
            "MC dropout": (np.asarray(mean[:, 0]), np.asarray(deviation[:, 0])),
            f"ensemble of {members}": (np.asarray(each.mean(0)), np.asarray(each.std(0))),
        },
    )


def far_from_the_data(repeats, size, examples, steps):
    """Calibration, and how well entropy tells strange images, {method: {figure: [repeats]}}."""
    found = _more.small_images()
    x, y = found.splits.train
    train = tuple(part[y < KNOWN][:examples] for part in (x, y))
    data = found.splits._replace(train=train, validation=None, test=None, classes=KNOWN).data(32)
    x, y = found.splits.test
    x, y, others = x[y < KNOWN], y[y < KNOWN], x[y >= KNOWN]
    side, top = round(found.pixels**0.5), 255 if x.dtype == np.uint8 else 1
    noise = np.random.RandomState(0).normal(scale=0.3 * top, size=x.shape)
    sets = {
        "known": x,
        "noised": np.clip(x + noise, 0, top).astype(x.dtype),
        "turned": np.rot90(x.reshape(-1, side, side), axes=(1, 2)).reshape(x.shape),
        "other digits": others,
    }
    # Probabilities are what is averaged over masks and members; the mean of logits is another thing.
    network = lambda rate: nf.serial(net=nf.mlp([found.pixels, 128, 128, KNOWN], dropout=rate), softmax=jax.nn.softmax)

    def build(h):
        model = nf.mlp([found.pixels, 128, 128, KNOWN], dropout=h["rate"])
        return nf.Task(model, nf.classification(), nf.optimizers.adam(1e-3))

    # `repeats` networks with dropout, then as many ensembles of `size` without.
    hypers = {"rate": np.float32([RATE] * repeats + [0.0] * (repeats * size))}
    params = {"net": common.train_many(build, hypers, data, steps=steps).states.params}
    dropped, plain = (
        jax.tree.map(lambda leaf, part=part: leaf[part], params) for part in (slice(repeats), slice(repeats, None))
    )

    @jax.jit
    def predictions(x):
        """The probabilities of each method, [repeats, examples, KNOWN] each."""
        x = x if data.transform is None else data.transform(x)
        still = lambda own: network(0.0).apply(own, x)
        drawn = lambda own: nf.mc_dropout(network(RATE), own, x, key=jax.random.key(2))[0]
        alone = jax.lax.map(still, plain).reshape(repeats, size, len(x), KNOWN)
        return alone[:, 0], jax.lax.map(still, dropped), jax.lax.map(drawn, dropped), alone.mean(1)

    methods = (*METHODS, f"ensemble of {size}")
    by_set = {name: jax.device_get(predictions(x)) for name, x in sets.items()}
    strange = list(sets)[1:]
    results = {}
    for i, method in enumerate(methods):
        known = by_set["known"][i]
        logs = np.log(np.maximum(known, 1e-12))
        results[method] = own = {
            "accuracy": (known.argmax(-1) == y).mean(-1),
            "loss": -logs[:, np.arange(len(y)), y].mean(-1),
            "calibration": np.array([_more.calibration_error(one, y) for one in logs]),
        }
        for name in strange:
            scores = zip(_more.entropy(known), _more.entropy(by_set[name][i]), strict=True)
            own[name] = np.array([_more.auroc(*pair) for pair in scores])
    return strange, results


def main(argv=None):
    args = common.arguments(__doc__, argv)
    if args.small:
        rates, seeds, examples, steps = [0.0, 0.5], range(2), 100, 100
        curve, images = {"members": 5, "steps": 300}, (1, 3, 500, 100)
    else:
        rates, seeds, examples, steps = [0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8], range(5), 300, 1000
        curve, images = {"members": 10, "steps": 2000}, (5, 8, 1000, 500)
    name, metrics = by_rate(rates, seeds, examples, steps)
    points, at, curves = regression(**curve)
    strange, methods = far_from_the_data(*images)
    draw(rates, metrics, points, at, curves, strange, methods, args.out)

    text = _more.plus_minus
    first = common.table(
        ["rate", "training accuracy, %", "test accuracy, %", "test loss"],
        [
            [f"{rate:g}", text(train, 1, 100), text(test, 1, 100), text(loss, 3)]
            for rate, train, test, loss in zip(rates, *metrics.values(), strict=True)
        ],
    )
    places = {
        "in the data": (at > 0.2) & (at < 1),
        "in the gap": (at > -0.6) & (at < 0.2),
        "outside, 1.5 to 2": abs(at) > 1.5,
    }
    second = common.table(
        ["mean deviation of y", *places],
        [
            [method, *(f"{deviation[where].mean():.3f}" for where in places.values())]
            for method, (_, deviation) in curves.items()
        ],
    )
    heads = ["accuracy, %", "loss", "calibration error, %", *(f"AUROC, {name}" for name in strange)]
    third = common.table(
        ["method", *heads],
        [
            [
                method,
                text(own["accuracy"], 1, 100),
                text(own["loss"], 3),
                text(own["calibration"], 1, 100),
                *(text(own[name], 3) for name in strange),
            ]
            for method, own in methods.items()
        ],
    )
    repeats, _, few, short = images
    about = (
        f"{name}, {examples} training images. Two hidden layers of 128 units, Adam at 0.001, {steps} steps "
        f"with batch size 32; means and 95 % intervals over {len(seeds)} initializations.",
        f"Regression on 90 points in two intervals. Two hidden layers of 64 units, Adam, {curve['steps']} "
        "steps; dropout at 0.1, 200 samples.",
        f"Test images of the digits 0 to {KNOWN - 1}, after {short} steps with batch size 32 on {few} "
        f"training images of these digits; dropout at {RATE:g}. AUROC: how often the predictive entropy is "
        "larger for an out-of-distribution image than for an in-distribution one. "
        f"Means and 95 % intervals over {repeats} repetitions.",
    )
    common.write_page(
        "dropout",
        first,
        about[0],
        second,
        about[1],
        third,
        about[2],
        common.image("dropout", "accuracy by rate; a curve with its uncertainty; AUROC of entropy"),
        title=TITLE,
        out=args.out,
        seconds=args.seconds(),
    )
    return {"rates": rates, "metrics": metrics, "at": at, "curves": curves, "methods": methods}


def draw(rates, metrics, points, at, curves, strange, methods, out):
    fig, axes = common.figure(2, 2, wide=9, high=6)
    axis = axes[0, 0]
    for i, split in enumerate(("train", "test")):
        _more.errorbars(axis, rates, 100 * metrics[split], i, label=f"{split} images")
    axis.set(title="accuracy without dropping, %", xlabel="dropout rate in training")
    axis.legend()
    panels = (axes[0, 1], axes[1, 0])
    for axis, colour, (method, (mean, deviation)) in zip(
        panels, (common.ORANGE, common.GREEN), curves.items(), strict=True
    ):
        for times in (1, 2):
            low, high = mean - times * deviation, mean + times * deviation
            axis.fill_between(at, low, high, color=colour, alpha=0.25, lw=0)
        axis.plot(at, mean, color=colour)
        axis.plot(at, np.sin(4 * at), color=common.GREY, lw=1, ls=":")
        axis.plot(*points, ".", color=common.BLACK, ms=3)
        axis.set(title=f"{method}: mean, 1 and 2 deviations", xlabel="x", ylim=(-4, 4))
    axis = axes[1, 1]
    places = np.arange(len(strange))
    for i, (method, own) in enumerate(methods.items()):
        values = np.stack([own[name] for name in strange])
        _more.errorbars(axis, places, values, i, shift=0.12 * (i - 1.5), ls="", label=method)
    axis.set_xticks(places, strange)
    axis.set(title="AUROC of the entropy: strange or known?")
    axis.legend()
    common.save_figure(fig, "dropout", out)


if __name__ == "__main__":
    main()
