"""The best trials of a sweep as one predictor."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Model, Params, PyTree, as_model
from nnfunc.combinators import wire
from nnfunc.sweeps.result import Result
from nnfunc.training.task import build_task
from nnfunc.training.train_state import eval_params


class Ensemble(NamedTuple):
    """Several trained models as one: y = model.apply(params, x, state=state).

    model: the pair.
    params, state: of all models.
    trials: their indices in the sweep, best first.
    """

    model: Model
    params: Params
    state: PyTree
    trials: tuple[int, ...]


def ensemble_from(result: Result, k: int, *, average: Literal["auto", "probabilities", "outputs"] = "auto") -> Ensemble:
    """The best k trials of a sweep as one model, whose y is the average of theirs.

    result: of `nf.sweep`.
    k: from 1 to the number of trials with a score; their architectures may differ.
    average: "probabilities" is the log of the mean of softmax(y) over the last axis, which is valid as logits for
        losses and argmax; "outputs" is the mean of y; "auto" is "probabilities" for classification and language
        modelling, else "outputs". Averaged weights and running statistics are used as in evaluation. The parameters
        are {"member_7": ..., ...}.
    Raises: ValueError when fewer than k trials have a score, or the result was pickled.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8)
    >>> result = nf.sweep(build, [{"rate": r} for r in (0.1, 0.2, 0.3)], data, steps=50,
    ...                   key=jax.random.key(0))
    >>> model, params, state, trials = nf.ensemble_from(result, 2)
    >>> model.apply(params, x, state=state).shape, trials
    ((32, 1), (2, 1))
    """
    check.size("ensemble_from", k=k)
    check.choice("ensemble_from", ("auto", "probabilities", "outputs"), average=average)
    finite = np.isfinite(result.scores)
    ranked = [row["trial"] for row in result.table("trial") if finite[row["trial"]]]
    if len(ranked) < k:
        expected = f"k should be at most {len(ranked)}, the number of trials with a score"
        check.fail("ensemble_from", expected=expected, actual=k)
    models, params, states, logit_flags = {}, {}, {}, set()
    for i in ranked[:k]:
        name, state, spec = f"member_{i}", result.trial(i).state, result.spec(i)
        assert state is not None
        task = build_task(spec.build, spec.hypers, state.step)
        models[name] = as_model(task.model)
        model_params, model_state = eval_params(task, state)
        params |= {name: model_params} if jax.tree.leaves(model_params) else {}
        states |= {name: model_state} if model_state else {}
        logit_flags.add(getattr(task.objective, "logits", False))
    logits = logit_flags == {True} if average == "auto" else average == "probabilities"

    def flow(net: Any, x: PyTree) -> PyTree:
        outputs = [getattr(net, name)(x) for name in models]
        return jax.tree.map(lambda *y: _mean(jnp.stack(y), logits), *outputs)

    return Ensemble(wire(flow, **models), params, states, tuple(ranked[:k]))


def _mean(y: jax.Array, logits: bool) -> jax.Array:
    """[k, ...] -> [...]"""
    if not logits:
        return y.mean(0)
    return jax.nn.logsumexp(jax.nn.log_softmax(y, axis=-1), axis=0) - jnp.log(float(y.shape[0]))
