"""The collectives of a compiled program: what the devices send each other, by operation, with their bytes."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

OPERATIONS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}
_MOVES = {"add", "bitcast", "convert", "copy", "reshape", "transpose"}
"""Operations on values that may as well be done after a slice is taken."""


class Collective(NamedTuple):
    """One operation in which devices exchange values.

    operation: of OPERATIONS.
    bytes: of the whole array that a device ends with, or of a reduce-scatter begins with; those of all arrays that
        are exchanged at once.
    devices: how many take part.
    count: how often it runs in one call of the program.
    name: of the operation in the model, for messages.
    group: the positions in the mesh of the first devices that exchange values with each other.
    """

    operation: str
    bytes: int
    devices: int
    count: int
    name: str
    group: tuple[int, ...] = ()


class _Instruction(NamedTuple):
    """A line of a program's text. operands: the names of what it reads. text: the line."""

    name: str
    shapes: str
    operation: str
    operands: tuple[str, ...]
    text: str


_Value = tuple[Mapping[str, _Instruction], str]
"""The instructions of a computation, and the name of one of them."""

_LINE = re.compile(r"^\s*(?:ROOT )?%(?P<name>[\w.-]+) = (?P<shapes>\(.*?\)|\S+) (?P<operation>[\w-]+)\((?P<rest>.*)$")


def collectives(program: Any) -> list[Collective]:
    """The collectives of a compiled program, those of loops with the number of their turns.

    An all-reduce of which every device uses only its part counts as a reduce-scatter: compilers for GPU and TPU make
    one of it, the one for CPU does not. What that exchanges in float32, because it has no bfloat16, counts as bfloat16.

    program: `jax.jit(function).lower(...).compile()`.

    >>> collectives(jax.jit(jnp.sin).lower(1.0).compile())
    []
    """
    computations, entry = _parse(program.as_text())

    def walk(name: str, times: int) -> list[Collective]:
        result: list[Collective] = []
        instructions = computations[name]
        for instruction in instructions.values():
            operation = instruction.operation.removesuffix("-start")
            if operation in OPERATIONS:
                result += _collective(computations, instructions, instruction, operation, times)
            elif operation == "while":
                body = _called(instruction.text, "body")
                result += [c for part in body for c in walk(part, times * _turns(instruction.text))]
            elif operation == "conditional":
                branches = [walk(part, times) for part in _branches(instruction.text)]
                result += max(branches, key=lambda branch: sum(c.bytes * c.count for c in branch), default=[])
            elif operation in ("call", "fusion", "async-start"):
                result += [c for part in _called(instruction.text, "calls|to_apply") for c in walk(part, times)]
        return result

    return walk(entry, 1)


def collective_bytes(parts: list[Collective]) -> dict[str, int]:
    """The bytes by operation in one call of the program. parts: of `collectives`."""
    total: Counter[str] = Counter()
    for part in parts:
        total[part.operation] += part.bytes * part.count
    return dict(total)


