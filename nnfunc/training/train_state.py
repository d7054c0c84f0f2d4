"""The train state, and what of it is evaluated."""

from typing import Any, NamedTuple

import jax

from nnfunc import check, paths
from nnfunc.base import Array, Key, Params, PyTree, shape_text
from nnfunc.display import html_table, html_text, tree_html
from nnfunc.training.task import Task


class TrainState(NamedTuple):
    """The whole state of a run, arrays only: a checkpoint of it is complete.

    step: steps done.
    key: the run's key; step t draws from `fold_in(key, t)`.
    params, model_state, opt_state: of the model and the optimizer.
    diverged_at: the first step whose loss, gradient or new parameters were not finite, or -1; from then on the
        parameters do not change.
    average: the average of (params, model_state), if the task averages.
    plateau: the state of reduce_on_plateau.
    rate_scale: the factor of the learning rate after rollbacks. The last three are () where they are not used.
    """

    step: Array
    key: Key
    params: Params
    model_state: PyTree
    opt_state: PyTree
    diverged_at: Array
    average: PyTree = ()
    plateau: PyTree = ()
    rate_scale: PyTree = ()

    def __repr__(self) -> str:
        lines = [f"  {path}: {shape}" for path, shape in self._shapes()]
        more = [f"  and {len(lines) - 12} more"] if len(lines) > 12 else []
        return "\n".join([self._title(), *lines[:12], *more])

    def _repr_html_(self) -> str:
        rows = [("parameter", "shape"), *self._shapes()]
        return tree_html(self._asdict()) or html_text(self._title()) + html_table(rows)

    def _shapes(self) -> list[tuple[str, str]]:
        return [(path, shape_text(leaf)) for path, leaf in paths.flatten(self.params).items()]

    def _title(self) -> str:
        total = sum(getattr(leaf, "size", 0) for leaf in jax.tree.leaves(self.params))
        plain = isinstance(self.step, jax.Array) and not check.is_traced(self.step) and self.step.ndim == 0
        after = f" after {check.counted(int(self.step), 'step')}" if plain else ""
        return f"TrainState{after}, {total:,} parameters:"


def eval_params(task: Task, state: TrainState) -> tuple[Params, PyTree]:
    """The (params, model_state) to evaluate and to use: the averaged ones if the task averages.

    task: of the run.
    state: its train state.

    >>> task = nf.Task(nf.linear(2, 3), nf.classification(), nf.optimizers.sgd(0.1))
    >>> state = nf.trainer(lambda h: task).init({}, jax.random.key(0))
    >>> params, model_state = nf.training.eval_params(task, state)
    >>> sorted(params)
    ['bias', 'weight']
    """
    current = (state.params, state.model_state)
    return current if task.average is None else task.average.read(state.average, current)


def refuse_train_state(where: str, **trees: Any) -> None:
    """Refuse a whole train state where its parameters, or the state of the model, belong.

    where: begins the message.
    trees: the arguments by name.
    """
    for name, tree in trees.items():
        if isinstance(tree, TrainState):
            hint = "Pass params=state.params, state=state.model_state."
            check.fail(where, expected=f"{name} should be a tree of arrays", actual="a whole train state", hint=hint)


def check_train_state(call: str, state: Any, *others: Any) -> None:
    """Refuse what is not a train state, and say where it stands instead. call: as it is written."""
    if isinstance(state, TrainState):
        return
    actual, hint = check.describe(state), f"Call it as {call}, with the state of trainer.init or of the last step."
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], TrainState):
        actual, hint = "a pair (state, metrics)", "A step returns both: state, metrics = step(hypers, state, batch)."
    elif any(isinstance(other, TrainState) for other in others):
        hint = f"The order of the arguments is {call}."
    where, expected = f"trainer.{call.partition('(')[0]}", "state should be a TrainState"
    check.fail(where, expected=expected, actual=actual, hint=hint, exc_type=TypeError)
