"""The command `nnfunc profile`: what the time and the memory of a config's training steps go into."""

import re
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.table import Table

from nnfunc import check, paths
from nnfunc.base import as_model
from nnfunc.commands.terminal import open_console, print_lines
from nnfunc.config import Config, load
from nnfunc.device_memory import format_bytes, tree_bytes
from nnfunc.durations import format_seconds
from nnfunc.intermediates import capture
from nnfunc.runs import run_folder
from nnfunc.training.compiled import Carry, compiled_functions, split_hypers
from nnfunc.training.device_feed import DeviceFeed, placed_data
from nnfunc.training.step import placement_of

STEPS = 10
"""The steps that are timed."""
TRACED = 3
"""The steps after them that the profiler watches, which slows them."""
ROWS = 10


class Profile(NamedTuple):
    """What `profile` has measured.

    once: seconds of what a run does once, by name: data, trace, compile.
    step: median seconds of the parts of a step: data, host, device.
    operations: seconds a step of each operation of the program, the costliest first.
    memory: bytes by layer: parameters, optimizer, outputs.
    folder: with the trace.
    """

    once: dict[str, float]
    step: dict[str, float]
    operations: dict[str, float]
    memory: dict[str, dict[str, int]]
    folder: Path


def profile(config_file: Path, settings: list[str], folder: Path | None = None) -> Profile:
    """Time ten training steps of a config and trace three more; print and return what they take.

    config_file: a TOML file.
    settings: its overrides.
    folder: a new one for the trace, by default the next of runs/NAME-profile-1.
    """
    start = time.perf_counter()
    config = load(config_file, settings)
    data = config.data()
    once = {"data": time.perf_counter() - start}
    placement = placement_of("profile", config.mesh.get("mesh"), config.mesh.get("shard"))
    data = data if placement is None else placed_data(data, placement)
    numbers, static, treedef = split_hypers(config.hypers)
    functions = compiled_functions(config.build, static, treedef, False, placement)
    feed = DeviceFeed(data, placement, config.train.get("cut_data"))
    try:
        numbers = numbers if placement is None else placement.whole(numbers)
        carry = jax.block_until_ready(functions.init(numbers, config.key(), feed.sample(), None))
        start = time.perf_counter()
        lowered = functions.step.lower(carry, numbers, feed.sample())  # pyright: ignore[reportFunctionMemberAccess]
        once["trace"] = time.perf_counter() - start
        start = time.perf_counter()
        program = lowered.compile()
        once["compile"] = time.perf_counter() - start
        carry, step = _time_steps(program, carry, numbers, feed)
        folder = run_folder.create_folder(f"{config_file.stem}-profile", folder)
        with jax.profiler.trace(str(folder), create_perfetto_trace=True):
            for i in range(STEPS, STEPS + TRACED):
                carry = program(carry, numbers, feed.read(i))
            jax.block_until_ready(carry)
    finally:
        feed.close()
    layers = operation_layers(program.as_text())
    result = Profile(once, step, operation_times(folder, layers, TRACED), _memory(config, data, carry), folder)
    _print(config, result, _flops(program))
    return result


def _flops(program: Any) -> float:
    """The floating-point operations of a call of a compiled program, by XLA's count; NaN where it does not tell."""
    costs = program.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    return float((costs or {}).get("flops", float("nan")))


def _time_steps(program: Any, carry: Carry, numbers: Any, feed: DeviceFeed) -> tuple[Carry, dict[str, float]]:
    """The carry after ten steps, and the median seconds of their parts."""
    times: dict[str, list[float]] = {"data": [], "host": [], "device": []}
    for i in range(STEPS):
        marks = [time.perf_counter()]
        batch = jax.block_until_ready(feed.read(i))
        marks.append(time.perf_counter())
        carry = program(carry, numbers, batch)
        marks.append(time.perf_counter())
        jax.block_until_ready(carry)
        marks.append(time.perf_counter())
        for name, begin, end in zip(times, marks, marks[1:], strict=False):
            times[name].append(end - begin)
    return carry, {name: statistics.median(values) for name, values in times.items()}


def operation_layers(text: str) -> dict[str, str]:
    """The layer and the operation of each instruction of a compiled program, except loops and branches.

    These contain other instructions, which count by themselves.
    text: of the program.

    >>> text = '  %add.1 = f32[] add(%a, %b), metadata={op_name="jit(step)/transpose(jvp(head))/dot_general"}'
    >>> operation_layers(text)
    {'add.1': 'head backward: dot_general'}
    """
    result = {}
    for match in re.finditer(r"^\s*(?:ROOT )?%([\w.-]+) = .*?op_name=\"([^\"]*)\"", text, re.MULTILINE):
        if not re.search(r"[\])}] (while|conditional)\(", match[0]):
            result[match[1]] = _describe(match[2])
    return result


