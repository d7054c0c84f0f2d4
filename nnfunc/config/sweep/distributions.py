"""Distributions of settings, as users write them.

    on the command line    in a file                      meaning
    log(1e-4, 1e-1)        { log = [1e-4, 1e-1] }         a number, every decade equally likely
    uniform(0, 0.5)        { uniform = [0.0, 0.5] }       a number
    int(1, 4)              { int = [1, 4] }               an integer, from 1 to 4
    0:8 or 0:80:10         { range = [0, 8] }             options: 0, 1, ..., 7; a third number is the step
    choice(relu, tanh)     { choice = ["relu", "tanh"] }  options
    ["relu", "tanh"]       ["relu", "tanh"]               options, but see `parse_values`

Anything else is one value. Invalid ones raise an InvalidValueError without the name of the setting.
"""

import re
from typing import Any, get_args

import numpy as np

from nnfunc import check
from nnfunc.config.config_errors import describe
from nnfunc.config.key_path import parse_value
from nnfunc.config.schema import ValueType
from nnfunc.errors import NnfuncError
from nnfunc.sweeps.space import Distribution, int_uniform, log_uniform, uniform

SpaceValue = Distribution | list[Any]
_DISTRIBUTIONS = {"log": log_uniform, "uniform": uniform, "int": int_uniform}
FORMS = (*_DISTRIBUTIONS, "range", "choice")
ALMOST_ONE = 1 - 2**-53  # the largest float below 1
_MAX_RANGE = 1_000_000  # numbers
_EXAMPLES = {"log": "log(1e-4, 1e-1)", "uniform": "uniform(0, 0.5)", "int": "int(1, 4)"}
_CALL = re.compile(r"([A-Za-z]\w*)\s*\((.*)", re.DOTALL)
_RANGE = re.compile(r"[+-]?[0-9]{1,15}(?::[+-]?[0-9]{1,15}){1,2}")
_COLONS = re.compile(r"[-+.\w]*:[-+.:\w]*")
_SINGLE = np.finfo(np.float32)


def parse_override(text: str, value_type: ValueType | None) -> SpaceValue | None:
    """The distribution or options that an override gives, or None where it is one value.

    text: after the equals sign.
    value_type: of the argument, None where it is not known; an argument that takes any string may have `f(x)` as
        its value.

    >>> parse_override("0:80:20", None), parse_override("choice(relu, tanh)", None), parse_override("0.1", None)
    ([0, 20, 40, 60], ['relu', 'tanh'], None)
    """
    text = text.strip()
    takes_text = (
        value_type is not None and not value_type.options and str in (value_type.type, *get_args(value_type.type))
    )
    call = _CALL.fullmatch(text)
    if call is not None:
        name, rest = call.groups()
        if name in FORMS and rest.endswith(")"):
            return _parse_form(name, _arguments(rest[:-1]))
        if takes_text:
            return None
        if name in FORMS:
            check.fail("", expected=f"should end with a bracket, such as {_example(name)}", actual=describe(text))
        near = check.nearest("log" if name.lower().startswith("log") else name, FORMS)
        check.fail("", f"there is no {name}(...){near}")
    if _RANGE.fullmatch(text):
        return _parse_form("range", [int(number) for number in text.split(":")])
    if _COLONS.fullmatch(text) and not takes_text:
        check.fail("", expected="a range should have integers, such as 0:8 or 0:80:10", actual=describe(text))
    value = parse_value(text)
    if isinstance(value, str) and text.startswith(("[", "{")):
        hint = """Write '["relu", "tanh"]' with quotes for the shell around it, or choice(relu, tanh)."""
        check.fail("", expected="should be a list or table in TOML", actual=describe(text), hint=hint)
    return parse_values(value, value_type)


def parse_values(value: Any, value_type: ValueType | None) -> SpaceValue | None:
    """The distribution or options that a value in TOML gives, or None where it is one value.

    A list has the options. But for an argument that may itself be a list, such as `model.widths`, only a list
    of lists has options; any other list is one value, and `choice` gives options.
    value: of any type.
    value_type: of the argument, None where it is not known.

    >>> parse_values([64, 10], ValueType(list, "", "", "", may_be_list=True)), parse_values([0.0, 0.1], None)
    (None, [0.0, 0.1])
    """
    if is_form(value):
        ((name, arguments),) = value.items()
        if not isinstance(arguments, list):
            expected, actual = f"{name} should be a list, such as {_example(name, True)}", describe(arguments)
            check.fail("", expected=expected, actual=actual)
        return _parse_form(name, arguments)
    if not isinstance(value, list):
        return None
    if value_type is not None and value_type.may_be_list:
        return value if value and all(isinstance(option, list) for option in value) else None
    if not value:
        check.fail("", expected="the list should have at least one option", actual="[]")
    return value


def is_form(value: Any) -> bool:
    """Whether a value is a table such as { log = [1e-4, 1e-1] }. value: of any type."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in FORMS


def _parse_form(name: str, arguments: list[Any]) -> SpaceValue:
    if name == "choice":
        if not arguments:
            check.fail("", expected="choice should have at least one option", actual="none")
        return arguments
    if name == "range":
        return _parse_range(arguments)
    if len(arguments) != 2:
        expected = f"{name} should have two numbers, such as {_EXAMPLES[name]}"
        check.fail("", expected=expected, actual=check.counted(len(arguments), "value"))
    try:
        distribution = _DISTRIBUTIONS[name](*arguments)
    except OverflowError:
        check.fail("", f"{name}: the ends are too large for floats.")
    except NnfuncError as error:
        check.fail("", f"{name}: {error.body()}")
    if name != "int" and not all(x == 0 or _SINGLE.tiny <= abs(x) <= _SINGLE.max for x in arguments):
        limits = f"0 or, without the sign, from {_SINGLE.tiny:.1e} to {_SINGLE.max:.1e}"
        problem = f"{name}: the ends should be {limits}, the range of float32."
        check.fail("", problem)
    return distribution


def _parse_range(ends: list[Any]) -> list[int]:
    """The integers of a range, without its end."""
    text = ":".join(describe(end).rpartition(" (")[0] for end in ends)
    if len(ends) not in (2, 3) or not all(type(end) is int for end in ends):
        expected = "range should have two or three integers, such as 0:8 or 0:80:10"
        check.fail("", expected=expected, actual=text)
    if ends[2:] == [0]:
        check.fail("", expected="the step of a range should not be 0", actual=text)
    result = range(*ends)
    if not result:
        hint = "The end does not belong to the range."
        check.fail("", expected="a range should have at least one number", actual=text, hint=hint)
    if result[_MAX_RANGE:]:
        hint = f"Use int({min(result[0], result[-1])}, {max(result[0], result[-1])})."
        check.fail("", expected=f"a range should have at most {_MAX_RANGE:,} numbers", actual=text, hint=hint)
    return list(result)


def _arguments(text: str) -> list[Any]:
    """The arguments between the brackets, as items of a TOML list; strings may have no quotes."""
    whole = parse_value(f"[{text}]")
    if isinstance(whole, list):
        return whole
    return [parse_value(part) for part in text.split(",")]


def _example(name: str, table: bool = False) -> str:
    more = {"range": "0:8", "choice": "choice(0.1, 0.2)"}
    example = (_EXAMPLES | more)[name]
    if not table:
        return example
    items = "0, 8" if name == "range" else example.partition("(")[2].removesuffix(")")
    return f"{{ {name} = [{items}] }}"
