"""overfit: whether a model can memorise one batch, and if not, the likely cause."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, device_memory, paths
from nnfunc.base import Key, Params, PyTree
from nnfunc.debug.loss_floor import estimate_floors
from nnfunc.debug.overfit_causes import OverfitRuns, find_cause
from nnfunc.debug.probe import Probe, build_probe
from nnfunc.debug.short_runs import find_learning_rate_hyper, peak_learning_rate, short_run
from nnfunc.training.gradients import loss_and_metrics

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

Outcome = Literal["memorised", "learns slowly", "stuck", "diverges", "impossible"]


class Verdict(NamedTuple):
    """The result of `overfit`; as text, the outcome, the message, the cause and the hint.

    outcome: of the run at the current learning rate; "impossible" when the labels contradict each other or the loss
        does not depend on the outputs.
    message: the losses, a clause.
    cause, hint: sentences, empty when the batch was memorised.
    initial_loss, final_loss: of the run.
    loss_floor: the lowest loss that the batch allows, None where it is not known.
    learning_rate: of the run.
    best_learning_rate: of the run with the lowest final loss. Both are None where the learning rate of the
        optimizer cannot be read.
    learning_rates: [runs].
    losses: [steps + 1, runs], the last ones after the last update.
    """

    outcome: Outcome
    message: str
    cause: str
    hint: str
    initial_loss: float
    final_loss: float
    loss_floor: float | None
    learning_rate: float | None
    best_learning_rate: float | None
    learning_rates: np.ndarray
    losses: np.ndarray

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return " ".join(part for part in (f"{self.outcome}: {self.message}", self.cause, self.hint) if part)


def overfit(
    build: Callable[..., Any],
    hypers: Any,
    data: Any,
    *,
    key: Key,
    steps: int = 200,
    learning_rates: Any = None,
    examples: int = 32,
) -> Verdict:
    """Train on one batch without dropout, augmentation and weight decay, and say whether it is memorised.

    A sound model memorises a few examples: the loss falls to the lowest value that the batch allows,
    which is 0, or more with smoothed labels. When it does not, the verdict names the likely cause:
    contradictory labels, parameters without a gradient, outputs that do not depend on the input or are
    squashed, dead units, a learning rate that is too small or too large, too few steps.
    build, hypers, data, key: as for `nf.train`, with any objective. Weight decay is off where it is a float of
        hypers with weight_decay in its name.
    steps: of each run, at least 8.
    learning_rates: [runs], constant and at least 0, all in one vmapped program; by default 0.01 to 100 times the
        peak learning rate of the hypers.
    examples: the most examples that the batch has, at least 2; memorising more takes more steps.
    Raises: ValueError when an argument is out of its range, or the program does not fit into the memory.

    >>> def build(h):
    ...     return nf.Task(nf.mlp([2, 16, 2]), nf.classification(), nf.optimizers.adam(h["rate"]))
    >>> draw = np.random.default_rng(0)
    >>> x, labels = draw.normal(size=(8, 2)).astype(np.float32), np.arange(8, dtype=np.int32) % 2
    >>> data = nf.data.arrays((x, labels), batch_size=8)
    >>> nf.debug.overfit(build, {"rate": 0.1}, data, key=jax.random.key(0)).outcome
    'memorised'
    >>> verdict = nf.debug.overfit(build, {"rate": 1e-5}, data, key=jax.random.key(0))
    >>> verdict.outcome, verdict.cause[:36]
    ('stuck', 'The learning rate 1e-05 is too small')
    """
    check.on_host("overfit", "Call it outside.", hypers=hypers, data=data, key=key)
    check.size("overfit", low=8, steps=steps)
    check.size("overfit", low=2, examples=examples)
    no_decay = _without_weight_decay(hypers)
    batch_size = min(examples, getattr(data, "batch_size", examples))
    _, probe = build_probe("overfit", build, no_decay, data, key, batch_size)
    peak = peak_learning_rate(build, no_decay)
    rates = np.asarray(FACTORS) * (1.0 if peak is None else peak) if learning_rates is None else learning_rates
    rates = np.asarray(rates, float)
    if rates.ndim != 1 or not rates.size or not (rates >= 0).all():
        expected = "learning_rates should be a list of numbers that are at least 0"
        check.fail("overfit", expected=expected, actual=check.describe(rates))
    losses, last, has_gradient = _run_all(build, no_decay, probe, steps, rates)
    current = int(np.argmin(np.abs(np.log(rates + 1e-30) - np.log((peak or 1.0) + 1e-30))))
    hyper = find_learning_rate_hyper(build, hypers)
    runs = OverfitRuns(probe, estimate_floors(probe), rates, losses, last, has_gradient, current, hyper, peak)
    return _build_verdict(runs, hypers)


def _without_weight_decay(hypers: Any) -> Any:
    """The hypers with 0 for the floats that have weight_decay in their name."""
    return jax.tree.map_with_path(
        lambda keys, leaf: 0.0 if isinstance(leaf, float) and "weight_decay" in paths.path_of(keys) else leaf, hypers
    )


def _run_all(
    build: Callable[..., Any], hypers: Any, probe: Probe, steps: int, rates: np.ndarray
) -> tuple[np.ndarray, tuple[Params, PyTree], dict[str, np.ndarray]]:
    """Losses [steps + 1, runs], the last (params, state), and {path: had a gradient [runs]}."""
    key = probe.optional_key

    def run(rate, params, state, batch):
        result = short_run(
            build, hypers, rate, params, state, steps=steps, batch_at=lambda step: batch, key_at=lambda step: key
        )
        last = result.params, result.model_state
        final_loss, _ = loss_and_metrics(probe.task, *last, batch, key=key, train=True)
        return jnp.append(result.losses, final_loss), last, result.has_gradient

    run_all = jax.jit(jax.vmap(run, (0, None, None, None)))
    args = (jnp.asarray(rates, jnp.float32), probe.params, probe.state, probe.batch)
    program, hint = f"training at {len(rates)} learning rates at once", "Make the model smaller."
    results = device_memory.compile_checked("overfit", run_all, program, hint, *args)(*args)
    losses, last, has_gradient = jax.device_get(results)
    return np.asarray(losses, float).T, last, paths.flatten(has_gradient)


def _build_verdict(runs: OverfitRuns, hypers: Any) -> Verdict:
    initial, final, floors = runs.initial_loss, runs.final_loss(runs.current), runs.floors
    message = f"the loss goes from {initial:.3g} to {final:.3g} in {check.counted(len(runs.losses) - 1, 'step')} "
    message += f"on {check.counted(runs.probe.size, 'example')}"
    if floors is not None and floors.tied > 0.02 * max(abs(initial), 1e-12):
        message += f", and cannot fall below {floors.tied:.3g}"
        if floors.tied - floors.free < 1e-3 * max(1.0, floors.tied):
            message += " (as with smoothed labels)"
        elif floors.causal:
            message += " (equal prefixes have different continuations)"
    outcome = _choose_outcome(runs)
    cause, hint = ("", "") if outcome == "memorised" else find_cause(runs, outcome == "impossible", hypers)
    rates = None, None
    if runs.peak is not None:
        rates = float(runs.learning_rates[runs.current]), float(runs.learning_rates[runs.best])
    floor = floors.tied if floors else None
    return Verdict(outcome, f"{message}.", cause, hint, initial, final, floor, *rates, runs.learning_rates, runs.losses)


def _choose_outcome(runs: OverfitRuns) -> Outcome:
    initial, final, floors = runs.initial_loss, runs.final_loss(runs.current), runs.floors
    if not np.isfinite(initial):
        return "diverges"
    if floors is not None:
        conflict_loss = floors.tied - floors.free
        if floors.conflict is not None and conflict_loss > 0.02 * max(initial - floors.free, 1e-12):
            return "impossible"
        if initial - floors.tied < 1e-3 * max(1.0, abs(floors.tied)) and floors.constant - floors.tied < 1e-6:
            return "impossible"
    remaining = runs.remaining(runs.current)
    if remaining <= 0.02:
        return "memorised"
    if remaining > 1.5 or not np.isfinite(final):
        return "diverges"
    return "stuck" if remaining > 0.9 else "learns slowly"
