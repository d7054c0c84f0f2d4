"""doctor: checks a task and its data for the usual mistakes before training."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import jax

from nnfunc import check
from nnfunc.base import Key
from nnfunc.debug.checks import compiler_checks, data_checks, leakage_checks, model_checks, training_checks
from nnfunc.debug.finding import Finding
from nnfunc.debug.probe import Probe, build_probe
from nnfunc.training.divergence import find_non_finite

EXAMPLES = 16

MODEL_CHECKS = (
    leakage_checks.check_examples,
    leakage_checks.check_causality,
    model_checks.check_outputs,
    model_checks.check_nonlinearity,
    model_checks.check_symmetry,
    model_checks.check_gradients,
    model_checks.check_activations,
)
TRAINING_CHECKS = (
    training_checks.check_initial_loss,
    training_checks.check_pairing,
    training_checks.check_reduction,
    training_checks.check_weight_decay,
)
DATA_CHECKS = (
    data_checks.check_scales,
    data_checks.check_classes,
    data_checks.check_contradictions,
    data_checks.check_overlap,
)


def doctor(build: Callable[..., Any], hypers: Any, data: Any, *, key: Key, examples: int = EXAMPLES) -> list[Finding]:
    """Check what `nf.train(build, hypers, data)` would train for the usual mistakes; [] if there are none.

    The checks run on the initial parameters and one small batch:
    the model: examples leak, the future leaks, batch axis moved, output ignores the input, random
    without a key, softmax twice, squashed outputs, relu on the outputs, no nonlinearity, symmetric
    parameters, no gradient, activations explode or vanish, gradients explode or vanish; or, where the objective
    calls predict only inside jax.vmap or the like, that the model was not checked;
    the data: inputs or targets not normalised, constant features, missing classes, imbalanced
    classes, labels are the inputs, contradictory labels, validation in training data;
    the compiler: wrong results, by comparing large sums with NumPy's;
    the training: not finite at the start, initial loss too large or too small, loss ignores the
    labels, loss sums over the batch, learning rate too large or too small, decay on biases and norms.
    Batch norm mixes examples in training mode on purpose, so it is not reported. Errors come before
    warnings.
    build, hypers, data, key: as for `nf.train`, with any objective.
    examples: the size of the batch, at least 4; 16 examples keep the programs small.
    Raises: ValueError when examples is less than 4, or the programs do not fit into the memory.

    >>> def build(h):
    ...     model = nf.serial(nf.linear(2, 8), nf.linear(8, 2), jax.nn.softmax)
    ...     return nf.Task(model, nf.classification(), nf.optimizers.sgd(0.1))
    >>> x = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    >>> data = nf.data.arrays((x, (x[:, 0] > 0).astype(np.int32)), batch_size=8)
    >>> [finding.check for finding in nf.debug.doctor(build, {}, data, key=jax.random.key(0))]
    ['softmax twice']
    """
    check.on_host("doctor", "Call it outside.", hypers=hypers, data=data, key=key)
    check.size("doctor", low=4, examples=examples)
    data, probe = build_probe("doctor", build, hypers, data, key, examples)
    findings = list(compiler_checks.check_compiler())
    # other measurements say nothing once a value is not finite
    findings += list(_check_finite(probe)) or chain(
        *(model_check(probe) for model_check in (MODEL_CHECKS if probe.calls_model else [_report_hidden])),
        *(data_check(probe, data) for data_check in DATA_CHECKS),
        *(training_check(probe) for training_check in TRAINING_CHECKS),
        training_checks.check_learning_rate(probe, build, hypers),
    )
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _check_finite(probe: Probe) -> Iterator[Finding]:
    """The first batch has a finite loss and finite gradients."""
    values = jax.device_get((*probe.loss_and_gradients(probe.params), probe.evaluation["loss"]))
    if not all(jax.numpy.isfinite(leaf).all() for leaf in jax.tree.leaves(values)):
        fault = find_non_finite(probe.task, probe.params, probe.state, probe.batch, probe.key)
        evidence = f"The first batch gives values that are not finite. They start in {fault.message}."
        hint = "Guard the roots, logarithms and divisions there: their arguments reach 0."
        yield Finding("error", fault.path or "loss", "not finite at the start", evidence, hint)


def _report_hidden(probe: Probe) -> Iterator[Finding]:
    evidence = "It calls predict inside jax.vmap, jax.lax.scan or the like, or never: no output was checked."
    yield Finding("warning", "the objective", "model not checked", evidence, "Call predict(x) on the whole batch.")
