"""The command `nnfunc plan`: the memory, arithmetic and collectives of a step on many devices, before they are paid."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from nnfunc import check, flops, paths, tuning
from nnfunc.base import as_model, shape_struct
from nnfunc.commands.terminal import print_lines
from nnfunc.config import Config, load
from nnfunc.config.dry_run import located
from nnfunc.config.toml import read_tables
from nnfunc.data.dataset import Data
from nnfunc.device_memory import format_bytes, tree_bytes
from nnfunc.distributed.chips import Chip, bounds, find_chip
from nnfunc.distributed.collectives import Collective, collectives
from nnfunc.distributed.mesh import DATA, mesh
from nnfunc.distributed.placement import Placement
from nnfunc.durations import format_seconds
from nnfunc.layers.attention.backends import planned_for_gpu
from nnfunc.training.compiled import run_functions, split_hypers
from nnfunc.training.device_feed import placed_data

LARGEST = 2048
"""The most devices that one process of JAX's CPU backend compiles for."""
TEMPORARIES = "activations, gradients and buffers, as XLA's CPU compiler plans them"


@dataclass(frozen=True)
class StepPlan:
    """What one training step takes on each device.

    axes: of the mesh.
    compiled: those of the mesh that was compiled.
    batch_size: of all devices.
    memory: bytes of the arguments by name.
    temporaries: bytes of the program beside them.
    updated: bytes of the results.
    flops: by dtype.
    collectives: of a step, on the whole mesh.
    mesh: lines about it, and what stays whole.
    """

    axes: dict[str, int]
    compiled: dict[str, int]
    batch_size: int
    memory: dict[str, int]
    temporaries: int
    updated: int
    flops: dict[str, float]
    collectives: list[Collective]
    mesh: list[str]

    @property
    def total(self) -> int:
        """The bytes that a device needs."""
        return sum(self.memory.values()) + self.temporaries


def plan(
    config_file: Path,
    settings: list[str],
    *,
    devices: int | None = None,
    axes: str | None = None,
    shard: str | None = None,
    chip: str | None = None,
) -> None:
    """Print what a training step of a config takes on each of many devices, for which it is compiled here.

    config_file: a TOML file.
    settings: its overrides.
    devices: how many; by default the product of the mesh.
    axes: of the mesh, such as "data=8,model=8"; by default those of the config, or data.
    shard: a preset; by default that of the config.
    chip: of `nnfunc.distributed.chips.CHIPS`, for the time of a step at least.
    Raises: ConfigError; ValueError for a mesh, a shard or a chip that does not fit.
    """
    on = None if chip is None else find_chip(chip)
    tables = read_tables(config_file, settings)
    sizes = _resolve_axes(_parse_axes(axes) if axes else tables.get("mesh"), devices)
    settings = [*settings, "mesh={" + ", ".join(f"{name}={size}" for name, size in sizes.items()) + "}"]
    settings += [] if shard is None else [f'shard="{shard}"']
    _simulate(min(math.prod(sizes.values()), LARGEST))
    config = load(config_file, settings)
    result = plan_step(config, sizes, gpu=on is not None and not str(chip).startswith("tpu"))
    print_lines(_describe(str(config_file), result))
    if chip is not None and on is not None:
        print_lines(_describe_bounds(chip, on, result))


