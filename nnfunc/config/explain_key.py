"""What each key of a config is: its type, range, default and meaning, from the factories and their docstrings."""

import inspect
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from nnfunc import check
from nnfunc.config.config_errors import nearest_hint
from nnfunc.config.load import EXAMPLES
from nnfunc.config.schema import (
    FIXED_FACTORIES,
    INJECTED,
    MESH_TABLES,
    OPTIONAL_TABLES,
    TABLES,
    ValueType,
    factories,
    get_schema,
)

WHERE = "config"
NAMED_TABLES = tuple(table for table in TABLES if table not in (*FIXED_FACTORIES, *MESH_TABLES))
"""The tables with several factories: those with a name, and augment, whose keys are the names."""
REQUIRED = "none, it is required"
FOLLOWS = "follows from the rest of the config"
_END = "\0"
_SECTIONS = re.compile(r"(?:^| )(?:Raises|Shapes?|Source|Paths|Returns): ")
_RANGES = re.compile(r"\bin ([\[(][^\[\]()]+[\])])|\b(at least|at most|above|below) (\d[\d.e-]*)", re.IGNORECASE)
_REFERENCES = re.compile(r"(?:As for|As in|That of|Those of) `(?:nf\.)?([\w.]+)`")
_SHARED = {
    "activation": "The name of one of nf.activations, such as gelu.",
    "batch_size": "Examples per batch, at least 1.",
    "block_size": "The longest sequence, in tokens.",
    "classes": "The number of classes.",
    "eps": "The least value of a divisor, above 0.",
    "fill": "The value of pixels that come from outside of the image, by default black.",
    "final": "The value at the last step.",
    "head_bias": "Whether the head has a bias.",
    "in_dim": "The size of the last axis of the input, such as the channels of images.",
    "learning_rate": "A number; the table schedule replaces it.",
    "peak": "The largest value, at the end of the warm-up.",
    "seed": "The seed of the order of the examples, by default the seed of the config.",
    "shape": "[height, width, channels] of images that are rows of pixels; by default that of the data.",
    "start": "The value at step 0.",
    "total_steps": "The last step, by default train.steps.",
    "vocab_size": "The number of token ids.",
    "warmup_steps": "The steps until the peak.",
    "weight_decay": "A step subtracts learning_rate * weight_decay * weight from each weight; at least 0.",
}
"""Arguments that have the same meaning everywhere, for docstrings that leave them out."""


@dataclass(frozen=True)
class KeyHelp:
    """What one key of a config is.

    key: dotted, such as "model.dropout".
    factory: the name of the function whose argument it is.
    type: the values of TOML that it takes.
    range: of its numbers, "" if any.
    default: as TOML, or in words.
    meaning: the line of the docstring.
    example: of TOML.
    """

    key: str
    factory: str
    type: str
    range: str
    default: str
    meaning: str
    example: str


def first_line(function: Any) -> str:
    """The first sentence of the docstring of a `function`, on one line."""
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())


def argument_docs(function: Any) -> dict[str, str]:
    """The sentences of each argument in the docstring of a `function`: those after "name: " or "name, other: ".

    An argument without such a mark gets the sentence that names it.

    >>> def pad(size, fill=0):
    ...     '''Pad an image. size: of the result,
    ...     at least 1. fill: the value outside. Raises: ValueError.'''
    >>> argument_docs(pad)
    {'size': 'Of the result, at least 1.', 'fill': 'The value outside.'}
    """
    paragraphs = (inspect.getdoc(function) or "").partition(">>>")[0].strip()
    text = re.sub(r"\n+(?=[A-Z])(?<=[.?]\n)", _END, paragraphs)  # a new line begins another subject
    text = " ".join(text.split())
    names = list(inspect.signature(function).parameters)
    one = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    marks = list(re.finditer(rf"(?:^|(?<=[.?);] )|(?<={_END}))((?:{one})(?:, (?:{one}))*): ", text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)][: len(marks)]
    docs: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        body = _SECTIONS.split(text[mark.end() : end].partition(_END)[0])[0].strip()
        body = f"{body[:-1]}." if body.endswith(";") else body
        docs |= {name: _capital(body) for name in mark[1].split(", ") if name not in docs}
    for mark in reversed(marks):
        text = text[: mark.start()] + _END + text[mark.start() :]
    sentences = re.split(rf"(?<=[.?]) (?=[A-Z`\[])|{_END}", text)
    for name in names:
        about = next((line for line in sentences if re.search(rf"\b{name}\b", line)), None)
        shared = _SHARED.get(name) or (None if about is None else _capital(about.strip()))
        if name not in docs and shared:
            docs[name] = shared
    return docs


