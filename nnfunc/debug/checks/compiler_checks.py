"""What `doctor` checks of the compiler: that jitted sums of many short rows are NumPy's."""

from collections.abc import Iterator
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, xla_flags
from nnfunc.base import Array
from nnfunc.debug.finding import Finding

__all__ = ["check_compiler", "count_wrong_rows"]

# jaxlib 0.10.2 is wrong at some numbers of rows, and right again at larger ones: (rows, width).
PRODUCTS = [(rows, width) for rows in (24_000, 40_000) for width in (2, 3, 5, 8)] + [(70_000, 3)]
SUMS = [(70_000, 3), (70_000, 8)]
TOLERANCE = 0.02
"""Of a row's size: more than a product in low precision is off by, less than another row is."""


def check_compiler() -> Iterator[Finding]:
    """Jitted results of many rows equal NumPy's."""
    wrong = count_wrong_rows(jax.default_backend(), jnp.result_type(float) == jnp.float64)
    if not wrong:
        return
    version = f"jaxlib {xla_flags.JAXLIB} on {jax.default_backend()}"
    examples = ", ".join(f"{count:,} of {name}" for name, count in list(wrong.items())[:3])
    why = f"{version} computes {check.counted(sum(wrong.values()), 'wrong row')}: {examples}."
    fault = xla_flags.known_fault()
    hint = "Use another version of jaxlib, and report this to JAX."
    if fault is not None:
        why += f" It is known that this version {fault.description}."
        hint = (
            f"Set XLA_FLAGS={fault.flag}. Importing nnfunc before the first computation does so, "
            "unless that flag is set already or NNFUNC_XLA_FLAGS=leave."
        )
    yield Finding("error", "the compiler", "wrong results", why, hint)


@lru_cache  # XLA reads its flags once, so nothing changes in a process
def count_wrong_rows(backend: str, x64: bool) -> dict[str, int]:
    """Results of which some rows differ from NumPy's, such as "40,000 products of width 3, float32"."""
    draw = np.random.default_rng(0)
    matrix, numbers = draw.normal(size=(8, 8)), draw.normal(size=70_000 * 8)
    wrong = {}
    for dtype in ("float32", "float64")[: 1 + x64]:
        # Each result has arguments of its own: what shares them is compiled together, and is right.
        cases = {
            (name, rows, width): (
                matrix[:width, :width].astype(dtype),
                numbers[: rows * width].reshape(rows, width).astype(dtype),
            )
            for name, shapes in (("products", PRODUCTS), ("sums", SUMS), ("maxima", SUMS))
            for rows, width in shapes
        }
        results = jax.device_get(_jitted(cases))
        for (name, rows, width), arguments in cases.items():
            expected = _by_numpy(name, *(array.astype(np.float64) for array in arguments))
            size = np.abs(expected) + np.sqrt(np.mean(expected**2))
            off = np.abs(results[name, rows, width] - expected) > TOLERANCE * size
            if off.any():
                wrong[f"{rows:,} {name} of width {width}, {dtype}"] = int(off.sum())
    return wrong


@jax.jit
def _jitted(cases: dict) -> dict:
    def of(name: str, matrix: Array, x: Array) -> Array:
        if name == "products":
            return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(x)
        return x.sum(axis=-1) if name == "sums" else x.max(axis=-1)

    return {case: of(case[0], *arguments) for case, arguments in cases.items()}


def _by_numpy(name: str, matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    if name == "products":
        return ((x @ matrix.T) ** 2).sum(axis=-1)
    return x.sum(axis=-1) if name == "sums" else x.max(axis=-1)