def plan_step(config: Config, axes: Mapping[str, int], gpu: bool = False) -> StepPlan:
    """The plan of a step, compiled from shapes for as many devices; for more than LARGEST, for a part of them.

    Of more, the axis `data` and the batch are halved until the rest compiles. The program of a device is the same,
    because its part of the batch is. Its arguments, its FLOPs and the groups of its collectives are those of the whole
    mesh; its temporaries may be larger by the parts of gradients that twice as many devices would halve.
    config: with any mesh.
    axes: the sizes of the mesh.
    gpu: whether attention is fused where cuDNN's would be; a loop over blocks of queries stands for it.
    Raises: ValueError when the axes do not divide the batch, or the smaller mesh divides other arrays.
    """
    with located(config), tuning.pinned({}):
        shard = config.mesh.get("shard")
        whole = AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
        compiled = _compilable(dict(axes))
        part = mesh(devices=jax.devices("cpu"), **compiled)
        full, small = (Placement.of("train: shard", one, shard) for one in (whole, part))  # pyright: ignore
        times = axes.get(DATA, 1) // compiled.get(DATA, 1)
        data = dataclasses.replace(config.data(), validation=None)
        placed_data(data, full)  # refuses a batch that the devices do not divide
        numbers, static, treedef = split_hypers(config.hypers)
        scaled = config.train.get("rollback", 0) > 0
        functions = run_functions(config.build, static, treedef, scaled, small)
        structs, part_structs = (_batch_structs(data, part, fraction) for fraction in (1, times))
        numbers = _structs(numbers, part, PartitionSpec())
        carry = jax.eval_shape(functions.init, numbers, config.key(), part_structs)
        model = as_model(functions.build_task(split_hypers(config.hypers)[0]).model)
        if times > 1:
            _check_same(full, small, model)
        states = [carry._replace(state=one.structs(carry.state, model)) for one in (full, small)]
        arithmetic = jax.make_jaxpr(lambda *args: functions.step(*args))(states[1], numbers, structs)
        with planned_for_gpu(gpu):
            program = jax.jit(functions.step, donate_argnums=0).lower(states[1], numbers, part_structs).compile()
    mesh_lines = [full.describe(), *full.undivided(model)]
    state = states[0].state
    memory = {
        "parameters": tree_bytes(state.params),
        "optimizer state": tree_bytes(state.opt_state),
        "averages": tree_bytes(state.average),
        "model state": tree_bytes(state.model_state),
        "data": tree_bytes(part_structs),
    }
    stats: Any = program.memory_analysis()
    temporaries = stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    total, half = flops.of(arithmetic), flops.of(arithmetic, jnp.bfloat16)
    count = math.prod(axes.values())
    counts = {"bfloat16": half / count, "float32": (total - half) / count}
    parts = [widen_group(one, compiled, dict(axes)) for one in collectives(program)]
    return StepPlan(
        dict(axes), compiled, data.batch_size, memory, temporaries, tree_bytes(state), counts, parts, mesh_lines
    )


def widen_group(part: Collective, compiled: Mapping[str, int], axes: Mapping[str, int]) -> Collective:
    """A collective on a larger mesh: its group spans the same axes.

    part: on the mesh `compiled`.
    axes: of the larger.

    >>> widen_group(Collective("all-gather", 8, 2, 1, "", (0, 2)), {"a": 2, "b": 2}, {"a": 4, "b": 2}).group
    (0, 2, 4, 6)
    """
    if compiled == axes or part.operation == "collective-permute" or len(part.group) < 2:
        return part
    positions = np.unravel_index(np.array(part.group), tuple(compiled.values()))
    index = tuple(slice(None) if len(set(along.tolist())) > 1 else int(along[0]) for along in positions)
    group = np.arange(math.prod(axes.values())).reshape(*axes.values())[index].reshape(-1)
    return part._replace(group=tuple(group.tolist()), devices=len(group))


def _batch_structs(data: Any, mesh: Any, fraction: int) -> Any:
    """The shapes of what a step reads of the data, with a fraction of the batch."""
    data = dataclasses.replace(data, batch_size=data.batch_size // fraction)
    if isinstance(data, Data):
        return _structs(data.for_training(), mesh, PartitionSpec())
    return _structs(data.gather(0), mesh, PartitionSpec(DATA if DATA in mesh.shape else None))


def _structs(tree: Any, mesh: Any, spec: PartitionSpec) -> Any:
    def struct(leaf: Any) -> Any:
        shape = shape_struct(leaf)
        fits = PartitionSpec(*spec[: len(shape.shape)])
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(mesh, fits))

    return jax.tree.map(struct, tree)


def _parse_axes(text: str) -> dict[str, int]:
    axes: dict[str, int] = {}
    for item in text.split(","):
        name, _, size = item.partition("=")
        if not name.strip() or not re.fullmatch(r"-?\d+", size.strip()):
            check.fail("plan", expected="mesh should be axes with sizes, such as data=8,model=8", actual=repr(text))
        axes[name.strip()] = int(size)
    return axes


