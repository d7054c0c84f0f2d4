"""overfit: whether one batch is learned by heart, which any sound model can do, and if not, why."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnfunc import check, device_memory, paths
from nnfunc.base import Key, Params, PyTree, fold
from nnfunc.debug.first_state import (
    find_learning_rate_hyper,
    init_params,
    peak_learning_rate,
    task_at,
    update_at_learning_rate,
    without_augmentation,
)
from nnfunc.debug.loss_floor import estimate_floors
from nnfunc.debug.overfit_causes import OverfitRuns, find_cause
from nnfunc.debug.probe import Probe
from nnfunc.errors import MissingKeyError
from nnfunc.training.gradients import loss_and_metrics
from nnfunc.training.task import Task

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

    outcome: Word
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
    >>> nf.debug.overfit(build, {"rate": 0.1}, data, key=jax.random.key(0)).outcome
    'memorised'
    >>> verdict = nf.debug.overfit(build, {"rate": 1e-5}, data, key=jax.random.key(0))
    >>> verdict.outcome, verdict.cause[:36]
    ('stuck', 'The learning rate 1e-05 is too small')
    """
    check.size("overfit", low=8, steps=steps)
    check.size("overfit", low=2, examples=examples)
    data = without_augmentation(data, min(examples, data.batch_size) if hasattr(data, "batch_size") else None)
    calm = _without_decay(hypers)
    own = peak_learning_rate(build, calm)
    if learning_rates is None:
        learning_rates = np.asarray(FACTORS) * (1.0 if own is None else own)
    learning_rates = np.asarray(learning_rates, float)
    if learning_rates.ndim != 1 or not learning_rates.size or not (learning_rates >= 0).all():
        check.fail(
            "overfit", f"learning_rates should be a list of numbers from 0 on, got {check.describe(learning_rates)}."
        )
    params, state = init_params(build, calm, key)
    task, batch = task_at(build, calm), jax.device_get(data.batch(0))
    look = Probe(task, params, state, batch, fold(key, "overfit"))
    try:
        look.evaluation  # noqa: B018
    except MissingKeyError:
        look.needs_key = True
    losses, last, touched = _runs(build, calm, look, steps, learning_rates)
    at = int(np.argmin(np.abs(np.log(learning_rates + 1e-30) - np.log((own or 1.0) + 1e-30))))
    told = OverfitRuns(
        look,
        estimate_floors(look),
        learning_rates,
        losses,
        last,
        touched,
        at,
        find_learning_rate_hyper(build, hypers),
        own,
    )
    return _verdict(told, hypers)


def _without_decay(hypers: Any) -> Any:
    """The hypers with the floats that are called weight_decay at 0."""
    return jax.tree.map_with_path(
        lambda keys, leaf: 0.0 if isinstance(leaf, float) and "weight_decay" in paths.path_of(keys) else leaf, hypers
    )


def _runs(
    build: Callable[..., Any], hypers: Any, look: Probe, steps: int, rates: np.ndarray
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
            updates, opt = update_at_learning_rate(task.optimizer, rate, step)(grads, opt, params, **told)
            new = jax.tree.map(lambda n, o: n.astype(o.dtype), new, state)
            touched = jax.tree.map(lambda t, g: t | jnp.any(g != 0), touched, grads)
            return (optax.apply_updates(params, updates), new, opt, touched), loss

        never = jax.tree.map(lambda leaf: jnp.asarray(False), params)
        opt = look.task.optimizer.init(params)
        carry, losses = jax.lax.scan(one, (params, state, opt, never), jnp.arange(steps))
        last = loss_of(carry[0], carry[1], look.task)[0]
        return jnp.append(losses, last), carry[:2], carry[3]

    every = jax.jit(jax.vmap(run, (0, None, None, None)))
    args = (jnp.asarray(rates, jnp.float32), look.params, look.state, look.batch)
    what, hint = f"training at {len(rates)} rates side by side", "Make the model smaller."
    made = device_memory.compiled("overfit", every, what, hint, *args)(*args)
    losses, last, touched = jax.device_get(made)
    return np.asarray(losses, float).T, last, paths.flatten(touched)


def _verdict(told: OverfitRuns, hypers: Any) -> Verdict:
    left, start, end, floor = told.left(told.at), told.start, told.end(told.at), told.floor
    known = told.floors
    contradicts = False
    if known is not None and known.conflict is not None:
        contradicts = known.tied - known.free > 0.02 * max(start - known.free, 1e-12)
    if not np.isfinite(start):
        word: Word = "diverges"
    elif contradicts or (known and start - floor < 1e-3 * max(1.0, abs(floor)) and known.constant - floor < 1e-6):
        word = "cannot"
    elif left <= 0.02:
        word = "memorised"
    elif left > 1.5 or not np.isfinite(end):
        word = "diverges"
    else:
        word = "stuck" if left > 0.9 else "learns slowly"
    steps = len(told.losses) - 1
    words = f"the loss goes from {start:.3g} to {end:.3g} in {steps} steps on {told.look.size} examples"
    if known is not None and known.tied > 0.02 * max(abs(start), 1e-12):
        words += f", and cannot fall below {known.tied:.3g}"
        if known.tied - known.free < 1e-3 * max(1.0, known.tied):
            words += " (as with smoothed labels)"
        elif known.causal:
            words += " (equal beginnings go on in different ways)"
    cause, cure = ("", "") if word == "memorised" else find_cause(told, word == "cannot", hypers)
    ends = [told.end(i) for i in range(len(told.rates))]
    best = float(told.rates[int(np.argmin(ends))])
    known_rate = told.own is not None
    rate = float(told.rates[told.at]) if known_rate else None
    return Verdict(
        word,
        f"{words}.",
        cause,
        cure,
        start,
        end,
        known.tied if known else None,
        rate,
        best if known_rate else None,
        told.rates,
        told.losses,
    )
