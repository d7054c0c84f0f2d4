"""doctor's check of the compiler: jitted sums of many short rows agree with NumPy's."""

from collections.abc import Iterator
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, xla_flags
from nnfunc.base import Array
from nnfunc.debug.finding import Finding

# jaxlib 0.10.2 is wrong at some numbers of rows, and right again at larger ones: (rows, width).
PRODUCTS = [(rows, width) for rows in (24_000, 40_000) for width in (2, 3, 5, 8)] + [(70_000, 3)]
SUMS = [(70_000, 3), (70_000, 8)]
TOLERANCE = 0.02
"""Relative to a row's size: above the error of a low-precision product, below the distance to another row."""


def check_compiler() -> Iterator[Finding]:
    """Jitted results of many rows agree with NumPy's."""
    wrong = count_wrong_rows(jax.default_backend(), jnp.result_type(float) == jnp.float64)
    if not wrong:
        return
    version = f"jaxlib {xla_flags.JAXLIB} on {jax.default_backend()}"
    examples = ", ".join(f"{count:,} of {name}" for name, count in list(wrong.items())[:3])
    evidence = f"{version} computes {check.counted(sum(wrong.values()), 'wrong row')}: {examples}."
    fault = xla_flags.known_fault()
    hint = "Use another version of jaxlib, and report this to JAX."
    if fault is not None:
        evidence += f" It is known that this version {fault.description}."
        hint = (
            f"Set XLA_FLAGS={fault.flag}. Importing nnfunc before the first computation sets it, "
            "unless the flag is set already or NNFUNC_XLA_FLAGS=leave."
        )
    yield Finding("error", "the compiler", "wrong results", evidence, hint)


@lru_cache  # XLA reads its flags once, so the result cannot change in a process
def count_wrong_rows(backend: str, x64: bool) -> dict[str, int]:
    """{result: rows that differ from NumPy's}, such as "40,000 products of width 3, float32".

    backend, x64: of JAX; they key the cache.
    """
    draw = np.random.default_rng(0)
    matrix, numbers = draw.normal(size=(8, 8)), draw.normal(size=70_000 * 8)
    wrong = {}
    for dtype in ("float32", "float64")[: 1 + x64]:
        # No two results share arguments: XLA would compile them together, and get them right.
        cases = {
            (name, rows, width): (
                matrix[:width, :width].astype(dtype),
                numbers[: rows * width].reshape(rows, width).astype(dtype),
            )
            for name, shapes in (("products", PRODUCTS), ("sums", SUMS), ("maxima", SUMS))
            for rows, width in shapes
        }
        results = jax.device_get(_compute_jitted(cases))
        for (name, rows, width), arguments in cases.items():
            expected = _compute_by_numpy(name, *(array.astype(np.float64) for array in arguments))
            size = np.abs(expected) + np.sqrt(np.mean(expected**2))
            is_wrong = np.abs(results[name, rows, width] - expected) > TOLERANCE * size
            if is_wrong.any():
                wrong[f"{rows:,} {name} of width {width}, {dtype}"] = int(is_wrong.sum())
    return wrong


@jax.jit
def _compute_jitted(cases: dict) -> dict:
    def compute(name: str, matrix: Array, x: Array) -> Array:
        if name == "products":
            return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(x)
        return x.sum(axis=-1) if name == "sums" else x.max(axis=-1)

    return {case: compute(case[0], *arguments) for case, arguments in cases.items()}


def _compute_by_numpy(name: str, matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    if name == "products":
        return ((x @ matrix.T) ** 2).sum(axis=-1)
    return x.sum(axis=-1) if name == "sums" else x.max(axis=-1)