def _resolve_axes(axes: Any, devices: int | None) -> dict[str, int]:
    """The sizes of the mesh, whose product is the number of devices."""
    if devices is not None:
        check.size("plan", devices=devices)
    if not isinstance(axes, Mapping) or not axes:
        axes = {DATA: devices or 1}
    for name, size in axes.items():
        if size != -1:
            check.size("plan", **{name: size})
    fixed, free = math.prod(size for size in axes.values() if size != -1), [n for n, s in axes.items() if s == -1]
    shown = ", ".join(f"{name} = {size}" for name, size in axes.items())
    if free and (devices is None or len(free) > 1 or devices % fixed):
        expected = f"--devices should be a multiple of {fixed}, for one axis of -1 in {shown}"
        check.fail("plan", expected=expected, actual=devices)
    if free:
        return {name: devices // fixed if size == -1 else size for name, size in axes.items()}  # pyright: ignore
    if devices is not None and devices != fixed:
        expected = f"the mesh should have {check.counted(devices, 'device')}"
        check.fail("plan", expected=expected, actual=f"{fixed} of {shown}", hint="Change --mesh or --devices.")
    return dict(axes)


def _simulate(count: int) -> None:
    """Let JAX have simulated CPU devices, and no others; afterwards it has started."""
    text = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = re.sub(r"--xla_force_host_platform_device_count=\d+", "", text)
    try:
        jax.config.update("jax_num_cpu_devices", count)
        jax.config.update("jax_platforms", "cpu")
    except RuntimeError:  # JAX has started
        if len(jax.devices("cpu")) < count:
            hint = "Start the command in a process of its own."
            expected = f"JAX should have {check.counted(count, 'simulated device')}"
            check.fail("plan", expected=expected, actual=len(jax.devices("cpu")), hint=hint)


def _compilable(axes: dict[str, int]) -> dict[str, int]:
    """The axes with `data` halved until the mesh compiles."""
    axes = dict(axes)
    while math.prod(axes.values()) > LARGEST:
        if axes.get(DATA, 1) % 2:
            expected = f"a mesh of more than {LARGEST} devices should have an axis data that can be halved"
            check.fail("plan", expected=expected, actual=axes)
        axes[DATA] //= 2
    return axes


def _check_same(full: Placement, small: Placement, model: Any) -> None:
    leaves = paths.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    different = [
        path
        for path, one in full.assign("plan", model, leaves).items()
        if small.assign("plan", model, leaves)[path] != one
    ]
    if different:
        sizes = dict(small.mesh.shape)
        problem = f"the mesh divides {different[0]} differently from {sizes}, the largest that compiles."
        check.fail("plan", problem, hint="Use a smaller axis data, and a larger axis model.")


def _describe(name: str, result: StepPlan) -> str:
    """The table of a plan."""
    lines = [f"{name}: {result.mesh[0]}", *result.mesh[1:]]
    lines += [f"a step of {result.batch_size:,} examples, on each device:"]
    for part, size in (*result.memory.items(), ("temporaries", result.temporaries), ("total", result.total)):
        note = f"  {TEMPORARIES}" if part == "temporaries" else ""
        lines += [f"  {part:<17}{format_bytes(size):>9}{note}"] if size or part == "total" else []
    total = sum(result.flops.values())
    half = f", {result.flops['bfloat16'] / total:.0%} in bfloat16" if result.flops["bfloat16"] else ""
    lines += [f"  {'FLOPs':<17}{total:>9.3g}  nnfunc.flops of the step / devices{half}"]
    lines += ["collectives in a step:"] if result.collectives else ["no collectives"]
    rows: dict[tuple[str, str], list[int]] = {}
    for part in result.collectives:
        row = rows.setdefault((part.operation, _spanned(part, result.axes)), [0, 0])
        row[0] += part.count
        row[1] += part.count * part.bytes
    for (operation, axes), (times, size) in sorted(rows.items(), key=lambda item: -item[1][1]):
        lines += [f"  {operation:<18}{format_bytes(size):>9}  in {times:,} over {axes}"]
    if result.compiled != result.axes:
        shown = ", ".join(f"{axis} = {size}" for axis, size in result.compiled.items())
        lines += [f"compiled for {shown} with the same examples on each device; state and groups are those of all"]
    return "\n".join(lines)


def _spanned(part: Collective, axes: Mapping[str, int]) -> str:
    """The mesh axes along which the devices of a collective differ."""
    positions = np.unravel_index(np.array(part.group or (0,)), tuple(axes.values()))
    names = [name for name, along in zip(axes, positions, strict=True) if len(set(along.tolist())) > 1]
    return " and ".join(names) or "one device"


def _describe_bounds(name: str, chip: Chip, result: StepPlan) -> str:
    """The times that a step takes at least on a chip."""
    traffic = sum(result.memory.values()) - result.memory["data"] + result.updated
    times = bounds(chip, result.flops, traffic, result.collectives)
    largest = max(times._fields, key=lambda field: getattr(times, field))
    fits = "fits" if result.total <= chip.memory else "does not fit"
    what = {
        "compute": "FLOPs at the peak rate of their dtype",
        "memory": "the state is read and written once",
        "links": "all links are busy all the time",
    }
    lines = [f"a step on {name} takes at least {format_seconds(max(times))}; the bound is {largest}:"]
    lines += [f"  {field:<17}{format_seconds(getattr(times, field)):>9}  {text}" for field, text in what.items()]
    lines += [f"  {format_bytes(result.total)} of {format_bytes(chip.memory)} of memory: it {fits}"]
    return "\n".join([*lines, f"  {chip.source}"])
