"""Argument checks with one wording: where, what should be, what came, what to do.

Values are looked at only when they are plain Python or NumPy numbers; anything traced passes, so
that every number may be swept (law 1). Shapes are always known, and always checked (law 8).
"""

import difflib
import importlib
import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import FunctionType
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nnfunc.errors import ERRORS, MissingPackageError, NnfuncError

T = TypeVar("T", bound=tuple[Any, ...])


def fail(
    where: str,
    problem: str = "",
    *,
    expected: str = "",
    actual: Any = "",
    hint: str = "",
    exc_type: type[Exception] = ValueError,
) -> NoReturn:
    """Raise the error of nnfunc that is an `exc_type`; combinators add the layer's path.

    problem: a whole sentence; or, instead of it, expected ("width should be at least 1") and actual ("0"), which
        give "width should be at least 1, got 0."
    """
    error_class = exc_type if issubclass(exc_type, NnfuncError) else ERRORS[exc_type]
    raise error_class(problem, where=where, expected=expected, actual=str(actual), hint=hint)


def locate(error: Exception, path: Sequence[str]) -> None:
    """Say once, at the innermost layer, at which path `error` was raised."""
    where = "/".join(path)
    if isinstance(error, NnfuncError):
        error.path = error.path or where
    elif "nnfunc_path" not in error.__dict__:
        error.__dict__["nnfunc_path"] = where
        error.add_note(f"This was raised in the layer at {where}.")


def nearest(word: str, text: Iterable[str], *, most: int = 3) -> str:
    """The end of an error: `; did you mean a or b?`, or the valid names when none is similar; "." when there are none.

    Names that are much less similar than the nearest one are left out.

    >>> nearest("step", ["steps", "best", "loop"])
    "; did you mean 'steps'?"
    """
    text = list(text)
    similarity = {name: _similarity(word, name) for name in text}
    enough = max(0.6, max(similarity.values(), default=0.0) - 0.15)
    close = sorted((name for name in text if similarity[name] >= enough), key=lambda name: -similarity[name])[:most]
    if close:
        return f"; did you mean {' or '.join(repr(name) for name in close)}?"
    return f"; there is {join_names([*map(repr, text)], 12)}." if text else "."


def _similarity(word: str, name: str) -> float:
    """The similarity of two names, in [0, 1]; `rate` is similar to `learning_rate`, of which it is a part."""
    parts = name.split("_")
    if len(parts) > 1 and "_" not in word:
        shared = (min(word, part, key=len) for part in parts if word.startswith(part) or part.startswith(word))
        initials = "".join(part[:1] for part in parts)  # `lr`
        if word == initials or any(len(part) > 3 for part in shared):
            return 0.9
    return difflib.SequenceMatcher(None, word, name).ratio()


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
    hint: str = "",
    **values: Any,
) -> None:
    """Each named value is a number between low and high; the ends are included unless open."""
    for name, value in values.items():
        if not (is_plain(value) or getattr(value, "ndim", None) == 0):
            fail(where, expected=f"{name} should be a number", actual=describe(value), exc_type=TypeError)
        if not is_plain(value):
            continue
        above = value > low if open_low else value >= low
        below = value < high if open_high else value <= high
        if not (above and below):
            if low == -np.inf and high == np.inf:
                allowed = "a number"
            elif high == np.inf:
                allowed = f"{'above' if open_low else 'at least'} {low}"
            elif low == -np.inf:
                allowed = f"{'below' if open_high else 'at most'} {high}"
            else:
                allowed = f"in {'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
            fail(where, expected=f"{name} should be {allowed}", actual=value, hint=hint)


def ordered(where: str, **values: Any) -> None:
    """The named numbers do not decrease from one to the next; traced ones are skipped."""
    known = [(name, value) for name, value in values.items() if is_plain(value)]
    for (name, value), (next_name, next_value) in pairwise(known):
        if not value <= next_value:
            fail(where, expected=f"{name} should be at most {next_name}", actual=f"{value} and {next_value}")


LARGEST = 2**31 - 1
"""The largest int32: step counts and array indices are int32."""
MOST_BYTES = 2**50
"""More than the memory of any device, and less than the sizes at which XLA aborts the process."""


