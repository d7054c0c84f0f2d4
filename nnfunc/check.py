"""Argument checks with one wording: where, what should be, what came, what to do.

Values are looked at only when they are plain Python or NumPy numbers; anything traced passes, so
that every number may be swept (law 1). Shapes are always known, and always checked (law 8).
"""

import difflib
import importlib
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def fail(where: str, problem: str, *, kind: type[Exception] = ValueError) -> NoReturn:
    """Raise `kind` with the words `where: problem`; combinators put the layer's path before them."""
    error = kind(f"{where}: {problem}")
    error.__dict__["nnfunc_path"] = ""
    error.__dict__["nnfunc_mistake"] = True
    raise error


def is_mistake(error: BaseException) -> bool:
    """Whether the error was raised by `fail`: a user's mistake, whose words are enough."""
    return error.__dict__.get("nnfunc_mistake", False)


def locate(error: Exception, path: Sequence[str]) -> None:
    """Say once, at the innermost layer, at which path `error` was raised."""
    where = "/".join(path)
    found = error.__dict__.get("nnfunc_path")
    if found is None:
        error.__dict__["nnfunc_path"] = where
        error.add_note(f"This was raised in the layer at {where}.")
    elif found == "" and where:
        error.__dict__["nnfunc_path"] = where
        error.args = (f"{where}: {error.args[0]}", *error.args[1:])


def nearest(word: str, words: Iterable[str], *, most: int = 3) -> str:
    """The end of an error: `; did you mean a or b?`, or the valid words when none is near.

    Words that are much less alike than the nearest one are left out.

    >>> nearest("step", ["steps", "best", "loop"])
    "; did you mean 'steps'?"
    """
    words = list(words)
    close = difflib.get_close_matches(word, words, n=most, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, word, name).ratio() for name in close]
    close = [name for name, like in zip(close, likeness, strict=True) if like > likeness[0] - 0.15]
    if close:
        return f"; did you mean {' or '.join(repr(name) for name in close)}?"
    shown = ", ".join(repr(name) for name in words[:12])
    more = f" and {len(words) - 12} more" if len(words) > 12 else ""
    return f"; there is {shown}{more}." if words else "; there are none."


def is_plain(value: Any) -> bool:
    """Whether value is a Python or NumPy number, whose size may be looked at while tracing."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def is_traced(value: Any) -> bool:
    """Whether value is an array that stands for others inside a JAX transformation."""
    if not isinstance(value, jax.Array):
        return False
    try:
        value.is_fully_addressable  # noqa: B018  a stand-in has no devices to ask
    except jax.errors.ConcretizationTypeError:
        return True
    return False


def number(
    where: str,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    cure: str = "",
    **values: Any,
) -> None:
    """Each named value is a number between low and high; the ends belong to it unless open."""
    for name, value in values.items():
        if not (is_plain(value) or getattr(value, "ndim", None) == 0):
            fail(where, f"{name} should be a number, got {describe(value)}.", kind=TypeError)
        if not is_plain(value):
            continue
        above = value > low if open_low else value >= low
        below = value < high if open_high else value <= high
        if not (above and below):
            if low == -np.inf and high == np.inf:
                wanted = "a number"
            elif high == np.inf:
                wanted = f"{'above' if open_low else 'at least'} {low}"
            elif low == -np.inf:
                wanted = f"{'below' if open_high else 'at most'} {high}"
            else:
                wanted = f"in {'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
            fail(where, f"{name} should be {wanted}, got {value}.{_and(cure)}")


def ordered(where: str, **values: Any) -> None:
    """The named numbers do not fall from one to the next; traced ones are passed over."""
    known = [(name, value) for name, value in values.items() if is_plain(value)]
    for (name, value), (next_name, next_value) in pairwise(known):
        if not value <= next_value:
            fail(where, f"{name} should be at most {next_name}, got {value} and {next_value}.")


LARGEST = 2**31 - 1
"""The largest number that int32 holds, which counts steps and indexes arrays."""
MOST_BYTES = 2**50
"""More than any device has, and less than what makes XLA end the process."""


def size(where: str, low: int = 1, high: int = LARGEST, **values: Any) -> None:
    """Each named value sets a shape or counts, so it is a plain whole number from `low` to `high`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            problem = f"{name} should be a whole number, got {describe(value)}."
            fail(where, problem, kind=TypeError)
        if value < low:
            fail(where, f"{name} should be at least {low}, got {value}.")
        if value > high:
            got = value if value < 10**30 else f"about 1e{math.log10(value):.0f}"  # Python's own limit
            fail(where, f"{name} should be at most {high}, got {got}.")


