"""Whether a run fits into the device's memory, before anything of it is computed."""

from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc.base import Key, as_model
from nnfunc.device_memory import check_fits, compile_checked, compiled_bytes, format_bytes, tree_bytes
from nnfunc.training.compiled import RunFunctions
from nnfunc.training.device_feed import DeviceFeed
from nnfunc.training.train_state import TrainState

SMALLER = "Make the model smaller"


class Needs(NamedTuple):
    """What a run needs on each device.

    parameters: their number, of all devices.
    parameter_bytes: theirs.
    step_bytes: those of a compiled step, None if unknown.
    mesh: lines about the mesh, and what stays whole on each device of it.
    """

    parameters: int
    parameter_bytes: int
    step_bytes: int | None
    mesh: tuple[str, ...] = ()


def check_state(where: str, state: TrainState) -> None:
    """Refuse the shapes of a train state that the device cannot hold."""
    parts = {
        "parameters": tree_bytes(state.params),
        "model state": tree_bytes(state.model_state),
        "optimizer state": tree_bytes(state.opt_state),
        "averages": tree_bytes(state.average),
    }
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    sizes = " + ".join(f"{format_bytes(size)} of {name}" for name, size in parts.items() if size)
    problem = f"the model has {count:.3g} parameters: {sizes}"
    check_fits(where, sum(parts.values()), problem, f"{SMALLER}.")


def check_memory(
    where: str, compiled: RunFunctions, numbers: Any, key: Key, feed: DeviceFeed, loop: str = "auto", start: Any = None
) -> Needs:
    """What a run needs; refused when its state, or its compiled step, needs more memory than the device has.

    Nothing is computed but shapes, and the step that is compiled here is the one that the run calls. It is done
    once for the same functions, data set and loop.
    where: the function that refuses.
    compiled: the functions of the run.
    numbers, key: of the run.
    feed: its data.
    loop: "scan" compiles many steps.
    start: (params, model state) to begin from, or None.
    """
    check = lambda: _check_memory(where, compiled, numbers, key, feed, loop, start)
    if start is not None:
        return check()
    return compiled.once(feed.data, ("memory", loop, key.dtype), numbers, check)


def _check_memory(
    where: str, compiled: RunFunctions, numbers: Any, key: Key, feed: DeviceFeed, loop: str, start: Any
) -> Needs:
    data = feed.sample()
    carry = jax.eval_shape(compiled.init, numbers, key, data, start)
    structs = jax.tree.map(_struct, data)
    mesh: list[str] = []
    if (placement := compiled.placement) is not None:
        model = as_model(compiled.build_task(numbers).model)
        mesh = [placement.describe(), *placement.undivided(model)]
        carry = carry._replace(state=placement.structs(carry.state, model))
    check_state(where, carry.state)
    args: tuple[Any, ...] = (carry, numbers, structs, compiled.flags[False])
    step = compiled.step
    if loop == "scan":
        step, args = compiled.steps, (jax.ShapeDtypeStruct((), "int32"), *args)
    detail = f", of which the train state is {format_bytes(tree_bytes(carry))}"
    hint = f"{SMALLER}, or batch_size, or raise the task's accumulate."
    program = compile_checked(where, step, f"a step of {feed.data.batch_size} examples", hint, *args, detail=detail)
    params = carry.state.params
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Needs(count, tree_bytes(params), compiled_bytes(program), tuple(mesh))


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of an array, and where it lies on a mesh."""
    sharding = getattr(leaf, "sharding", None)
    on_mesh = sharding if isinstance(sharding, jax.sharding.NamedSharding) else None
    return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf), sharding=on_mesh)
