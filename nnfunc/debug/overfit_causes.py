"""The likely cause when a batch is not memorised, and what to do."""

from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Params, PyTree
from nnfunc.debug.checks import model_checks
from nnfunc.debug.loss_floor import LossFloors
from nnfunc.debug.probe import Probe
from nnfunc.training.divergence import find_non_finite

STILL_FALLING = "The loss is still falling.", "Train for more steps."


class OverfitRuns(NamedTuple):
    """Runs on one batch at several learning rates.

    probe: of the task before training.
    floors: of the batch, or None.
    learning_rates: [runs].
    losses: [steps + 1, runs].
    last: (params, state) of every run, stacked.
    has_gradient: {path: whether a gradient reached it [runs]}.
    current: the index of the run at the peak learning rate of the hypers.
    hyper: the name of the hyper that sets it, or None.
    peak: the peak learning rate, None where it cannot be read.
    """

    probe: Probe
    floors: LossFloors | None
    learning_rates: np.ndarray
    losses: np.ndarray
    last: tuple[Params, PyTree]
    has_gradient: dict[str, np.ndarray]
    current: int
    hyper: str | None
    peak: float | None

    @property
    def initial_loss(self) -> float:
        return float(self.losses[0, self.current])

    @property
    def best(self) -> int:
        """The index of the run with the lowest final loss."""
        return min(range(len(self.learning_rates)), key=self.final_loss)

    def final_loss(self, run: int) -> float:
        """The mean of a run's last losses; inf where it is not finite."""
        mean = float(self.losses[-max(2, len(self.losses) // 20) :, run].mean())
        return mean if np.isfinite(mean) else np.inf

    def remaining(self, run: int) -> float:
        """The fraction of the possible fall of the loss that a run has not reached."""
        floor = self.floors.tied if self.floors else min(0.0, self.initial_loss)
        return (self.final_loss(run) - floor) / max(self.initial_loss - floor, 1e-12)


def find_cause(runs: OverfitRuns, impossible: bool, hypers: Any) -> tuple[str, str]:
    """(cause, hint), in sentences.

    runs: that did not memorise the batch.
    impossible: whether none can.
    hypers: of the task, in which the hint changes the learning rate.
    """
    probe, floors, rates = runs.probe, runs.floors, runs.learning_rates
    if not np.isfinite(runs.initial_loss):
        fault = find_non_finite(probe.task, probe.params, probe.state, probe.batch, probe.key)
        return f"The first loss is not finite: {fault.message}.", "Guard the roots, logarithms and divisions there."
    if impossible and floors is not None:
        if floors.conflict is None:
            return "The loss does not depend on the outputs.", "Check the objective."
        a, b = floors.conflict
        cause = f"Labels contradict each other: examples {a} and {b} have equal inputs and different labels."
        return cause, "Check how examples and labels are paired, and whether a column is missing."
    best = runs.best
    remaining, current_remaining = runs.remaining(best), runs.remaining(runs.current)
    if remaining <= 0.02 or remaining < 0.3 * min(current_remaining, 1.0):
        return _blame_learning_rate(runs, hypers)
    if best == int(np.argmin(rates)) and runs.final_loss(best) > runs.initial_loss:
        cause = f"The learning rate is too large: the loss rises at all that were tried, from {rates[best]:.2g} up."
        return cause, f"Divide {runs.hyper or 'it'} by a thousand, then look for the best one with find_lr."
    if np.isfinite(runs.final_loss(best)) and (cause := _blame_model(runs)):
        return cause
    constant, tied = (floors.constant, floors.tied) if floors is not None else (0.0, 0.0)
    if constant - tied > 0.05 and abs(runs.final_loss(best) - constant) < 0.05 * (runs.initial_loss - tied):
        cause = f"The model has learned one output for all examples, whose loss is {constant:.3g}."
        return cause, "Does the input reach the output? See nf.debug.doctor."
    if best != runs.current and remaining < 0.8 * min(current_remaining, 1.0):
        return _blame_learning_rate(runs, hypers)
    if best == len(rates) - 1 and best != runs.current and remaining < current_remaining:
        cause = f"All learning rates that were tried are too small, also the largest, {rates[best]:.2g}."
        return cause, f"Increase {runs.hyper or 'it'}."
    losses = runs.losses[:, best]
    quarter = max(2, len(losses) // 4)
    if losses[-quarter:].mean() < 0.95 * losses[-2 * quarter : -quarter].mean():
        return STILL_FALLING
    return "No learning rate that was tried does better.", "Try a wider or deeper model, or fewer examples."


def _blame_model(runs: OverfitRuns) -> tuple[str, str] | None:
    """(cause, hint) where the parameters at the end of the best run show a fault of the model."""
    probe, best = runs.probe, runs.best
    params, state = jax.tree.map(lambda leaf: leaf[best], runs.last)
    trained = Probe(probe.task, params, state, probe.batch, probe.key, probe.needs_key)
    y, taps = trained.forward(params, probe.x) if probe.calls_model else (None, {})
    dead = [path for path, tap in taps.items() if tap.size > 1 and not tap.any()]
    for finding in model_checks.check_outputs(probe):
        return f"{finding.check.capitalize()}: {finding.evidence}", finding.hint
    idle = [path for path, has_gradient in runs.has_gradient.items() if not has_gradient[best]]
    if idle:
        cause = f"No gradient ever reaches {check.join_names(idle)}."
        cause += f" All outputs of {dead[0]} are 0." if dead else ""
        return cause, "Is the layer used? Is its output stopped, rounded or set to 0 by a relu?"
    if dead:
        return f"Dead units: all outputs of {dead[0]} are 0.", "Use he_normal weights or leaky_relu."
    if isinstance(y, np.ndarray) and y.ndim and np.ptp(y, axis=0).max() <= 1e-5 * (np.abs(y).max() + 1e-12):
        cause = "The outputs do not depend on the input: they are equal for all examples."
        return cause, "nf.debug.doctor names the layer where the input is lost."
    return None


def _blame_learning_rate(runs: OverfitRuns, hypers: Any) -> tuple[str, str]:
    """(cause, hint) where another learning rate does better."""
    best, current, rates = runs.best, runs.current, runs.learning_rates
    if best == current:
        return STILL_FALLING
    verdict = "too small" if best > current else "too large"
    loss = runs.final_loss(best)
    if runs.peak is None:
        cause = f"The learning rate is {verdict}: {rates[best]:g} times it reaches a loss of {loss:.3g}."
        return cause, f"Multiply it by {rates[best]:g}."
    cause = f"The learning rate {rates[current]:.2g} is {verdict}: {rates[best]:.2g} reaches a loss of {loss:.3g}."
    if runs.hyper is not None and isinstance(hypers, dict):
        value = hypers[runs.hyper] * rates[best] / rates[current]
        return cause, f"Set {runs.hyper}={value:.2g}, or look for the best value with find_lr."
    return cause, f"Set it to {rates[best]:.2g}, or look for the best one with nf.debug.find_lr."
