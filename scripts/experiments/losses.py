"""Losses: focal against cross-entropy where classes are rare, Huber against MSE where targets lie.

python -m scripts.experiments.losses
"""

import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from scripts.experiments import _more, common

TITLE = "Losses: rare classes and outliers"
RATIO = 50  # the commonest class has 50 times the examples of the rarest
RARE = 3  # so many classes are called rare
KINDS = {"MSE": ("mse", 1.0), "Huber, delta 1": ("huber", 1.0), "Huber, delta 0.3": ("huber", 0.3), "MAE": ("mae", 1.0)}


def imbalanced(part, order, largest):
    """The first examples of each class, their counts falling by RATIO along the order of classes."""
    x, y = part
    counts = largest * float(RATIO) ** (-np.arange(10) / 9)
    kept = [np.flatnonzero(y == label)[: max(2, round(count))] for label, count in zip(order, counts, strict=True)]
    return x[np.concatenate(kept)], y[np.concatenate(kept)]


def rare_classes(draws, gammas, powers, steps):
    """{"accuracy" (balanced), "rare" (their recall), "calibration"}: [gammas, powers, draws] each."""
    found = _more.small_images()
    hypers, shape = common.grid(gamma=gammas, power=powers)
    model = nf.mlp([found.pixels, 64, 10])
    x, y = found.splits.test
    rows = []
    for draw in range(draws):
        # Another draw has other rare classes and other initial values: no finding is about one digit.
        order = np.random.RandomState(draw).permutation(10)
        largest = 1000 if found.pixels > 64 else 120
        train, alike = (imbalanced(part, order, largest) for part in (found.splits.train, (x, y)))
        data = found.splits._replace(train=train, validation=None, test=None).data(64)
        share = jnp.asarray(np.bincount(train[1]) / len(train[1]), jnp.float32)

        def build(h, share=share):
            # Power 0: all examples count alike; 1: all classes do. Their mean weight is 1.
            weights = share ** -h["power"]
            weights = weights / (weights * share).sum()
            objective = nf.classification(gamma=h["gamma"], weight=weights)
            return nf.Task(model, objective, nf.optimizers.adamw(1e-3))

        keys = common.seed_keys(np.full(len(hypers["gamma"]), draw))
        params = common.train_many(build, hypers, data, steps=steps, keys=keys).states.params
        guess = np.asarray(_more.outputs(model, params, x, data.transform)).argmax(-1)
        recall = np.stack([(guess[:, y == label] == label).mean(1) for label in order], 1)
        # Confidence can only be right where classes are as frequent as they were in training.
        logits = _more.outputs(model, params, alike[0], data.transform)
        error = [_more.calibration_error(own, alike[1]) for own in logits]
        rows.append((recall.mean(1), recall[:, -RARE:].mean(1), np.array(error)))
    names = ("accuracy", "rare", "calibration")
    columns = [np.stack(column, -1).reshape(*shape, draws) for column in zip(*rows, strict=True)]
    return found.name, dict(zip(names, columns, strict=True))


def friedman(x):
    """Friedman's first function, brought to mean 0 and deviation 1: five of ten inputs matter.

    Source: Friedman 1991, Annals of Statistics 19, section 4.3.
    """
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    return (y + 10 * x[:, 3] + 5 * x[:, 4] - 14.41) / 4.88


def outliers(kinds, shares, draws, steps):
    """Error against the true function on new inputs, {loss: [shares, draws]}."""
    random = np.random.RandomState(0)
    x, fresh = random.uniform(size=(2, 2000, 10)).astype(np.float32)
    # [examples, shares, draws]: every member reads a column of its own, and all share x.
    noisy = friedman(x)[:, None, None] + 0.2 * random.normal(size=(len(x), 1, draws))
    hit = random.uniform(size=(len(x), 1, draws)) < np.reshape(shares, (-1, 1))
    # One-sided, as of a sensor that sticks at its upper end: they move the mean of the targets too.
    data = nf.data.arrays((x, np.where(hit, 6.0, noisy).astype(np.float32)), 64)
    model = nf.mlp([10, 64, 64, 1])
    hypers, shape = common.grid(share=range(len(shares)), draw=range(draws))
    errors = {}
    for name, (kind, delta) in kinds.items():
        objective = nf.regression(kind, delta=delta)

        def build(h, objective=objective):
            def of_own_column(predict, batch):
                x, targets = batch
                target = targets[:, h["share"], h["draw"]]
                return objective(lambda x: predict(x)[:, 0], (x, target))

            rate = nf.schedules.cosine(3e-3, steps)  # the gradient of MAE never shrinks by itself
            return nf.Task(model, of_own_column, nf.optimizers.adam(rate))

        keys = common.seed_keys(hypers["draw"])
        params = common.train_many(build, hypers, data, steps=steps, keys=keys).states.params
        y = np.asarray(_more.outputs(model, params, fresh))[..., 0]
        errors[name] = np.sqrt(np.mean((y - friedman(fresh)) ** 2, -1)).reshape(shape)
    return errors