_NOT_LAYERS = re.compile(
    r"p?jit(\(.*\))?|while|body|cond|closed_call|checkpoint|rematted_computation|branch_\d+_fun|\w*call"
)
"""Parts of the names of instructions that are JAX's, not layers'."""


def _describe(op_name: str) -> str:
    """The layer, the pass and the operation in the name that JAX gives an instruction."""
    *scopes, operation = op_name.split("/")
    names: list[str] = []
    for scope in scopes:
        while match := re.fullmatch(r"(?:transpose|jvp|vmap|remat|checkpoint)\((.*)\)", scope):
            scope = match[1]
        if scope and not _NOT_LAYERS.fullmatch(scope) and "->" not in scope and names[-1:] != [scope]:  # einsum
            names.append(scope)
    backward = " backward" if any("transpose(" in scope for scope in scopes) else ""
    return f"{'/'.join(names) or 'step'}{backward}: {operation}"


def operation_times(folder: Path, layers: Mapping[str, str], steps: int) -> dict[str, float]:
    """Seconds a step of each layer's operations in a trace, the costliest first.

    folder: of the trace.
    layers: of `operation_layers`.
    steps: how many were traced.
    """
    times: Counter[str] = Counter()
    for file in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in layers:
                        times[layers[event.name]] += event.duration_ns / 1e9 / steps
    return dict(times.most_common())


def _memory(config: Config, data: Any, carry: Carry) -> dict[str, dict[str, int]]:
    """Bytes by layer: of parameters, of the state of the optimizer, of the outputs for one batch; the largest first."""
    model = as_model(config.build(config.hypers).model)
    batch = jax.eval_shape(lambda: data.batch(0))
    table: dict[str, Counter[str]] = {}
    add = lambda path, part, size: table.setdefault(path.rpartition("/")[0] or path, Counter()).update({part: size})
    params = paths.flatten(carry.state.params)
    for path, leaf in params.items():
        add(path, "parameters", tree_bytes(leaf))
    for path, leaf in paths.flatten(carry.state.opt_state).items():
        owner = next((name for name in params if path.endswith(f"/{name}")), None)
        if owner is not None:
            add(owner, "optimizer", tree_bytes(leaf))
    if isinstance(batch, tuple):
        with_taps = lambda params, x: capture(model, "**")(params, x, state=model.init_state(config.key()))[1]
        taps = jax.eval_shape(with_taps, carry.state.params, batch[0])
        inner = {path for path in taps if not any(other.startswith(f"{path}/") for other in taps)}
        for path in inner:
            add(f"{path.replace('/*', '')}/y", "outputs", tree_bytes(taps[path]))
    return dict(sorted(table.items(), key=lambda item: -sum(item[1].values())))


def _print(config: Config, result: Profile, operations: float) -> None:
    console, steps = open_console(), config.train["steps"]
    total = sum(result.once.values()) + steps * sum(result.step.values())
    times = _table("", "once", "each step", f"of a run of {steps:,} steps")
    for name in dict.fromkeys([*result.once, *result.step]):
        seconds = result.once.get(name, 0.0) + steps * result.step.get(name, 0.0)
        cells = [format_seconds(part[name]) if name in part else "" for part in (result.once, result.step)]
        times.add_row(name, *cells, f"{seconds / total:.1%}")
    console.print(times)
    device = result.step["device"] + result.step["host"]
    note = "; small programs run on a CPU while the host starts them" if jax.default_backend() == "cpu" else ""
    print_lines(f"{operations / device / 1e9:,.3g} GFLOP/s; without evaluations, checkpoints and reports{note}\n")
    whole = sum(result.operations.values())
    costs = _table("operation", "each step", "of all operations")
    for name, seconds in list(result.operations.items())[:ROWS]:
        costs.add_row(name, format_seconds(seconds), f"{seconds / whole:.1%}")
    if result.operations:
        console.print(costs)
        print()
    else:
        print("The profiler does not report operations on this device.\n")
    memory = _table("layer", "parameters", "optimizer", "outputs of a batch")
    parts, rows = ("parameters", "optimizer", "outputs"), list(result.memory.items())
    for name, sizes in rows[:ROWS]:
        memory.add_row(name, *(format_bytes(sizes[part]) for part in parts))
    if rest := rows[ROWS:]:
        sums = [format_bytes(sum(sizes[part] for _, sizes in rest)) for part in parts]
        memory.add_row(check.counted(len(rest), "other layer"), *sums)
    console.print(memory)
    for file in result.folder.rglob("perfetto_trace.json.gz"):
        print(f"\ntrace   {file}, for ui.perfetto.dev; XProf reads {result.folder}")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i else "left", overflow="fold", no_wrap=bool(i))
    return table
