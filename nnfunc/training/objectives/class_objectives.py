"""Objectives of models whose outputs are logits of classes: of examples, tokens and tags."""

from collections.abc import Sequence
from dataclasses import replace

from nnfunc import check, losses
from nnfunc.base import Array, Scalar
from nnfunc.training.objectives.class_totals import cross_entropy_totals, is_soft, label_check, label_totals
from nnfunc.training.objectives.objective import Objective
from nnfunc.training.objectives.objective_totals import input_and_target, mean_objective, refuse_smoothing


def classification(
    *,
    label_smoothing: Scalar | None = None,
    gamma: Scalar | None = None,
    weight: Array | Sequence[Scalar] | None = None,
    ignore_index: int | None = None,
) -> Objective:
    """Cross-entropy of logits [batch, classes] against labels [batch], and the accuracy.

    Batches are pairs (x, labels); labels may also be soft, floats [batch, classes] that add up to 1, as
    `nf.augment.mixup` makes them.
    label_smoothing: the fraction of the target spread over all classes, in [0, 1]; None is 0.
    gamma: with it, the focal loss of that exponent (without smoothing, and of class indices only).
    weight: one factor a class, at least 0. The loss is sum(w * loss) / sum(w) over the batch, w the weight of each
        example's label, so that multiplying all of them by 2 changes nothing; for soft labels w is the mean of the
        weights under the label's probabilities. For a plain mean write an objective with `nf.losses.cross_entropy`.
        Evaluation sums both over the whole split.
    ignore_index: the label of examples, or of positions of [batch, ...], that are left out of every mean.
    A batch without any other has a loss of 0, and a gradient of 0.
    Metrics: accuracy, each example counted once; for soft labels, that of their most probable class.
    Raises: ValueError for smoothing together with gamma, and for labels that are not classes of the model.
    Source: torch.nn.functional.cross_entropy, which divides by sum(w) for class indices only.

    >>> task = nf.Task(nf.linear(2, 3), nf.classification(label_smoothing=0.1), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.arange(4) % 3)))
    ['accuracy', 'loss']
    """
    where = "classification"
    label_smoothing = 0.0 if label_smoothing is None else label_smoothing
    check.number(where, 0, 1, label_smoothing=label_smoothing)
    if weight is not None:
        check.at_least_0(where, weight=weight)
    if gamma is not None:
        refuse_smoothing(where, label_smoothing)

    def totals(predict, batch, mask):
        x, labels = input_and_target(where, batch)
        logits = predict(x)
        options = {"weight": weight, "ignore_index": ignore_index}
        if gamma is None:
            return cross_entropy_totals(where, logits, labels, mask, label_smoothing=label_smoothing, **options)
        if is_soft(logits, labels):
            expected = "labels should be class indices together with gamma: the focal loss takes no probabilities"
            check.fail(where, expected=expected, actual=check.describe(labels), hint="Remove gamma, or mixup.")
        loss = losses.focal(logits, labels, gamma=gamma, alpha=weight, ignore_index=ignore_index)
        return label_totals(where, loss, logits, labels, mask, **options)

    inspect = label_check(where, soft=gamma is None, ignore_index=ignore_index)
    return mean_objective(totals, inspect, "classes", ignore_index)


def focal(
    gamma: Scalar = 2.0, *, weight: Array | Sequence[Scalar] | None = None, ignore_index: int | None = None
) -> Objective:
    """Focal loss of logits [batch, classes] against labels [batch], and the accuracy.

    loss = (1 - p) ** gamma * cross-entropy, p the probability of the true class: examples that are classified well
    count less. It is `classification(gamma=gamma)`; for one logit a row, `binary(gamma=gamma)`.

    Batches are pairs (x, labels).
    gamma: the exponent, at least 0; 0 is the cross-entropy.
    weight: one factor for each class, at least 0, as in `classification`; None for 1.
    ignore_index: the label that is left out, or None.
    Raises: ValueError for numbers out of range, and labels that are not classes of the model.
    Source: Lin et al. 2017, arXiv:1708.02002, equation 4.

    >>> task = nf.Task(nf.linear(2, 3), nf.focal(2.0), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.arange(4) % 3)))
    ['accuracy', 'loss']
    """
    check.number("focal", 0, gamma=gamma)
    return classification(gamma=gamma, weight=weight, ignore_index=ignore_index)