def main(argv=None):
    args = common.arguments(__doc__, argv)
    if args.small:
        gammas, powers, shares, kinds = [0.0, 2.0], [0.0, 1.0], [0.0, 0.2], ["MSE", "MAE"]
        draws, steps = 1, 150
    else:
        gammas, powers, draws, steps = [0.0, 1.0, 2.0, 5.0], [0.0, 0.5, 1.0], 5, 600
        shares, kinds = [0.0, 0.05, 0.1, 0.2, 0.3], list(KINDS)
    name, classes = rare_classes(draws, gammas, powers, steps)
    errors = outliers({kind: KINDS[kind] for kind in kinds}, shares, draws, steps)
    draw_all(gammas, powers, classes, shares, errors, args.out)

    rows = []
    for p, power in enumerate(powers):
        for g, gamma in enumerate(gammas):
            own = [figure[g, p] for figure in classes.values()]
            # Within a draw: which classes are the rare ones matters more than all else.
            own.insert(1, own[0] - classes["accuracy"][0, 0])
            metrics = [_more.plus_minus(values, factor=100) for values in own]
            rows.append([f"gamma {gamma:g}, weights {power:g}", *metrics])
    heads = ["focal loss", "balanced accuracy, %", "gain", "recall of the rare, %", "calibration error, %"]
    first = common.table(heads, rows)
    second = common.table(
        ["loss", *(f"{100 * share:g} % outliers" for share in shares)],
        [[kind, *(_more.plus_minus(v, 3) for v in error)] for kind, error in errors.items()],
    )
    about = (
        f"{name}, with class counts that fall {RATIO}-fold from the most to the least frequent class. One "
        f"hidden layer of 64 units, AdamW at 0.001, {steps} steps with batch size 64. Means and 95 % "
        f"intervals over {draws} draws, each with different rare classes. Gamma 0 is cross-entropy. Weights: "
        "the exponent of 1 / frequency in the class weights. Gain: in balanced accuracy, over unweighted "
        f"cross-entropy in the same draw. The rare: the {RARE} rarest classes. Calibration: on test images "
        "with the class frequencies of the training data.",
        "Root mean square error on new inputs against the true function, whose standard deviation is 1; "
        "outliers are training targets set to 6. Two hidden layers of 64 units, Adam, "
        f"{steps} steps with batch size 64.",
    )
    common.write_page(
        "losses",
        first,
        about[0],
        second,
        about[1],
        common.image("losses", "recall and calibration over gamma; error over the share of outliers"),
        title=TITLE,
        out=args.out,
        seconds=args.seconds(),
    )
    return {"classes": classes, "errors": errors}


def draw_all(gammas, powers, classes, shares, errors, out):
    fig, axes = common.figure(2, 2, wide=9, high=5.6)
    titles = ("balanced accuracy, %", f"recall of the {RARE} rarest classes, %", "calibration error, %")
    words = {0.0: "no weights", 0.5: "1 / root of frequency", 1.0: "1 / frequency"}
    for axis, title, values in zip(axes.flat, titles, classes.values(), strict=False):
        at = np.arange(len(gammas))
        for p, power in enumerate(powers):  # beside each other, so that the bars show
            shift = 0.06 * (p - 1)
            _more.errorbars(axis, at, 100 * values[:, p], p, shift=shift, label=words[power])
        axis.set_xticks(at, [f"{gamma:g}" for gamma in gammas])
        axis.set(title=title, xlabel="gamma (0: cross-entropy)")
    axes[1, 0].legend()
    axis = axes[1, 1]
    for i, (name, error) in enumerate(errors.items()):
        _more.errorbars(axis, 100 * np.asarray(shares), error, i, label=name)
    axis.set(title="error on clean data, in deviations", xlabel="outliers in the training targets, %")
    axis.set_yscale("log")
    axis.set_yticks([0.3, 0.5, 1, 2], ["0.3", "0.5", "1", "2"])
    axis.minorticks_off()
    axis.legend()
    common.save_figure(fig, "losses", out)


if __name__ == "__main__":
    main()