def explain_key(key: str, names: Mapping[str, str]) -> list[KeyHelp]:
    """The help of a key, once for each factory that it is an argument of.

    key: dotted, such as "model.dropout", "augment.shift.pixels" or "seed".
    names: the factory of a table, such as {"model": "mlp"}; without it all factories with that argument.
    Raises: ValueError, with the nearest key, when there is no such key.

    >>> explain_key("model.dropout", {"model": "mlp"})[0].range
    '[0, 1]'
    """
    table, _, argument = key.partition(".")
    if key == "seed":
        meaning = "The seed of the initial values, of the random draws and of the order of the examples."
        return [KeyHelp("seed", "", "an integer", "0 to 2**32 - 1", "0", meaning, "seed = 0")]
    check_table(table)
    if table == "augment" and "." in argument:
        name, _, argument = argument.partition(".")
        names = {**names, "augment": name}
    known = [names[table]] if table in names else list(factories(table))
    check_name(table, known)
    if argument == "name" and table in NAMED_TABLES:
        functions = f"one of {', '.join(map(repr, sorted(factories(table))))}"
        meaning = f"The function that the table calls; the other keys are its arguments. See nnfunc config {table}."
        return [KeyHelp(key, "", functions, "", REQUIRED, meaning, TABLES[table])]
    matches = [name for name in known if argument in get_schema(table, name).types]
    if not matches:
        _fail_unknown(table, known, argument)
    return [_describe(table, name, argument) for name in matches]


def check_table(table: str) -> None:
    """Refuse a `table` that configs do not have."""
    if table in TABLES:
        return
    used = [name for name in NAMED_TABLES if table in factories(name)]
    hint = f"It is a name of {used[0]}: nnfunc config {used[0]} --{used[0]} {table}" if used else ""
    owners = [name for name in TABLES for f in factories(name) if table in get_schema(name, f).types]
    hint = hint or (f"Did you mean {owners[0]}.{table}?" if owners else nearest_hint(table, TABLES, list_names=True))
    check.fail(WHERE, f"there is no table {table!r}.", hint=_capital(hint))


def check_name(table: str, names: Collection[str]) -> None:
    """Refuse `names` of factories that a `table` does not have."""
    for name in names:
        if name not in factories(table):
            hint = _capital(nearest_hint(name, factories(table), list_names=True))
            check.fail(WHERE, f"there is no {table} {name!r}.", hint=hint)


def _fail_unknown(table: str, names: Collection[str], argument: str) -> None:
    schemas = {name: get_schema(table, name) for name in names}
    one = FIXED_FACTORIES.get(table) is None and len(schemas) == 1
    where = f"{table} {next(iter(schemas))}" if one else table
    if any(argument in schema.python_only for schema in schemas.values()):
        check.fail(WHERE, f"{where} takes {argument!r} only in Python, because TOML cannot express its values.")
    known = dict.fromkeys(key for schema in schemas.values() for key in schema.types)
    hint = _capital(nearest_hint(argument, known, list_names=True))
    check.fail(WHERE, f"{where} has no key {argument!r}.", hint=hint)