def language_modelling(*, label_smoothing: Scalar = 0.0, ignore_index: int | None = None) -> Objective:
    """Cross-entropy of logits [batch, time, vocab_size] against the next tokens [batch, time].

    Batches are pairs (tokens, next tokens); the latter may also be soft, floats [batch, time, vocab_size]
    that add up to 1, such as a teacher's. The loss is in nats a token; accuracy is that of the most
    probable token.
    label_smoothing: the fraction of the target spread over all tokens, in [0, 1].
    ignore_index: the token, such as padding, that is left out as a next token, in loss and accuracy, in training
        and evaluation: both are means over the other tokens. It may lie outside of the vocabulary, as -100 does. A
        batch without any other token has a loss of 0, and a gradient of 0.
    Raises: ValueError for tokens that are not in the model's vocabulary.
    Source: ignore_index of torch.nn.functional.cross_entropy.

    >>> model = nf.rnn_lm(5, dim=4)
    >>> task = nf.Task(model, nf.language_modelling(), nf.optimizers.sgd(0.1))
    >>> tokens = np.arange(8).reshape(2, 4) % 5
    >>> sorted(nf.evaluate(task, model.init(jax.random.key(0)), (tokens, tokens)))
    ['accuracy', 'loss']
    """
    where = "language_modelling"
    check.number(where, 0, 1, label_smoothing=label_smoothing)

    def totals(predict, batch, mask):
        tokens, labels = input_and_target(where, batch)
        options = {"label_smoothing": label_smoothing, "ignore_index": ignore_index}
        return cross_entropy_totals(where, predict(tokens), labels, mask, **options)

    return mean_objective(totals, label_check(where, ignore_index=ignore_index), "tokens", ignore_index)


def tagging(
    *,
    label_smoothing: Scalar = 0.0,
    weight: Array | Sequence[Scalar] | None = None,
    ignore_index: int | None = -100,
    names: tuple[str, ...] | None = None,
) -> Objective:
    """Cross-entropy of logits [batch, time, classes] against one tag for each position [batch, time].

    Batches are pairs (x, tags). Metrics: accuracy, over all positions that count.
    label_smoothing: the fraction of the target spread over all tags, in [0, 1].
    weight: one factor for each tag, at least 0, as in `classification`; None for 1.
    ignore_index: the tag of positions that are left out of every mean, such as padding and the later pieces of a
        word; None for none.
    names: of the tags, such as ("B-PER", "I-PER", "O"), which the metrics entity_f1, entity_precision and
        entity_recall need; a config has those of its data.
    Raises: ValueError for numbers out of range, and tags that are not classes of the model.
    Source: torch.nn.functional.cross_entropy, whose ignore_index is -100 too.

    >>> task = nf.Task(nf.serial(nf.embedding(5, 4), nf.linear(4, 3)), nf.tagging(), nf.optimizers.sgd(0.1))
    >>> tokens, tags = np.array([[1, 2, 0]]), np.array([[0, 2, -100]])
    >>> sorted(nf.evaluate(task, task.model.init(jax.random.key(0)), (tokens, tags)))
    ['accuracy', 'loss']
    """
    where = "tagging"
    check.number(where, 0, 1, label_smoothing=label_smoothing)
    if weight is not None:
        check.at_least_0(where, weight=weight)

    def totals(predict, batch, mask):
        x, tags = input_and_target(where, batch)
        options = {"label_smoothing": label_smoothing, "ignore_index": ignore_index, "weight": weight}
        return cross_entropy_totals(where, predict(x), tags, mask, **options)

    inspect = label_check(where, soft=False, ignore_index=ignore_index)
    return replace(mean_objective(totals, inspect, "tags", ignore_index), names=None if names is None else tuple(names))
