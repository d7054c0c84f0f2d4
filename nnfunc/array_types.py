"""Arrays: names for annotations, and conversions of dtype, shape and host memory."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.signatures import factory_name

Array = jax.Array
Key = jax.Array
PyTree = Any
Params = Any
DType = Any
Shape = tuple[int, ...]
Scalar = float | jax.Array
"""A number that may be traced, and so swept: never branch on it in Python."""
P = ParamSpec("P")
R = TypeVar("R")
Schedule = Callable[[Any], Array]
"""step (0-based) -> value."""


class Initializer(Protocol):
    """(key, shape, dtype) -> array."""

    def __call__(self, key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array: ...


def match_dtype(new: Any, old: Any) -> Array:
    """The new value with the dtype of the old one: state whose dtype changes cannot be scanned."""
    return jnp.asarray(new).astype(jnp.asarray(old).dtype)


def cast_floating(tree: PyTree, dtype: DType) -> PyTree:
    """The tree with its floating-point arrays as dtype; other leaves stay as they are."""

    def cast(leaf):
        is_float = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if is_float else leaf

    return jax.tree.map(cast, tree)


def wide_dtype(x: Any) -> DType:
    """The dtype to compute in: float64 for float64, else float32.

    x: an array, a number or a dtype.

    >>> wide_dtype(jnp.ones(2, jnp.bfloat16)).__name__
    'float32'
    """
    return jnp.float64 if jax.dtypes.result_type(x) == jnp.float64 else jnp.float32


def widen(x: Any) -> Array:
    """x in the dtype to compute in: float64 stays, all else, integers too, becomes float32.

    >>> [str(widen(jnp.ones(2, dtype)).dtype) for dtype in (jnp.bfloat16, jnp.float32, jnp.int32)]
    ['float32', 'float32', 'float32']
    """
    return jnp.asarray(x).astype(wide_dtype(x))


def canonicalize(tree: PyTree, where: str = "nnfunc") -> PyTree:
    """The tree with NumPy arrays in the dtypes of JAX: float64 as float32, int64 as int32, without x64.

    JAX itself warns of float64 in each layer, takes an id of 2**32 + 1 for 1, and refuses another byte order
    than this machine's. Here integers are clipped to the range of their new dtype, where every check of a
    range finds them. Raises: TypeError for arrays without numbers, such as strings and dates;
    ValueError for masked values, which JAX would take for those under the mask.
    """

    def convert(leaf):
        if not isinstance(leaf, np.ndarray | np.generic) or leaf.dtype == jax.dtypes.float0:
            return leaf
        check.numeric(where, leaf)
        check.unmasked(where, **{"an array": leaf})
        leaf = leaf.data if isinstance(leaf, np.ma.MaskedArray) else leaf
        leaf = leaf.astype(leaf.dtype.newbyteorder("="), copy=False)
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        if dtype == leaf.dtype or not np.issubdtype(dtype, np.integer):
            return leaf.astype(dtype, copy=False)
        ends = np.iinfo(dtype)
        return np.clip(leaf, ends.min, ends.max).astype(dtype)

    return jax.tree.map(convert, tree)


def canonicalize_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function with canonical arguments, for functions that are not called through `Model.apply`."""
    where = factory_name(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        canonical_args, canonical_kwargs = canonicalize((args, kwargs), where)
        untyped: Callable[..., R] = function
        return untyped(*canonical_args, **canonical_kwargs)

    return wrapper


def to_device(x: Any) -> Array:
    """An array or a number as an array of JAX; one of the host is copied, so that later changes to it do no harm.

    x: the array. Unlike `jnp.asarray`, which compiles a program for each shape, it compiles nothing.
    """
    return x if isinstance(x, jax.Array) else jax.device_put(np.array(x))  # device_put alone may share the memory


def shape_struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of an array or number."""
    return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf))


def shape_text(leaf: Any) -> str:
    """The dtype and shape of an array, such as float32[3, 4]; of anything else its name."""
    return f"{leaf.dtype}{[*leaf.shape]}" if hasattr(leaf, "dtype") else str(leaf)[:60]
