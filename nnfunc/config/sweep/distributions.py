"""What a setting is drawn from, as users write it.

    on the command line    in a file                      what
    log(1e-4, 1e-1)        { log = [1e-4, 1e-1] }         a number, each decade as likely as another
    uniform(0, 0.5)        { uniform = [0.0, 0.5] }       a number
    int(1, 4)              { int = [1, 4] }               an integer, from 1 to 4
    0:8 or 0:80:10         { range = [0, 8] }             options: 0, 1, ..., 7; a third is the step
    choice(relu, tanh)     { choice = ["relu", "tanh"] }  options
    ["relu", "tanh"]       ["relu", "tanh"]               options, but see `drawn`

Whatever is none of these is one value. All raise ValueError with what is wrong, in words.
"""

import re
from typing import Any, get_args

import numpy as np

from nnfunc import check
from nnfunc.config.config_errors import describe, to_one_line
from nnfunc.config.key_path import parse_value
from nnfunc.config.schema import ValueType
from nnfunc.sweeps.space import Distribution, int_uniform, log_uniform, uniform

__all__ = ["ALMOST_ONE", "FORMS", "SpaceValue", "parse_override", "parse_values"]

SpaceValue = Distribution | list[Any]
_LAWS = {"log": log_uniform, "uniform": uniform, "int": int_uniform}
FORMS = (*_LAWS, "range", "choice")
ALMOST_ONE = 1 - 2**-53  # what comes last of the numbers below 1
_MOST = 1_000_000  # numbers of a range
_EXAMPLES = {"log": "log(1e-4, 1e-1)", "uniform": "uniform(0, 0.5)", "int": "int(1, 4)"}
_CALL = re.compile(r"([A-Za-z]\w*)\s*\((.*)", re.DOTALL)
_RANGE = re.compile(r"[+-]?[0-9]{1,15}(?::[+-]?[0-9]{1,15}){1,2}")
_COLONS = re.compile(r"[-+.\w]*:[-+.:\w]*")
_SINGLE = np.finfo(np.float32)


def parse_override(text: str, kind: ValueType | None) -> SpaceValue | None:
    """What a word of the command line draws from, or None where it is one value.

    kind: of the argument, where that is known. One that takes any text may be given `f(x)` as text.

    >>> parse_override("0:80:20", None), parse_override("choice(relu, tanh)", None), parse_override("0.1", None)
    ([0, 20, 40, 60], ['relu', 'tanh'], None)
    """
    text = text.strip()
    free = kind is not None and not kind.options and str in (kind.type, *get_args(kind.type))
    call = _CALL.fullmatch(text)
    if call is not None:
        name, rest = call.groups()
        closed = rest.endswith(")")
        if name in FORMS and closed:
            return _made(name, _arguments(rest[:-1]))
        if free:
            return None
        if name in FORMS:
            raise ValueError(f"should end with a bracket, such as {_example(name)}, got {describe(text)}")
        near = check.nearest("log" if name.lower().startswith("log") else name, FORMS)
        raise ValueError(f"there is no {name}(...){near}")
    if _RANGE.fullmatch(text):
        return _made("range", [int(number) for number in text.split(":")])
    if _COLONS.fullmatch(text) and not free:
        raise ValueError(f"a range is of integers, such as 0:8 or 0:80:10, got {describe(text)}")
    value = parse_value(text)
    if isinstance(value, str) and text.startswith(("[", "{")):
        hint = """Write '["relu", "tanh"]' with quotes for the shell around it, or choice(relu, tanh)"""
        raise ValueError(f"should be a list or table in TOML, got {describe(text)}. {hint}")
    return parse_values(value, kind)


def parse_values(value: Any, kind: ValueType | None) -> SpaceValue | None:
    """What a value as TOML has it draws from, or None where it is one value.

    A list is one of options. But for an argument that may itself be a list, such as `model.widths`,
    only a list of lists is: any other is one value, and `choice` says that it is not.

    >>> parse_values([64, 10], ValueType(list, "", "", "", may_be_list=True)), parse_values([0.0, 0.1], None)
    (None, [0.0, 0.1])
    """
    if is_form(value):
        ((name, arguments),) = value.items()
        if not isinstance(arguments, list):
            raise ValueError(f"{name} should be a list, such as {_example(name, True)}, got {describe(arguments)}")
        return _made(name, arguments)
    if not isinstance(value, list):
        return None
    if kind is not None and kind.may_be_list:
        return value if value and all(isinstance(option, list) for option in value) else None
    if not value:
        raise ValueError("the list should hold at least one option, got []")
    return value


def is_form(value: Any) -> bool:
    """Whether a table is one such as { log = [1e-4, 1e-1] }."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in FORMS


def _made(name: str, arguments: list[Any]) -> SpaceValue:
    if name == "choice":
        if not arguments:
            raise ValueError("choice should hold at least one option, got none")
        return arguments
    if name == "range":
        return _numbers(arguments)
    if len(arguments) != 2:
        example = _EXAMPLES[name]
        actual = f"got {len(arguments)} value{'s' if len(arguments) != 1 else ''}"
        raise ValueError(f"{name} takes two numbers, such as {example}, {actual}")
    try:
        law = _LAWS[name](*arguments)
    except OverflowError:
        raise ValueError(f"{name}: the ends should be numbers that floats can hold") from None
    except (ValueError, TypeError) as error:
        problem = to_one_line(error).partition(": ")[2].removesuffix(".")
        raise ValueError(f"{name}: {problem}") from None
    if name != "int" and not all(x == 0 or _SINGLE.tiny <= abs(x) <= _SINGLE.max for x in arguments):
        held = f"0 or, without the sign, from {_SINGLE.tiny:.1e} to {_SINGLE.max:.1e}"
        raise ValueError(f"{name}: the ends should be {held}, as float32 has them")
    return law


def _numbers(ends: list[Any]) -> list[int]:
    """The integers of a range, whose end does not belong to it."""
    text = ":".join(describe(end).rpartition(" (")[0] for end in ends)
    if len(ends) not in (2, 3) or not all(type(end) is int for end in ends):
        raise ValueError(f"range takes two or three integers, such as 0:8 or 0:80:10, got {text}")
    if ends[2:] == [0]:
        raise ValueError(f"the step of a range should not be 0, got {text}")
    result = range(*ends)
    if not result:
        raise ValueError(f"a range should hold a number, got {text}; the end does not belong to it")
    if result[_MOST:]:
        hint = f"draw from int({min(result[0], result[-1])}, {max(result[0], result[-1])})"
        raise ValueError(f"a range should hold at most {_MOST:,} numbers, got {text}; {hint}")
    return list(result)


def _arguments(text: str) -> list[Any]:
    """What stands between the brackets, as the items of a TOML list; words without quotes too."""
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