def array_bytes(where: str, shape: Sequence[int], itemsize: int) -> None:
    """An array of this shape is not larger than any device: XLA ends the process over some sizes."""
    count = math.prod(shape) * itemsize
    if count > MOST_BYTES:
        problem = f"an array of shape {tuple(shape)} needs {count:.2g} bytes, more than any device has"
        fail(where, f"{problem}. Make the sizes smaller.")


def choice(where: str, options: Iterable[str], **values: Any) -> None:
    """Each named value is one of the options."""
    options = list(options)
    for name, value in values.items():
        if value not in options:
            hint = nearest(str(value), [option for option in options if isinstance(option, str)])
            fail(where, f"{name} should be one of {', '.join(map(repr, options))}, got {value!r}{hint}")


def within(where: str, low: int, high: int, cure: str = "", **arrays: Any) -> None:
    """Each named array, where its values are known, holds numbers from low to high."""
    for name, array in arrays.items():
        if is_traced(array) or not np.size(array):
            continue
        values = np.asarray(array)
        wrong = values[(values < low) | (values > high)]
        if wrong.size:
            wanted = f"{name} should be from {low} to {high}"
            fail(where, f"{wanted}, got {wrong.flat[0]}.{_and(cure)}")


def at_least_0(where: str, **values: Any) -> None:
    """Each named list or array, as far as its values are known, holds finite numbers of at least 0."""
    for name, value in values.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            known = [one for one in value if is_plain(one)]
        else:
            known = [] if is_traced(value) else np.ravel(np.asarray(value))
        for one in known:
            if not 0 <= one < np.inf:
                fail(where, f"{name} should be finite and at least 0, got {one}.")


def shape(where: str, expected: Sequence[int], cure: str = "", **arrays: Any) -> None:
    """Each named array has exactly the expected shape."""
    for name, array in arrays.items():
        if tuple(np.shape(array)) != tuple(expected):
            got = f"got shape {tuple(np.shape(array))}"
            fail(where, f"{name} should have shape {tuple(expected)}, {got}.{_and(cure)}")


