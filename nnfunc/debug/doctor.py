"""doctor: looks at a task and its data before it is trained, and tells the usual mistakes."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from nnfunc import check
from nnfunc.base import Key, fold
from nnfunc.debug.checks import compiler_checks, data_checks, leakage_checks, model_checks, training_checks
from nnfunc.debug.finding import Finding
from nnfunc.debug.first_state import init_params, task_at, without_augmentation
from nnfunc.debug.probe import Probe
from nnfunc.errors import MissingKeyError
from nnfunc.training.divergence import first_not_finite

__all__ = ["doctor"]

EXAMPLES = 16


def doctor(build: Callable[..., Any], hypers: Any, data: Any, *, key: Key, examples: int = EXAMPLES) -> list[Finding]:
    """The usual mistakes in what `nf.train(build, hypers, data)` would train: [] when it finds none.

    It looks, at the first parameters and a batch of a few examples, at
    the model: examples leak, the future leaks, batch axis moved, output ignores the input, random
    without a key, softmax twice, squashed outputs, relu on the outputs, no nonlinearity, symmetric
    parameters, no gradient, activations explode or vanish, gradients explode or vanish;
    the data: inputs or targets not normalised, constant features, missing classes, imbalanced
    classes, labels are the inputs, contradictory labels, validation in training data;
    the compiler: wrong results, of large sums against NumPy's;
    the training: not finite at the start, initial loss too large or too small, loss ignores the
    labels, loss adds up the batch, learning rate too large or too small, decay on biases and norms.
    Batch norm in training mixes examples by right. Errors come before warnings.
    build, hypers, data: as `nf.train` takes them; any objective. examples: of the batch.

    >>> def build(h):
    ...     model = nf.serial(nf.linear(2, 8), nf.linear(8, 2), jax.nn.softmax)
    ...     return nf.Task(model, nf.classification(), nf.optimizers.sgd(0.1))
    >>> x = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    >>> data = nf.data.arrays((x, (x[:, 0] > 0).astype(np.int32)), batch_size=8)
    >>> [finding.check for finding in nf.debug.doctor(build, {}, data, key=jax.random.key(0))]
    ['softmax twice']
    """
    check.size("doctor", low=4, examples=examples)
    data = without_augmentation(data, examples)
    params, state = init_params(build, hypers, key)
    task, batch = task_at(build, hypers), jax.device_get(data.batch(0))
    look = Probe(task, params, state, batch, fold(key, "doctor"))
    try:
        look.evaluation  # noqa: B018  evaluation, without a key
    except MissingKeyError:
        look.needs_key = True
    found = list(_ill(look)) or [finding for check_of in _checks(look, build, hypers, data) for finding in check_of]
    found = [*compiler_checks.check_compiler(), *found]
    return sorted(found, key=lambda finding: finding.severity != "error")


def _ill(look: Probe) -> Iterator[Finding]:
    """Numbers that are not finite, after which nothing else tells much."""
    loss, grads = look.gradients(look.params)
    values = jax.device_get((loss, grads, look.evaluation["loss"]))
    if not all(map(_finite, jax.tree.leaves(values))):
        fault = first_not_finite(look.task, look.params, look.state, look.batch, look.key)
        why = f"The first batch gives values that are not finite. It began in {fault.words}."
        cure = "Guard roots, logarithms and divisions there: their arguments reach 0."
        yield Finding("error", fault.path or "loss", "not finite at the start", why, cure)


def _finite(value: Any) -> bool:
    return bool(jax.numpy.isfinite(value).all())


def _checks(look: Probe, build: Any, hypers: Any, data: Any) -> Iterator[Iterator[Finding]]:
    for model_check in (
        leakage_checks.check_examples,
        leakage_checks.check_causality,
        model_checks.check_outputs,
        model_checks.check_nonlinearity,
        model_checks.check_symmetry,
        model_checks.check_gradients,
        model_checks.check_activations,
    ):
        yield model_check(look)
    for data_check in (
        data_checks.check_scales,
        data_checks.check_classes,
        data_checks.check_contradictions,
        data_checks.check_overlap,
    ):
        yield data_check(look, data)
    for training_check in (
        training_checks.check_initial_loss,
        training_checks.check_pairing,
        training_checks.check_reduction,
        training_checks.check_weight_decay,
    ):
        yield training_check(look)
    yield training_checks.check_learning_rate(look, build, hypers)