def size(where: str, low: int = 1, high: int = LARGEST, **values: Any) -> None:
    """Each named value sets a shape or counts, so it is a Python integer from `low` to `high`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            fail(where, expected=f"{name} should be an integer", actual=describe(value), exc_type=TypeError)
        if value < low:
            fail(where, expected=f"{name} should be at least {low}", actual=value)
        if value > high:
            actual = value if value < 10**30 else f"about 1e{math.log10(value):.0f}"  # Python's limit on digits
            fail(where, expected=f"{name} should be at most {high}", actual=actual)


def array_bytes(where: str, shape: Sequence[int], itemsize: int) -> None:
    """An array of this shape fits some device: over some sizes XLA aborts the process."""
    count = math.prod(shape) * itemsize
    if count > MOST_BYTES:
        expected = f"an array of shape {tuple(shape)} should fit into the memory of a device"
        fail(where, expected=expected, actual=f"{count:.2g} bytes", hint="Make the sizes smaller.")


def choice(where: str, options: Iterable[str], **values: Any) -> None:
    """Each named value is one of the options."""
    options = list(options)
    for name, value in values.items():
        if value not in options:
            near = nearest(str(value), [option for option in options if isinstance(option, str)])
            near = near if "did you mean" in near else "."  # the options are named already
            fail(where, f"{name} should be one of {', '.join(map(repr, options))}, got {value!r}{near}")


def within(where: str, low: int, high: int, hint: str = "", **arrays: Any) -> None:
    """Each named array, where its values are known, holds numbers from low to high."""
    for name, array in arrays.items():
        if is_traced(array) or not np.size(array):
            continue
        values = np.asarray(array)
        outside = values[(values < low) | (values > high)]
        if outside.size:
            fail(where, expected=f"{name} should be from {low} to {high}", actual=outside.flat[0], hint=hint)


def at_least_0(where: str, **values: Any) -> None:
    """Each named list or array, as far as its values are known, holds finite numbers of at least 0."""
    for name, value in values.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            known = [item for item in value if is_plain(item)]
        else:
            known = [] if is_traced(value) else np.ravel(np.asarray(value))
        for item in known:
            if not 0 <= item < np.inf:
                fail(where, expected=f"{name} should be finite and at least 0", actual=item)


def model_input(where: str, x: Any, input_class: type[T]) -> T:
    """x as an input_class, a NamedTuple of arrays; an x alone becomes its first field.

    Raises: TypeError for a dict, with the call to write instead.
    """
    if isinstance(x, input_class):
        return x
    if isinstance(x, dict):
        first, *others = input_class._fields  # pyright: ignore[reportAttributeAccessIssue]  of every NamedTuple
        name = f"nf.{input_class.__name__}"
        hint = f"Write {name}({first}, {', '.join(f'{other}=...' for other in others)})."
        expected, actual = f"x should be an array or an {name}", f"a dict with {sorted(x)}"
        fail(where, expected=expected, actual=actual, hint=hint, exc_type=TypeError)
    return input_class(x)


def shape(where: str, expected: Sequence[int], hint: str = "", **arrays: Any) -> None:
    """Each named array has exactly the expected shape."""
    for name, array in arrays.items():
        actual = tuple(np.shape(array))
        if actual != tuple(expected):
            fail(where, expected=f"{name} should have shape {tuple(expected)}", actual=f"shape {actual}", hint=hint)


def same_shape(where: str, hint: str = "", **arrays: Any) -> None:
    """The named arrays have one shape: nothing is broadcast (law 7)."""
    shapes = {name: tuple(np.shape(array)) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        actual = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        fail(where, expected=f"{' and '.join(shapes)} should have the same shape", actual=actual, hint=hint)


def last_axis(where: str, x: Any, hint: str = "", **dim: int) -> None:
    """The last axis of the floating-point array x has the one named size."""
    ((name, size),) = dim.items()
    floating(where, x=x)
    if np.ndim(x) < 1 or np.shape(x)[-1] != size:
        expected = f"the last axis of x should be {size} ({name})"
        fail(where, expected=expected, actual=f"shape {tuple(np.shape(x))}", hint=hint)


def floating(where: str, hint: str = "", **arrays: Any) -> None:
    """Each named value is an array of floating-point numbers."""
    for name, array in arrays.items():
        dtype = getattr(array, "dtype", None)
        if dtype is None:
            expected = f"{name} should be an array of floats"
            fail(where, expected=expected, actual=describe(array), hint=hint, exc_type=TypeError)
        if not jnp.issubdtype(dtype, jnp.floating):
            more = "divided by 255 for images" if dtype == np.uint8 else "or nf.embedding for ids"
            hint = hint or f"Convert it first: {name}.astype(jnp.float32), {more}."
            fail(where, expected=f"{name} should hold floats", actual=dtype, hint=hint, exc_type=TypeError)


def numeric(where: str, array: Any, name: str = "an array") -> None:
    """The array holds numbers or booleans of a dtype that JAX has: no strings, objects or dates."""
    dtype = array.dtype
    if dtype != np.bool_ and (not jnp.issubdtype(dtype, np.number) or dtype.char in "mgG"):
        hint = "Convert it to numbers first; for names: np.unique(names, return_inverse=True)."
        fail(where, expected=f"{name} should hold numbers", actual=f"dtype {dtype}", hint=hint, exc_type=TypeError)


def integers(where: str, hint: str = "", **arrays: Any) -> None:
    """Each named value is an array of integers."""
    for name, array in arrays.items():
        dtype = getattr(array, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
            actual = dtype if dtype is not None else describe(array)
            fail(where, expected=f"{name} should hold integers", actual=actual, hint=hint, exc_type=TypeError)


def unmasked(where: str, **arrays: Any) -> None:
    """No named value is a NumPy masked array with masked values, whose mask would be lost."""
    for name, array in arrays.items():
        if np.ma.is_masked(array):
            actual = f"{np.ma.count_masked(array)} of {np.size(array)}"
            hint = "Fill them with array.filled(value), or drop those examples."
            fail(where, expected=f"{name} should hold no masked values", actual=actual, hint=hint)


def as_int32(where: str, hint: str = "", **array: Any) -> jax.Array:
    """The one named array of integers, ids or labels, as int32.

    A number outside of int32 is clipped to its nearest end: 2**32 + 1 becomes 2**31 - 1, which is out
    of every valid range, where a plain conversion makes it 1.

    >>> as_int32("embedding", ids=np.array([3, 2**32 + 1, -(2**40)])).tolist()
    [3, 2147483647, -2147483648]
    """
    integers(where, hint, **array)
    ((_, values),) = array.items()
    int32, info = np.iinfo(np.int32), jnp.iinfo(values.dtype)
    if info.max > int32.max:  # NumPy's int64: clipped before it becomes int32
        clip = jnp.clip if isinstance(values, jax.Array) else np.clip
        values = clip(values, max(info.min, int32.min), int32.max)
    return jnp.asarray(values.astype(np.int32))


def labels_shape(where: str, logits: Any, labels: Any) -> None:
    """The labels have the shape of the logits without the class axis."""
    hint = "Labels have the shape of the logits without the class axis."
    if np.shape(labels) == np.shape(logits):
        hint = "Convert one-hot labels to class indices: labels.argmax(-1)."
    elif np.shape(labels) == (*np.shape(logits)[:-1], 1):
        hint = "Drop the last axis: labels[..., 0]."
    shape(where, np.shape(logits)[:-1], hint, labels=labels)


def key(where: str, key: Any) -> None:
    """The value is one random key, typed (jax.random.key) or raw (jax.random.PRNGKey)."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        single = np.ndim(key) == 0
    else:
        single = dtype == np.uint32 and np.ndim(key) == 1
    if not single:
        hint = "Make one: jax.random.key(0)."
        fail(where, expected="key should be one random key", actual=describe(key), hint=hint, exc_type=TypeError)


