"""What the keys of sweeps and of comparisons are, which the config of one run does not have."""

import inspect
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce

from nnfunc import check, sweeps
from nnfunc.config.config_errors import nearest_hint
from nnfunc.config.explain_key import REQUIRED, WHERE, KeyHelp, argument_docs, describe_argument, explain_key, to_toml
from nnfunc.config.schema import TABLES, parse_annotation
from nnfunc.config.sweep.search_methods import SEARCHES
from nnfunc.config.sweep.sweep_options import OPTIONS
from nnfunc.sweeps.sampling import MAX_TRIALS

_COUNT = ("an integer", f"1 to {MAX_TRIALS:,}")
_SWEEP = {  # type, range, default, meaning, example
    "trials": (*_COUNT, "all combinations of lists", "The number of runs; with seeds a multiple of them.", "64"),
    "method": ("one of 'random', 'grid', 'sobol', 'latin'", "", '"random"; "grid" for lists alone without trials')
    + ("How settings are drawn; grid is all combinations, sobol and latin fill the space evenly.", '"sobol"'),
    "seeds": (*_COUNT, "1", "The number of runs of each setting, for means and intervals.", "3"),
    "best": ('text: "min" or "max" and a metric', "", '"min loss"')
    + ("The metric that ranks the trials: its last value on the validation split.", '"max accuracy"'),
    "search": (f"one of {', '.join(map(repr, SEARCHES))}, or a table of this name and its arguments", "")
    + ('"everything"', "Decides how far each trial runs.", '{ name = "halving", eta = 4 }'),
    "chunk": (*_COUNT, "as many as fit the memory", "The largest number of trials to run side by side.", "16"),
    "execution": ("one of 'auto', 'vmap', 'loop', 'threads', 'devices'", "", '"auto"')
    + ("How trials run: side by side, one after another, from threads or over devices; auto measures.", '"threads"'),
}
_VALUES = (
    ", a list of options, or a distribution: { log = [1e-4, 1e-1] }, { uniform = [0.0, 0.5] }, { int = [1, 4] }, "
    "{ range = [0, 8] } or { choice = [...] }"
)
COMPARISON = {
    name: KeyHelp(name, "", *parts)
    for name, parts in {
        "every": ("tables of a run", "", REQUIRED, "The tables that the runs of all models share.")
        + ('every = { data = { name = "digits" }, train = { steps = 400 } }',),
        "models": ("at least 2 tables by name, each with tables of a run", "", REQUIRED)
        + ("The tables in which each model differs, merged into every.",)
        + ('models = { small = { model = { name = "mlp", widths = [64, 32, 10] } } }',),
        "variants": ("tables by name, each with tables of a run", "", "none")
        + ("Each model is trained in each variant, whose tables are merged into the model's.",)
        + ("variants = { ordered = {}, shuffled = { data = { shuffle_pixels = true } } }",),
        "seeds": ("a list of distinct integers", "0 to 2**32 - 1", "[0, 1, 2]", "Each model is trained with each seed.")
        + ("seeds = [0, 1, 2]",),
        "target": ("one number by the name of a validation metric", "", "none")
        + ("The value whose first step and time the table tells.", "target = { accuracy = 0.97 }"),
        "parameters_within": ("a number", "above 0", "0.05")
        + ("The largest difference of the numbers of parameters, as a fraction.", "parameters_within = 0.05"),
    }.items()
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

    key: dotted, such as "sweep.trials", "sweep.search.eta", "sweep.schedule.peak" or "seeds"; a single "sweep" gives
    all options. names: as for `explain_key`.
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
    value_type, limits, default, meaning, example = _SWEEP[name]
    return KeyHelp(f"sweep.{name}", "", value_type, limits, default, meaning, f"sweep = {{ {name} = {example} }}")


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
