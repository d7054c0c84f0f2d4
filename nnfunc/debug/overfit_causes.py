"""Why a batch is not learned by heart: the likely cause and its cure."""

from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc.base import Params, PyTree
from nnfunc.debug.checks import model_checks
from nnfunc.debug.loss_floor import LossFloors
from nnfunc.debug.probe import Probe
from nnfunc.training.divergence import first_not_finite

__all__ = ["OverfitRuns", "find_cause"]


class OverfitRuns(NamedTuple):
    """All that was tried: runs at several rates, at which of them the own is, and the floors."""

    look: Probe
    floors: LossFloors | None
    rates: np.ndarray
    losses: np.ndarray
    last: tuple[Params, PyTree]
    touched: dict[str, np.ndarray]
    at: int
    key: str | None
    own: float | None

    @property
    def start(self) -> float:
        return float(self.losses[0, self.at])

    @property
    def floor(self) -> float:
        return self.floors.tied if self.floors else min(0.0, self.start)

    def end(self, i: int) -> float:
        """The mean of a run's last losses; inf where they are not finite."""
        end = float(self.losses[-max(2, len(self.losses) // 20) :, i].mean())
        return end if np.isfinite(end) else np.inf

    def left(self, i: int) -> float:
        """The share of what could be learned that is left."""
        return (self.end(i) - self.floor) / max(self.start - self.floor, 1e-12)


def find_cause(told: OverfitRuns, cannot: bool, hypers: Any) -> tuple[str, str]:
    """The likely cause and its cure, in sentences."""
    look, known = told.look, told.floors
    if not np.isfinite(told.start):
        fault = first_not_finite(look.task, look.params, look.state, look.batch, look.key)
        return (f"The first loss is not finite: {fault.words}.", "Guard roots, logarithms and divisions.")
    if cannot and known is not None:
        if known.conflict is not None:
            one, other = known.conflict
            pair = f"examples {one} and {other} are equal, their labels are not"
            cause = f"Labels contradict each other: {pair}."
            return (cause, "Look at how examples and labels are put together, and for missing columns.")
        return "The loss does not depend on the outputs.", "Look at the objective."
    best = min(range(len(told.rates)), key=told.end)
    if told.left(best) <= 0.02 or told.left(best) < 0.3 * min(told.left(told.at), 1.0):
        return _rate(told, best, hypers)
    if best == int(np.argmin(told.rates)) and told.end(best) > told.start:
        tried = f"every rate that was tried, from {told.rates[best]:.2g} on, makes the loss larger"
        name = told.key or "the learning rate"
        cure = f"Make {name} a thousand times smaller; find_lr finds one that fits."
        return f"The learning rate is too large: {tried}.", cure
    params, state = jax.tree.map(lambda leaf: leaf[best], told.last)
    idle = [path for path, hit in told.touched.items() if not hit[best]]
    off: list[str] = []
    if np.isfinite(told.end(best)):
        ended = Probe(look.task, params, state, look.batch, look.key, look.needs_key)
        y, taps = ended.forward(params, look.x)
        off = [path for path, tap in taps.items() if tap.size > 1 and not tap.any()]
        same = isinstance(y, np.ndarray) and y.ndim and np.ptp(y, axis=0).max() <= 1e-5 * (np.abs(y).max() + 1e-12)
        for finding in model_checks.check_outputs(look):
            return f"{finding.check.capitalize()}: {finding.evidence}", finding.hint
        if idle:
            more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
            dead = f" All results of {off[0]} are 0." if off else ""
            cause = f"No gradient ever reaches {', '.join(idle[:3])}{more}.{dead}"
            return (cause, "Is the layer used, not stopped, not rounded, and not switched off by a relu?")
        if off:
            return (f"Dead units: all results of {off[0]} are 0.", "Use he_normal weights or leaky_relu.")
        if same:
            cause = "The outputs do not depend on the input: they are equal for all examples."
            return cause, "nf.debug.doctor names the layer where the input is lost."
    constant, tied = (known.constant, known.tied) if known is not None else (0.0, 0.0)
    if constant - tied > 0.05 and abs(told.end(best) - constant) < 0.05 * (told.start - tied):
        cause = f"It has learned one answer for all: that alone gives {constant:.3g}."
        return cause, "Does the input reach the output? See nf.debug.doctor."
    if best != told.at and told.left(best) < 0.8 * min(told.left(told.at), 1.0):
        return _rate(told, best, hypers)
    if best == len(told.rates) - 1 and best != told.at and told.left(best) < told.left(told.at):
        cure = f"Set {told.key}" if told.key else "Set it"
        return (f"Every rate that was tried is too small, {told.rates[best]:.2g} too.", f"{cure} higher.")
    column = told.losses[:, best]
    quarter = max(2, len(column) // 4)
    if column[-quarter:].mean() < 0.95 * column[-2 * quarter : -quarter].mean():
        return "It is still falling.", "Give it more steps."
    return "No rate that was tried does better.", "Try a wider or deeper model, or fewer examples."


def _rate(told: OverfitRuns, best: int, hypers: Any) -> tuple[str, str]:
    """The learning rate is to blame: another one does it."""
    if best == told.at:
        return "It is still falling.", "Give it more steps."
    kind = "too small" if best > told.at else "too large"
    end = told.end(best)
    if told.own is None:
        factor = told.rates[best]
        cause = f"The learning rate is {kind}: {factor:g} times as large gets to {end:.3g}."
        return cause, f"Multiply it by {factor:g}."
    rate, better = told.rates[told.at], told.rates[best]
    cause = f"The learning rate {rate:.2g} is {kind}: {better:.2g} gets to {end:.3g}."
    if told.key is not None and isinstance(hypers, dict):
        value = hypers[told.key] * better / rate
        return cause, f"Set {told.key}={value:.2g}, or look for the best with find_lr."
    return cause, f"Set it to {better:.2g}, or look for the best with nf.debug.find_lr."
