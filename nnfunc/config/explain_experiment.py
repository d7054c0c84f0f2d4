"""What the keys of sweeps and of comparisons are, which the config of one run does not have."""

import inspect
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

from nnfunc import check, sweeps
from nnfunc.config.comparison_file import ComparisonFile
from nnfunc.config.config_errors import nearest_hint
from nnfunc.config.explain_key import REQUIRED, WHERE, KeyHelp, argument_docs, describe_argument, explain_key, to_toml
from nnfunc.config.schema import TABLES, parse_annotation
from nnfunc.config.sweep.search_methods import SEARCHES
from nnfunc.config.sweep.sweep_options import OPTIONS

_VALUES = (
    ", a list of options, or a distribution: { log = [1e-4, 1e-1] }, { uniform = [0.0, 0.5] }, { int = [1, 4] }, "
    "{ range = [0, 8] } or { choice = [...] }"
)


def _explain_table(name: str, schema: Mapping[str, Any]) -> KeyHelp:
    """The help of a key of a comparison. schema: of the key, as JSON."""
    default = to_toml(schema["default"] or "none").strip('"') if "default" in schema else REQUIRED
    example = f"{name} = {to_toml(schema['examples'][0])}"
    return KeyHelp(name, "", schema["title"], _limits(schema), default, schema["description"], example)


def _limits(schema: Mapping[str, Any]) -> str:
    """The range of a number, or of the numbers of a list, or of how many tables; "" without any."""
    schema = schema.get("items", schema)
    if "exclusiveMinimum" in schema:
        return f"above {schema['exclusiveMinimum']:g}"
    if "minProperties" in schema:
        return f"at least {schema['minProperties']}"
    return f"{schema['minimum']} to {schema['exclusiveMaximum'] - 1:,}" if "minimum" in schema else ""


COMPARISON = {
    name: _explain_table(name, schema) for name, schema in ComparisonFile.model_json_schema()["properties"].items()
}
"""The help of the tables and keys of a comparison's file."""


def run_key(key: str) -> str:
    """The key of a run's config in one of a sweep or a comparison; any other as it is.

    key: dotted.

    >>> run_key("models.small.model.widths"), run_key("sweep.model"), run_key("sweep.trials")
    ('model.widths', 'model', 'sweep.trials')
    """
    table, _, rest = key.partition(".")
    if table in ("models", "variants"):
        _, _, rest = rest.partition(".")
    inside = table in ("every", "models", "variants") or (table == "sweep" and rest.partition(".")[0] in TABLES)
    return rest if inside and rest else key


def explain_experiment(key: str, names: Mapping[str, str]) -> list[KeyHelp]:
    """The help of a key that only sweeps or comparisons have; [] for any other.

    key: dotted, such as "sweep.trials", "sweep.search.eta", "sweep.schedule.peak" or "seeds"; a single "sweep"
        gives all options.
    names: as for `explain_key`.
    Raises: ValueError, with the nearest key, when a sweep has no such key.

    >>> explain_experiment("sweep.seeds", {})[0].range
    '1 to 1,000,000'
    """
    table, _, option = key.partition(".")
    if table in COMPARISON and run_key(key) == key:
        if option and table in ("every", "seeds", "parameters_within"):
            check.fail(WHERE, f"{table} has no keys.", hint=f"See: nnfunc config {table}")
        return [COMPARISON[table]]
    if table != "sweep":
        return []
    if not option:
        return [_explain_option(name) for name in OPTIONS]
    inside, _, argument = option.partition(".")
    if inside in TABLES and (not argument or (inside == "augment" and "." not in argument)):
        return []  # a table of a run
    if option == "seed" or inside in TABLES:
        return [_vary(one) for one in explain_key(option, names)]
    if option.startswith("search.") and option != "search.name":
        return _explain_search(option.removeprefix("search."))
    option = "search" if option == "search.name" else option
    if option not in OPTIONS:
        hint = nearest_hint(option, [*OPTIONS, "seed", *TABLES], list_names=True)
        check.fail(WHERE, f"sweep has no key {option!r}.", hint=hint)
    return [_explain_option(option)]


def _explain_option(name: str) -> KeyHelp:
    option = OPTIONS[name]
    example = f"sweep = {{ {name} = {option.example} }}"
    return KeyHelp(f"sweep.{name}", "", option.type, option.range, option.default, option.meaning, example)


def _explain_search(argument: str) -> list[KeyHelp]:
    """The help of an argument of a search, once for each search that has it."""
    functions = {name: getattr(sweeps, name) for name in SEARCHES if name != "everything"}
    parameters = {name: inspect.signature(function).parameters for name, function in functions.items()}
    result = []
    for name in [name for name in functions if argument in parameters[name]]:
        value_type = parse_annotation(typing.get_type_hints(functions[name])[argument])
        assert value_type is not None
        default = parameters[name][argument].default
        text = "none" if default is None else to_toml(default)
        value = value_type.example if default is None else text
        example = f'sweep = {{ search = {{ name = "{name}", {argument} = {value} }} }}'
        meaning = argument_docs(functions[name])[argument]
        result.append(describe_argument(f"sweep.search.{argument}", name, value_type, text, meaning, example))
    if not result:
        hint = nearest_hint(
            argument, dict.fromkeys(key for keys in parameters.values() for key in keys), list_names=True
        )
        check.fail(WHERE, f"sweep.search has no key {argument!r}.", hint=hint)
    return result


def _vary(one: KeyHelp) -> KeyHelp:
    """The help of a key of a run as one of the table [sweep]."""
    value = reduce(lambda table, part: table[part], one.key.split("."), tomllib.loads(one.example))
    example = f'sweep = {{ "{one.key}" = {{ choice = [{to_toml(value)}] }} }}'
    return replace(one, key=f"sweep.{one.key}", type=one.type + _VALUES, example=example)
