"""The range test: a short run at each of 64 constant learning rates, as one program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnfunc import check, device_memory
from nnfunc.base import Key
from nnfunc.debug.first_state import (
    find_learning_rate_hyper,
    init_params,
    peak_learning_rate,
    task_at,
    update_at_learning_rate,
    without_augmentation,
)
from nnfunc.training.gradients import loss_and_metrics

__all__ = ["RangeTest", "find_lr", "suggest_learning_rate"]


class RangeTest(NamedTuple):
    """What `find_lr` found. losses: [steps, rates], of each step's batch before its update.

    suggestion: the rate to train with. key, value: the hyper that sets the peak of the schedule, and
    what to set it to for that rate, or None. own: the peak rate of the hypers as they were.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    suggestion: float
    hyper: str | None
    hyper_value: float | None
    current: float

    def __str__(self) -> str:
        return describe(self)

    def plot(self, path: str | Path) -> None:
        """Draw the loss after the short runs against the rate, as a PNG or SVG file."""
        import matplotlib.figure

        figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        score, start = final_losses(self.losses), float(self.losses[0, 0])
        shown = np.where(np.isfinite(score) & (score < 2 * start), score, np.nan)
        axes.semilogx(self.learning_rates, shown, marker=".")
        axes.axvline(self.suggestion, color="tab:green", label=f"suggested {self.suggestion:.2g}")
        axes.axvline(self.current, color="tab:gray", linestyle=":", label=f"now {self.current:.2g}")
        axes.set(xlabel="learning rate", ylabel=f"loss after {len(self.losses)} steps")
        axes.legend()
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
    """A learning rate for `build(hypers)` on `data`, from short runs at 64 constant rates.

    build, hypers, data: as `nf.train` takes them. Every run begins with the same parameters and sees
    the same batches; the optimizer's updates are made as long as they are at the run's rate, so that
    no hyper needs to be named. All runs are one compiled program. steps: of each run. rates: [n], by
    default 64 from 1e-6 to 10, evenly in their logarithms. at_once: how many runs are vmapped
    together, all by default; fewer take less memory.
    The runs leave out the task's augmentation, sharpness (SAM) and micro-batches (accumulate).
    The suggestion is the middle of the rates that do nearly as well as the best one (`suggest`).
    Raises: ValueError when the optimizer does not tell its rate, or no rate improves the loss.
    Source of the test: Smith 2017, arXiv:1506.01186, section 3.3; with a run for each rate in the
    place of one run through all of them, so that no rate pays for another's mistakes.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8)
    >>> found = nf.debug.find_lr(build, {"rate": 1e-3}, data, key=jax.random.key(0))
    >>> found.hyper, bool(0.1 < found.suggestion < 2)
    ('rate', True)
    """
    check.size("find_lr", low=8, steps=steps)
    check.size("find_lr", at_once=1 if at_once is None else at_once)
    learning_rates = np.geomspace(1e-6, 10, 64) if learning_rates is None else np.asarray(learning_rates, float)
    if (
        learning_rates.ndim != 1
        or len(learning_rates) < 3
        or not (np.diff(learning_rates) > 0).all()
        or learning_rates[0] <= 0
    ):
        wanted = "learning_rates should be at least 3 rising numbers above 0"
        check.fail("find_lr", f"{wanted}, got {check.describe(learning_rates)}.")
    own = peak_learning_rate(build, hypers)
    if own is None:
        cure = "Wrap it: nf.optimizers.as_optimizer(optimizer, learning_rate=...), or use one of nf.optimizers."
        check.fail("find_lr", f"the optimizer should tell its learning rate, and does not. {cure}")
    at_once = len(learning_rates) if at_once is None else at_once
    losses = _short_runs(build, hypers, without_augmentation(data), key, steps, learning_rates, at_once)
    chosen = suggest_learning_rate(learning_rates, losses)
    if chosen is None:
        cure = "nf.debug.doctor and nf.debug.overfit look for the reason."
        check.fail("find_lr", f"the loss should fall at some rate, and falls at none. {cure}")
    name = find_learning_rate_hyper(build, hypers)
    value = None if name is None or not own else hypers[name] * chosen / own
    return RangeTest(learning_rates, losses, chosen, name, value, own)