def on_host(where: str, hint: str, **values: Any) -> None:
    """No value is traced, nor would a new one be: a loop on the host cannot run inside of jit, vmap or grad."""
    hint = f"This function loops on the host, so it cannot run inside of jax.jit, vmap or grad. {hint}"
    for name, value in values.items():
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            fail(where, expected=f"{name} should be concrete numbers", actual="a tracer", hint=hint, exc_type=TypeError)
    if isinstance(jax.device_put(np.float32(0)), Tracer):
        fail(where, "it is called in a function that JAX traces.", hint=hint, exc_type=TypeError)


def describe(value: Any) -> str:
    """A short description of a value for an error: its shape and dtype, or the value itself."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    text = short_repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def short_repr(value: Any) -> str:
    """The repr of a value on one line and without addresses: a function is its name.

    >>> short_repr(counted), short_repr([counted])
    ('counted', '[<function counted>]')
    """
    if isinstance(value, FunctionType):
        return value.__name__
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))


def counted(number: int, word: str) -> str:
    """A count with its noun, in the plural where it is not 1.

    >>> counted(1, "run"), counted(2500, "step")
    ('1 run', '2,500 steps')
    """
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def join_names(names: Sequence[str], limit: int = 3) -> str:
    """The first `limit` names in one phrase, and how many more there are.

    >>> join_names(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def package(where: str, name: str, install: str) -> Any:
    """An optional package.

    install: the argument of `pip install` that provides it.

    Raises: ModuleNotFoundError that names the command.

    >>> package("sweep", "math", "nnfunc[search]").floor(2.5)
    2
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = f"Install it: pip install '{install}'."
        raise MissingPackageError(f"the package {name} is not installed.", where=where, hint=hint) from error