def _describe(table: str, name: str, argument: str) -> KeyHelp:
    schema = get_schema(table, name)
    value_type = schema.types[argument]
    meaning = _meaning(table, factories(table)[name], argument)
    field = schema.model.model_fields[f"{argument}_"]
    if argument in schema.defaults:
        default = to_toml(schema.defaults[argument])
    elif field.is_required():
        default = REQUIRED
    elif argument in INJECTED.get(table, ()):
        default = FOLLOWS
    else:
        default = "none"
    key = f"{table}.{name}.{argument}" if table == "augment" else f"{table}.{argument}"
    value = _example(table, name, argument, value_type.example)
    if schema.defaults.get(argument):
        value = to_toml(schema.defaults[argument])
    setting = f"{argument} = {value}"
    if table == "augment":
        example = f"augment = {{ {name} = {{ {setting} }} }}"
    else:
        example = (
            f"{table} = {{ {setting} }}" if table in FIXED_FACTORIES else f'{table} = {{ name = "{name}", {setting} }}'
        )
    return describe_argument(key, name, value_type, default, meaning, example)


def _meaning(table: str, function: Any, argument: str) -> str:
    """The docstring's sentences of an argument of a function of a `table`; those of another function that it names."""
    meaning = argument_docs(function).get(argument, "")
    match = _REFERENCES.match(meaning)
    if match is None:
        return meaning
    *_, name = match[1].split(".")
    imported = inspect.unwrap(function).__globals__  # of the module of the function
    other = next((f for f in (factories(table).get(name), imported.get(name)) if f not in (None, function)), None)
    if other is None or argument not in argument_docs(other):
        return meaning
    rest = meaning[match.end() :].lstrip(",;. ")
    return " ".join(filter(None, [_meaning(table, other, argument), _capital(rest)]))


def describe_argument(
    key: str, factory: str, value_type: ValueType, default: str, meaning: str, example: str
) -> KeyHelp:
    """The help of an argument, with the range that its meaning tells.

    key, factory, default, meaning, example: of it.

    value_type: of the argument.
    """
    numeric = "number" in value_type.singular or "integer" in value_type.singular
    text = value_type.singular + " or a schedule" * value_type.traced
    return KeyHelp(key, factory, text, _range(meaning) if numeric else "", default, meaning, example)


def _example(table: str, name: str, argument: str, typical: str) -> str:
    """A value of an argument as TOML: that of the table's example, else a `typical` one of its type."""
    values = tomllib.loads(TABLES[table])[table]
    values = values.get(name, {}) if table == "augment" else values
    if argument in values and values.get("name", name) == name:
        return to_toml(values[argument])
    return "100" if argument.endswith("steps") or "every" in argument else EXAMPLES.get(argument, typical)


def _range(meaning: str) -> str:
    """The range that a docstring tells, "" if it tells none."""
    match = _RANGES.search(meaning)
    return "" if match is None else match[1] or f"{match[2].lower()} {match[3].rstrip('.')}"


def to_toml(value: Any) -> str:
    """A `value` as TOML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping) and not value:
        return "{}"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_toml_key(key)} = {to_toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    return repr(value)


def _toml_key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def table_line(table: str) -> str:
    """Whether a `table` is required, and what it is, in one line."""
    need = "optional" if table in OPTIONAL_TABLES else "required"
    if table in FIXED_FACTORIES:
        return f"{need}: {first_line(next(iter(factories(table).values())))}"
    return f"{need}: {_TABLES[table]}"


_TABLES = {
    "data": "The data set, one of the functions of nf.data.",
    "model": "The model, by the name of its function.",
    "objective": "The loss, and the metrics that are computed with it.",
    "optimizer": "The optimizer.",
    "schedule": "The learning rate of each step.",
    "augment": "Random changes of the training examples, a table for each.",
    "average": "An average of the weights, used in evaluations.",
    "mesh": "The devices as a grid with named axes, for runs over several of them.",
    "shard": "Which axis of the mesh each parameter is split over.",
}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