def _short_runs(
    build: Callable[..., Any], hypers: Any, data: Any, key: Key, steps: int, rates: Any, at_once: int
) -> np.ndarray:
    """[steps, rates]: the losses of the runs."""
    params, model_state = init_params(build, hypers, key)
    whole = jax.tree.map(jnp.asarray, data.for_training()) if hasattr(data, "for_training") else None
    given = [data.gather(step) for step in range(steps)] if whole is None else None
    stacked = None if given is None else jax.tree.map(lambda *b: jnp.stack(b), *given)

    def run(rate, params, model_state, feed):
        opt = task_at(build, hypers).optimizer.init(params)

        def one(carry, step):
            params, model_state, opt = carry
            task = task_at(build, hypers, step)
            batch = (feed if given is None else jax.tree.map(lambda b: b[step], feed)).batch(step)
            own = jax.random.fold_in(key, step)

            def loss_of(params):
                return loss_and_metrics(task, params, model_state, batch, key=own, train=True)

            (loss, (_, state)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
            told = {"value": loss, "grad": grads}
            updates, opt = update_at_learning_rate(task.optimizer, rate, step)(grads, opt, params, **told)
            state = jax.tree.map(lambda n, o: n.astype(o.dtype), state, model_state)
            return (optax.apply_updates(params, updates), state, opt), loss

        return jax.lax.scan(one, (params, model_state, opt), jnp.arange(steps))[1]

    def every(rates, *args):
        return jax.lax.map(lambda rate: run(rate, *args), rates, batch_size=at_once)

    feed = whole if given is None else stacked
    args = (jnp.asarray(rates, jnp.float32), params, model_state, feed)
    what, hint = f"training at {at_once} rates side by side", "Lower at_once, or batch_size."
    losses = device_memory.compiled("find_lr", jax.jit(every), what, hint, *args)(*args)
    return np.asarray(losses, np.float64).T


def final_losses(losses: np.ndarray) -> np.ndarray:
    """[rates]: the mean loss of each run's last quarter; inf where it is not finite."""
    tail = losses[-max(2, len(losses) // 4) :].mean(0)
    return np.where(np.isfinite(tail), tail, np.inf)


def suggest_learning_rate(learning_rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The rate that `find_lr` suggests, or None when the loss falls at none.

    It is the geometric mean of the rates whose loss has fallen by 98 % of the most that any fell:
    the middle of the valley's floor, which moves less from seed to seed than its lowest point.
    """
    score, start = final_losses(losses), float(losses[0].min())
    least = float(score.min())
    if not least < start - 1e-4 * abs(start):
        return None
    good = score <= least + 0.02 * (start - least)
    return float(np.exp(np.log(learning_rates[good]).mean()))


BARS = " ▁▂▃▄▅▆▇█"


def describe(found: RangeTest) -> str:
    """The result as a few lines with a small drawing, for a terminal of 80 columns."""
    score, start = final_losses(found.losses), float(found.losses[0].min())
    least = float(score.min())
    height = np.clip((score - least) / max(start - least, 1e-12), 0, 1)
    above = ~(score <= start * (1 + 1e-6))  # not finite, too
    bars = "".join("x" if up else BARS[1 + round(7 * float(h))] for h, up in zip(height, above, strict=True))
    places = np.interp(
        np.log([found.suggestion, max(found.current, 1e-30)]), np.log(found.learning_rates), np.arange(len(bars))
    )
    mark, now = (round(float(place)) for place in places)
    pointer = list(" " * len(bars))
    pointer[now], pointer[mark] = "o", "^"
    ends = f"{found.learning_rates[0]:.0e}".ljust(len(bars) - 6) + f"{found.learning_rates[-1]:.2g}".rjust(6)
    lines = [
        f"  loss after {len(found.losses)} steps, from {least:.3g} to {start:.3g} (x: not below it)",
        f"  {bars}",
        f"  {''.join(pointer).rstrip()}",
        f"  {ends}",
        f"  ^ suggested {found.suggestion:.2g}   o now {found.current:.2g}",
    ]
    return "\n".join(lines)