def same_shape(where: str, cure: str = "", **arrays: Any) -> None:
    """The named arrays have one shape: nothing is broadcast (law 7)."""
    shapes = {name: tuple(np.shape(array)) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        got = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        fail(where, f"{' and '.join(shapes)} should have the same shape, got {got}.{_and(cure)}")


def last_axis(where: str, x: Any, cure: str = "", **dim: int) -> None:
    """The last axis of the floating-point array x has the one named size."""
    ((name, expected),) = dim.items()
    floating(where, x=x)
    if np.ndim(x) < 1 or np.shape(x)[-1] != expected:
        problem = f"the last axis of x should be {expected} ({name}), got shape {tuple(np.shape(x))}."
        fail(where, problem + _and(cure))


def floating(where: str, cure: str = "", **arrays: Any) -> None:
    """Each named value is an array of floating-point numbers."""
    for name, array in arrays.items():
        dtype = getattr(array, "dtype", None)
        if dtype is None:
            problem = f"{name} should be an array of floats, got {describe(array)}."
            fail(where, problem + _and(cure), kind=TypeError)
        if not jnp.issubdtype(dtype, jnp.floating):
            more = "divided by 255 for images" if dtype == np.uint8 else "or nf.embedding for ids"
            cure = cure or f"Convert it first: {name}.astype(jnp.float32), {more}."
            fail(where, f"{name} should hold floats, got {dtype}.{_and(cure)}", kind=TypeError)


def numeric(where: str, array: Any, name: str = "an array") -> None:
    """The array holds numbers or booleans of a type that JAX has: no texts, objects, dates, spans."""
    dtype = array.dtype
    if dtype != np.bool_ and (not jnp.issubdtype(dtype, np.number) or dtype.char in "mgG"):
        hint = "Turn it into numbers first; names: np.unique(names, return_inverse=True)."
        fail(where, f"{name} should hold numbers, got type {dtype}. {hint}", kind=TypeError)


def integers(where: str, cure: str = "", **arrays: Any) -> None:
    """Each named value is an array of whole numbers."""
    for name, array in arrays.items():
        dtype = getattr(array, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
            got = dtype if dtype is not None else describe(array)
            fail(where, f"{name} should hold integers, got {got}.{_and(cure)}", kind=TypeError)


def unmasked(where: str, **arrays: Any) -> None:
    """No named value is an array of NumPy's with masked values, whose mask would be lost."""
    for name, array in arrays.items():
        if np.ma.is_masked(array):
            problem = f"{name} should hold no masked values, got {np.ma.count_masked(array)}"
            hint = "Fill them in, array.filled(value), or leave those examples out."
            fail(where, f"{problem} of {np.size(array)}. {hint}")


def as_int32(where: str, cure: str = "", **array: Any) -> jax.Array:
    """The one named array of whole numbers, ids or labels, as int32.

    A number that int32 cannot hold becomes the nearest one it can: 2**32 + 1 is 2**31 - 1 then, out
    of every range, where a plain conversion makes it 1.

    >>> as_int32("embedding", ids=np.array([3, 2**32 + 1, -(2**40)])).tolist()
    [3, 2147483647, -2147483648]
    """
    integers(where, cure, **array)
    ((_, values),) = array.items()
    into = np.iinfo(np.int32)
    own = jnp.iinfo(values.dtype)
    if own.max > into.max:  # 64 bits of NumPy: before they become JAX's 32
        clip = jnp.clip if isinstance(values, jax.Array) else np.clip
        values = clip(values, max(own.min, into.min), into.max)
    return jnp.asarray(values.astype(np.int32))


def labels_shape(where: str, logits: Any, labels: Any) -> None:
    """The labels have the shape of the logits without the axis of classes."""
    cure = "It is logits' but for the classes."
    if np.shape(labels) == np.shape(logits):
        cure = "One-hot labels become class numbers by labels.argmax(-1)."
    elif np.shape(labels) == (*np.shape(logits)[:-1], 1):
        cure = "Take the last axis away: labels[..., 0]."
    shape(where, np.shape(logits)[:-1], cure, labels=labels)


def key(where: str, key: Any) -> None:
    """The value is one random key, of the new or the old style."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        one = np.ndim(key) == 0
    else:
        one = dtype == np.uint32 and np.ndim(key) == 1
    if not one:
        problem = f"key should be one random key, got {describe(key)}. Make one: jax.random.key(0)."
        fail(where, problem, kind=TypeError)


def on_host(where: str, hint: str, **values: Any) -> None:
    """No value is traced: what loops on the host cannot be inside of jit, vmap or grad."""
    for name, value in values.items():
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            problem = f"{name} should be numbers that are known, got a tracer"
            why = "inside of jax.jit, vmap, grad or the like nothing is, and this loops on the host"
            fail(where, f"{problem}: {why}. {hint}", kind=TypeError)


def describe(value: Any) -> str:
    """A short word for a value in an error: its shape and type, or the value itself."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _and(cure: str) -> str:
    return f" {cure}" if cure else ""


def counted(number: int, word: str) -> str:
    """A number of things, in words.

    >>> counted(1, "run"), counted(2500, "step")
    ('1 run', '2,500 steps')
    """
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def package(where: str, name: str, install: str) -> Any:
    """A package that not everyone has. install: what pip is to be given.

    Raises: ModuleNotFoundError that says what to do.

    >>> package("sweep", "math", "nnfunc[search]").floor(2.5)
    2
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        cure = f"Install it: pip install '{install}'."
        raise ModuleNotFoundError(f"{where}: the package {name} is not installed. {cure}") from error
