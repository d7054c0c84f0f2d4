"""overfit: whether one batch is learned by heart, which any sound model can do, and if not, why."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnfunc import check, paths
from nnfunc.base import Key, Params, PyTree, fold
from nnfunc.debug import checks_model
from nnfunc.debug.floors import Floors, floors
from nnfunc.debug.look import Look
from nnfunc.debug.subject import first_params, peak_rate, plain, rate_key, scaled, task_at
from nnfunc.training.diverged import first_not_finite
from nnfunc.training.task import Task, loss_and_metrics

__all__ = ["Verdict", "overfit"]

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

Word = Literal["memorised", "learns slowly", "stuck", "diverges", "cannot"]


class Verdict(NamedTuple):
    """What `overfit` found. word: of the run at the hypers' own rate. words, cause, cure: sentences;
    cause and cure are "" when it memorised.

    start, loss: before and after, floor: the least that this batch allows (None where not known).
    rate: the one that was judged, best_rate: the one that got lowest (both None where the optimizer
    does not tell its rate). losses: [steps, rates], of all that were tried. rates: [rates].
    """

    word: Word
    words: str
    cause: str
    cure: str
    start: float
    loss: float
    floor: float | None
    rate: float | None
    best_rate: float | None
    rates: np.ndarray
    losses: np.ndarray

    def __str__(self) -> str:
        return " ".join(
            part for part in (f"{self.word}: {self.words}", self.cause, self.cure) if part
        )


def overfit(
    build: Callable[..., Any], hypers: Any, data: Any, *, key: Key, steps: int = 200,
    rates: Any = None, examples: int = 32,
) -> Verdict:  # fmt: skip
    """Train on one batch alone, without dropout, augmentation and weight decay, and judge.

    A sound model learns a few examples by heart: the loss comes down to the least that the batch
    allows, 0 or what smoothed labels leave. When it does not, the verdict tells the likely cause:
    contradicting labels, parameters without a gradient, outputs that do not depend on the input or
    that are squashed, dead units, a learning rate too small or too large, too few steps.
    build, hypers, data: as `nf.train` takes them; any objective. Weight decay is off where it is a
    float of hypers with weight_decay in its name. rates: constant learning rates, all tried as one
    vmapped program; by default the largest of the run's own times 0.01 to 100. The first batch has
    at most `examples` examples.

    >>> def build(h):
    ...     return nf.Task(nf.mlp([2, 16, 2]), nf.classification(), nf.optimizers.adam(h["rate"]))
    >>> draw = np.random.default_rng(0)
    >>> x, labels = draw.normal(size=(8, 2)).astype(np.float32), np.arange(8, dtype=np.int32) % 2
    >>> data = nf.data.arrays((x, labels), batch_size=8)
    >>> nf.debug.overfit(build, {"rate": 0.1}, data, key=jax.random.key(0)).word
    'memorised'
    >>> verdict = nf.debug.overfit(build, {"rate": 1e-5}, data, key=jax.random.key(0))
    >>> verdict.word, verdict.cause[:36]
    ('stuck', 'The learning rate 1e-05 is too small')
    """
    check.size("overfit", low=8, steps=steps)
    check.size("overfit", low=2, examples=examples)
    data = plain(data, min(examples, data.batch_size) if hasattr(data, "batch_size") else None)
    calm = _without_decay(hypers)
    own = peak_rate(build, calm)
    if rates is None:
        rates = np.asarray(FACTORS) * (1.0 if own is None else own)
    rates = np.asarray(rates, float)
    if rates.ndim != 1 or not rates.size or not (rates >= 0).all():
        check.fail(
            "overfit", f"rates should be a list of numbers from 0 on, got {check.describe(rates)}."
        )
    params, state = first_params(build, calm, key)
    task, batch = task_at(build, calm), jax.device_get(data.batch(0))
    look = Look(task, params, state, batch, fold(key, "overfit"))
    try:
        look.judged  # noqa: B018
    except (ValueError, TypeError) as error:
        if "needs a random key" not in str(error):
            raise
        look.needs_key = True
    losses, last, touched = _runs(build, calm, look, steps, rates)
    at = int(np.argmin(np.abs(np.log(rates + 1e-30) - np.log((own or 1.0) + 1e-30))))
    told = _Told(look, floors(look), rates, losses, last, touched, at, rate_key(build, hypers), own)
    return _verdict(told, hypers)


def _without_decay(hypers: Any) -> Any:
    """The hypers with the floats that are called weight_decay at 0."""
    return jax.tree.map_with_path(
        lambda keys, leaf: (
            0.0 if isinstance(leaf, float) and "weight_decay" in paths.path_of(keys) else leaf
        ),
        hypers,
    )


def _runs(
    build: Callable[..., Any], hypers: Any, look: Look, steps: int, rates: np.ndarray
) -> tuple[np.ndarray, tuple[Params, PyTree], dict[str, np.ndarray]]:
    """Losses [steps + 1, rates], the last (params, state) of each, and which leaves had a gradient."""
    key = look.key if look.needs_key else None

    def run(rate, params, state, batch):
        def loss_of(params, state, task):
            return loss_and_metrics(task, params, state, batch, key=key, train=True)

        def one(carry, step):
            params, state, opt, touched = carry
            task: Task = task_at(build, hypers, step)
            gradient = jax.value_and_grad(loss_of, has_aux=True)
            (loss, (_, new)), grads = gradient(params, state, task)
            told = {"value": loss, "grad": grads}
            updates, opt = scaled(task.optimizer, rate, step)(grads, opt, params, **told)
            new = jax.tree.map(lambda n, o: n.astype(o.dtype), new, state)
            touched = jax.tree.map(lambda t, g: t | jnp.any(g != 0), touched, grads)
            return (optax.apply_updates(params, updates), new, opt, touched), loss

        never = jax.tree.map(lambda leaf: jnp.asarray(False), params)
        opt = look.task.optimizer.init(params)
        carry, losses = jax.lax.scan(one, (params, state, opt, never), jnp.arange(steps))
        last = loss_of(carry[0], carry[1], look.task)[0]
        return jnp.append(losses, last), carry[:2], carry[3]

    every = jax.jit(jax.vmap(run, (0, None, None, None)))
    made = every(jnp.asarray(rates, jnp.float32), look.params, look.state, look.batch)
    losses, last, touched = jax.device_get(made)
    return np.asarray(losses, float).T, last, paths.flatten(touched)


class _Told(NamedTuple):
    look: Look
    floors: Floors | None
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


def _verdict(told: _Told, hypers: Any) -> Verdict:
    left, start, end, floor = told.left(told.at), told.start, told.end(told.at), told.floor
    known = told.floors
    contradicts = known is not None and known.conflict is not None
    contradicts = contradicts and known.tied - known.free > 0.02 * max(start - known.free, 1e-12)
    if not np.isfinite(start):
        word: Word = "diverges"
    elif contradicts or (
        known and start - floor < 1e-3 * max(1.0, abs(floor)) and known.constant - floor < 1e-6
    ):
        word = "cannot"
    elif left <= 0.02:
        word = "memorised"
    elif left > 1.5 or not np.isfinite(end):
        word = "diverges"
    else:
        word = "stuck" if left > 0.9 else "learns slowly"
    steps = len(told.losses) - 1
    words = (
        f"the loss goes from {start:.3g} to {end:.3g} in {steps} steps on {told.look.size} examples"
    )
    if known is not None and known.tied > 0.02 * max(abs(start), 1e-12):
        words += f", and cannot fall below {known.tied:.3g}"
        if known.tied - known.free < 1e-3 * max(1.0, known.tied):
            words += " (as with smoothed labels)"
        elif known.causal:
            words += " (equal beginnings go on in different ways)"
    cause, cure = ("", "") if word == "memorised" else _cause(told, word, hypers)
    ends = [told.end(i) for i in range(len(told.rates))]
    best = float(told.rates[int(np.argmin(ends))])
    known_rate = told.own is not None
    rate = float(told.rates[told.at]) if known_rate else None
    return Verdict(
        word, f"{words}.", cause, cure, start, end, known.tied if known else None, rate,
        best if known_rate else None, told.rates, told.losses,
    )  # fmt: skip


def _cause(told: _Told, word: Word, hypers: Any) -> tuple[str, str]:
    """The likely cause and its cure, in sentences."""
    look, known = told.look, told.floors
    if not np.isfinite(told.start):
        fault = first_not_finite(look.task, look.params, look.state, look.batch, look.key)
        return (
            f"The first loss is not finite: {fault.words}.",
            "Guard roots, logarithms and divisions.",
        )
    if word == "cannot" and known is not None:
        if known.conflict is not None:
            one, other = known.conflict
            pair = f"examples {one} and {other} are equal, their labels are not"
            cause = f"Labels contradict each other: {pair}."
            return (
                cause,
                "Look at how examples and labels are put together, and for missing columns.",
            )
        return "The loss does not depend on the outputs.", "Look at the objective."
    best = min(range(len(told.rates)), key=told.end)
    if told.left(best) <= 0.02 or told.left(best) < 0.3 * min(told.left(told.at), 1.0):
        return _rate(told, best, hypers)
    params, state = jax.tree.map(lambda leaf: leaf[best], told.last)
    idle = [path for path, hit in told.touched.items() if not hit[best]]
    off: list[str] = []
    if np.isfinite(told.end(best)):
        ended = Look(look.task, params, state, look.batch, look.key, look.needs_key)
        y, taps = ended.forward(params, look.x)
        off = [path for path, tap in taps.items() if tap.size > 1 and not tap.any()]
        same = (
            isinstance(y, np.ndarray)
            and y.ndim
            and np.ptp(y, axis=0).max() <= 1e-5 * (np.abs(y).max() + 1e-12)
        )
        for finding in checks_model.outputs(look):
            return f"{finding.what.capitalize()}: {finding.why}", finding.cure
        if idle:
            more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
            dead = f" All results of {off[0]} are 0." if off else ""
            cause = f"No gradient ever reaches {', '.join(idle[:3])}{more}.{dead}"
            return (
                cause,
                "Is the layer used, not stopped, not rounded, and not switched off by a relu?",
            )
        if off:
            return (
                f"Dead units: all results of {off[0]} are 0.",
                "Use he_normal weights or leaky_relu.",
            )
        if same:
            cause = "The outputs do not depend on the input: they are equal for all examples."
            return cause, "nf.debug.doctor names the layer where the input is lost."
    if (
        known is not None
        and told.end(best) - known.constant > -0.02 * (told.start - known.free)
        and known.constant - known.tied > 0.05
    ):
        cause = f"It has learned one answer for all: that alone gives {known.constant:.3g}."
        return (
            cause,
            "Is the input what you think, and does it reach the output? See nf.debug.doctor.",
        )
    if best != told.at and told.left(best) < 0.8 * min(told.left(told.at), 1.0):
        return _rate(told, best, hypers)
    column = told.losses[:, best]
    quarter = max(2, len(column) // 4)
    if column[-quarter:].mean() < 0.95 * column[-2 * quarter : -quarter].mean():
        return "It is still falling.", "Give it more steps."
    return "No rate that was tried does better.", "Try a wider or deeper model, or fewer examples."


def _rate(told: _Told, best: int, hypers: Any) -> tuple[str, str]:
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