def _parse(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    """(the instructions of each computation by name, the name of the entry) of a program's text."""
    computations: dict[str, dict[str, _Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := re.match(r"^(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = header[2]
            computations[name] = {}
            entry = name if header[1] else entry
        elif (match := _LINE.match(line)) and name:
            operands = tuple(re.findall(r"%([\w.-]+)", match["rest"].split("), ")[0]))
            one = _Instruction(match["name"], match["shapes"], match["operation"], operands, line)
            computations[name][one.name] = one
    return computations, entry


def _collective(
    computations: Mapping[str, Mapping[str, _Instruction]],
    instructions: Mapping[str, _Instruction],
    instruction: _Instruction,
    operation: str,
    times: int,
) -> Iterator[Collective]:
    """The collective of an instruction; of an all-reduce also the part that is a reduce-scatter."""
    group, label = _group(instruction.text), re.search(r'op_name="([^"]*)"', instruction.text)
    sizes = [_bytes(shape) for shape in re.findall(r"\w+\[[\d,]*\]", instruction.shapes)]
    count = len(instruction.operands)
    if instruction.operation.endswith("-start") and operation != "all-reduce":  # (operands, results, contexts)
        sizes = sizes[count : 2 * count]
    wide = [
        "_promoted" in instruction.text or _is_widened(computations, (instructions, n)) for n in instruction.operands
    ]
    sizes = [size // 2 if is_wide else size for size, is_wide in zip(sizes, wide, strict=True)]
    amounts = {operation: sum(sizes)}
    if operation == "reduce-scatter":
        amounts = {operation: sum(sizes) * len(group)}
    elif instruction.operation == "all-reduce":
        parts = _parts(instructions, instruction, len(sizes))
        sliced = sum(size for size, names in zip(sizes, parts, strict=True) if _only_sliced(computations, names))
        amounts = {"all-reduce": sum(sizes) - sliced, "reduce-scatter": sliced}
    for name, amount in amounts.items():
        if amount:
            yield Collective(name, amount, len(group), times, label[1] if label else "", group)


def _is_widened(computations: Mapping[str, Mapping[str, _Instruction]], value: _Value) -> bool:
    """Whether a value is bfloat16 that the compiler for CPU exchanges as float32."""
    instructions, name = value
    one = instructions[name]
    if one.operation == "convert":
        return one.shapes.startswith("f32") and instructions[one.operands[0]].shapes.startswith("bf16")
    if one.operation == "fusion":
        inside = computations[_called(one.text, "calls")[0]]
        root = next(i.name for i in inside.values() if i.text.lstrip().startswith("ROOT"))
        return _is_widened(computations, (inside, root))
    return one.operation in _MOVES - {"add"} and _is_widened(computations, (instructions, one.operands[0]))


def _parts(
    instructions: Mapping[str, _Instruction], instruction: _Instruction, count: int
) -> list[tuple[Mapping[str, _Instruction], str]]:
    """The instructions that hold each of the results."""
    if count == 1:
        return [(instructions, instruction.name)]
    result = []
    for i in range(count):
        name = next(
            (
                one.name
                for one in instructions.values()
                if one.operation == "get-tuple-element"
                and instruction.name in one.operands
                and f"index={i}," in one.text
            ),
            "",
        )
        result.append((instructions, name))
    return result


def _only_sliced(
    computations: Mapping[str, Mapping[str, _Instruction]], value: _Value, fusion: _Value | None = None
) -> bool:
    """Whether each use of a value reads only a slice of it. fusion: whose computation the value is in."""
    instructions, name = value
    users = [one for one in instructions.values() if name in one.operands]
    if not users:
        is_result = instructions[name].text.lstrip().startswith("ROOT")
        return fusion is not None and is_result and _only_sliced(computations, fusion)
    for user in users:
        if user.operation == "dynamic-slice":
            continue
        if user.operation == "fusion":
            inside = computations[_called(user.text, "calls")[0]]
            for i in (i for i, operand in enumerate(user.operands) if operand == name):
                parameter = next(p.name for p in inside.values() if re.search(rf"parameter\({i}\)", p.text))
                if not _only_sliced(computations, (inside, parameter), (instructions, user.name)):
                    return False
        elif user.operation not in _MOVES or not _only_sliced(computations, (instructions, user.name), fusion):
            return False
    return True


def _bytes(shape: str) -> int:
    """The bytes of a shape such as f32[4,8]."""
    dtype, sizes = re.fullmatch(r"(\w+)\[([\d,]*)\]", shape).groups()  # pyright: ignore
    bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype.partition("e")[0]) or 8)
    return math.prod(int(size) for size in sizes.split(",") if size) * bits // 8


def _group(text: str) -> tuple[int, ...]:
    """The first devices that exchange values with each other."""
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        sizes = [int(size) for size in match[3].split(",")]
        order = [int(axis) for axis in match[4].split(",")] if match[4] else range(len(sizes))
        devices = np.arange(math.prod(sizes)).reshape(sizes).transpose(order)
        return tuple(devices.reshape(-1)[: int(match[2])].tolist())
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return tuple(int(device) for device in match[1].split(","))
    if match := re.search(r"source_target_pairs=\{(.*?)\}\}", text):  # a device may send to itself
        pairs = [(int(source), int(target)) for source, target in re.findall(r"(\d+),(\d+)", match[1])]
        return next((pair for pair in pairs if pair[0] != pair[1]), ())
    if match := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        inside = re.findall(r"'(\w+)'", match[2])
        index = tuple(slice(None) if name in inside else 0 for name in sizes)
        return tuple(np.arange(math.prod(sizes.values())).reshape(*sizes.values())[index].reshape(-1).tolist())
    return ()


def _turns(text: str) -> int:
    match = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', text)
    return int(match[1]) if match else 1


def _called(text: str, attribute: str) -> list[str]:
    match = re.search(rf"(?:{attribute})=%?([\w.-]+)", text)
    return [match[1]] if match else []


def _branches(text: str) -> list[str]:
    if match := re.search(r"branch_computations=\{(.*?)\}", text):
        return re.findall(r"%([\w.-]+)", match[1])
    return [name for part in ("true", "false") for name in _called(text, f"{part}_computation")]
