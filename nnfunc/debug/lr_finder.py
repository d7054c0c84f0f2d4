"""The learning rate range test: a short run at each of 64 constant learning rates, as one program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, device_memory
from nnfunc.base import Key
from nnfunc.debug.first_state import init_params, without_augmentation
from nnfunc.debug.short_runs import find_learning_rate_hyper, peak_learning_rate, short_run

BARS = " ▁▂▃▄▅▆▇█"


class RangeTest(NamedTuple):
    """The result of `find_lr`; as text, a small chart for a terminal of 80 columns.

    learning_rates: [runs], rising.
    losses: [steps, runs], of each step's batch before its update.
    suggestion: the learning rate to train with.
    hyper: the name of the hyper that sets the peak of the schedule, or None where none does.
    hyper_value: its value for the suggested learning rate, or None.
    current: the peak learning rate of the hypers as they are.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    suggestion: float
    hyper: str | None
    hyper_value: float | None
    current: float

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        score, start = final_losses(self.losses), float(self.losses[0].min())
        least = float(score.min())
        heights = np.clip((score - least) / max(start - least, 1e-12), 0, 1)
        not_lower = ~(score <= start * (1 + 1e-6))  # also where the loss is not finite
        bars = ["x" if x else BARS[1 + round(7 * float(h))] for h, x in zip(heights, not_lower, strict=True)]
        marked = np.log([max(self.current, 1e-30), self.suggestion])
        columns = np.interp(marked, np.log(self.learning_rates), np.arange(len(bars)))
        pointers = [" "] * len(bars)
        for column, mark in zip(columns, "o^", strict=True):
            pointers[round(float(column))] = mark
        lines = [
            f"loss after {len(self.losses)} steps, from {least:.3g} to {start:.3g} (x: not lower than at the start)",
            "".join(bars),
            "".join(pointers).rstrip(),
            f"{self.learning_rates[0]:.0e}".ljust(len(bars) - 6) + f"{self.learning_rates[-1]:.2g}".rjust(6),
            f"^ suggested {self.suggestion:.2g}   o current {self.current:.2g}",
        ]
        return "\n".join(f"  {line}" for line in lines)

    def plot(self, path: str | Path) -> None:
        """Plot the loss after the short runs over the learning rate. path: a PNG or SVG file to write."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        panel = figure.add_subplot()
        score, start = final_losses(self.losses), float(self.losses[0, 0])
        visible = np.where(np.isfinite(score) & (score < 2 * start), score, np.nan)
        panel.semilogx(self.learning_rates, visible, marker=".")
        panel.axvline(self.suggestion, color="tab:green", label=f"suggested: {self.suggestion:.2g}")
        panel.axvline(self.current, color="tab:gray", linestyle=":", label=f"current: {self.current:.2g}")
        panel.set(xlabel="learning rate", ylabel=f"loss after {len(self.losses)} steps")
        panel.legend()
        figure.savefig(path)


def find_lr(
    build: Callable[..., Any],
    hypers: Any,
    data: Any,
    *,
    key: Key,
    steps: int = 96,
    learning_rates: Any = None,
    at_once: int | None = None,
) -> RangeTest:
    """Suggest a learning rate for `build(hypers)` on `data`, from short runs at constant learning rates.

    Every run starts with the same parameters and sees the same batches; the optimizer's updates are
    rescaled to the learning rate of the run, so that no hyper has to be named. All runs are one compiled
    program. The runs leave out the task's augmentation, sharpness (SAM) and micro-batches (accumulate).
    The suggestion is the middle of the learning rates that do nearly as well as the best one.
    build, hypers, data, key: as for `nf.train`.
    steps: of each run, at least 8.
    learning_rates: [runs], at least 3, rising and above 0; by default 64 from 1e-6 to 10, evenly spaced in their
        logarithms.
    at_once: how many runs are vmapped together, by default all; fewer take less memory.
    Raises: ValueError when the learning rate of the optimizer cannot be read, or the loss falls at none.
    Source: Smith 2017, arXiv:1506.01186, section 3.3; but with one run for each learning rate instead of one run
    through all of them, so that no learning rate suffers from those before it.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8)
    >>> result = nf.debug.find_lr(build, {"rate": 1e-3}, data, key=jax.random.key(0))
    >>> result.hyper, bool(0.1 < result.suggestion < 2)
    ('rate', True)
    """
    check.on_host("find_lr", "Call it outside.", hypers=hypers, data=data, key=key)
    check.size("find_lr", low=8, steps=steps)
    check.size("find_lr", at_once=1 if at_once is None else at_once)
    rates = np.geomspace(1e-6, 10, 64) if learning_rates is None else np.asarray(learning_rates, float)
    if rates.ndim != 1 or len(rates) < 3 or not (np.diff(rates) > 0).all() or rates[0] <= 0:
        expected = "learning_rates should be at least 3 rising numbers above 0"
        check.fail("find_lr", expected=expected, actual=check.describe(rates))
    current = peak_learning_rate(build, hypers)
    if current is None:
        hint = "Wrap it: nf.optimizers.as_optimizer(optimizer, learning_rate=...), or use one of nf.optimizers."
        check.fail("find_lr", "the learning rate of the optimizer cannot be read.", hint=hint)
    losses = _run_all(build, hypers, without_augmentation(data), key, steps, rates, at_once or len(rates))
    suggestion = suggest_learning_rate(rates, losses)
    if suggestion is None:
        hint = "nf.debug.doctor and nf.debug.overfit look for the reason."
        check.fail("find_lr", "the loss falls at no learning rate.", hint=hint)
    hyper = find_learning_rate_hyper(build, hypers)
    value = None if hyper is None or not current else hypers[hyper] * suggestion / current
    return RangeTest(rates, losses, suggestion, hyper, value, current)


def _run_all(
    build: Callable[..., Any], hypers: Any, data: Any, key: Key, steps: int, rates: np.ndarray, at_once: int
) -> np.ndarray:
    """The losses [steps, runs]."""
    params, model_state = init_params(build, hypers, key)
    if hasattr(data, "for_training"):
        feed = jax.tree.map(jnp.asarray, data.for_training())
        batch_at = lambda feed, step: feed.batch(step)
    else:  # a stream: the samples of all steps, stacked
        feed = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(data.gather(step) for step in range(steps)))
        batch_at = lambda feed, step: jax.tree.map(lambda leaf: leaf[step], feed).batch(step)

    def run_all(rates, params, model_state, feed):
        def run(rate):
            batches = lambda step: batch_at(feed, step)
            keys = lambda step: jax.random.fold_in(key, step)
            return short_run(
                build, hypers, rate, params, model_state, steps=steps, batch_at=batches, key_at=keys
            ).losses

        return jax.lax.map(run, rates, batch_size=at_once)

    args = (jnp.asarray(rates, jnp.float32), params, model_state, feed)
    program, hint = f"training at {at_once} learning rates at once", "Lower at_once, or batch_size."
    losses = device_memory.compile_checked("find_lr", jax.jit(run_all), program, hint, *args)(*args)
    return np.asarray(losses, np.float64).T


def final_losses(losses: np.ndarray) -> np.ndarray:
    """[runs]: the mean loss of each run's last quarter; inf where it is not finite."""
    mean = losses[-max(2, len(losses) // 4) :].mean(0)
    return np.where(np.isfinite(mean), mean, np.inf)


def suggest_learning_rate(learning_rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The learning rate that `find_lr` suggests for losses [steps, runs]; None when no loss falls.

    It is the geometric mean of the learning_rates whose loss has fallen by at least 98 % of the largest
    fall: the middle of the valley's floor, which moves less from seed to seed than its lowest point.
    """
    score, start = final_losses(losses), float(losses[0].min())
    least = float(score.min())
    if not least < start - 1e-4 * abs(start):
        return None
    is_good = score <= least + 0.02 * (start - least)
    return float(np.exp(np.log(learning_rates[is_good]).mean()))
