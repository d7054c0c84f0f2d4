"""The type of augmentations, and functions that apply a change to the x of a batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar

Fill = Scalar | Sequence[Scalar]
"""The value of pixels outside the image: one number, or one for each channel."""
Shape = Sequence[int] | None
"""(height, width, channels) of images that x holds in another layout, such as flat; or None."""


@dataclass(frozen=True)
class Augmentation:
    """A function (key, batch) -> batch, made by a factory such as `nf.augment.flip`.

    Augmentations with equal Python numbers compare equal, so `jax.jit` compiles once for them. `nf.Task` and
    configs also accept any other function (key, batch) -> batch.
    name: of the factory.
    change: (key, batch, **settings) -> batch.
    settings: the (name, value) pairs of the factory's arguments.

    >>> nf.augment.flip(rate=0.1)
    flip(rate=0.1, vertical=False, shape=None)
    """

    name: str
    change: Callable[..., PyTree]
    settings: tuple[tuple[str, Any], ...]

    def __call__(self, key: Key, batch: PyTree) -> PyTree:
        check.key(self.name, key)
        return self.change(key, batch, **dict(self.settings))

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The setting `shape`, or None."""
        return dict(self.settings).get("shape")

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.settings)})"


def make_augmentation(name: str, change: Callable[..., PyTree], **settings: Any) -> Augmentation:
    """The augmentation `name`, which calls change(key, batch, **settings); the setting `shape` is checked."""
    shape = settings.get("shape")
    if shape is not None:
        if len(shape) != 3:
            check.fail(name, expected="shape should be (height, width, channels)", actual=tuple(shape))
        settings["shape"] = tuple(shape)
    return Augmentation(name, change, tuple(settings.items()))


def get_inputs(batch: PyTree) -> Array:
    """The x of a `batch`: the batch itself, the first item of a tuple, or the first field or "x" of an input there."""
    x = batch
    while isinstance(x, tuple | list) and x:  # (nf.RecurrentInput(x, lengths), y)
        x = x[0]
    x = x.get("x") if isinstance(x, dict) else x
    if not hasattr(x, "dtype"):
        expected = 'a batch should be (x, y) or x, where x is an array or a dict {"x": ...}'
        hint = ""
        for part in batch[:1] if isinstance(batch, tuple | list) else [batch]:
            if isinstance(part, dict) and "categories" in part:
                hint = "Indices of categories cannot be mixed: read them as one_hot, or leave the augmentation out."
        check.fail("augment", expected=expected, actual=check.describe(batch), hint=hint, exc_type=TypeError)
    return jnp.asarray(x)


def replace_inputs(batch: PyTree, x: Array) -> PyTree:
    """The `batch` with `x` instead of `get_inputs(batch)`."""
    if isinstance(batch, tuple | list):
        return replace_item(batch, 0, replace_inputs(batch[0], x))
    return batch | {"x": x} if isinstance(batch, dict) else x


def replace_item(batch: Any, index: int, item: PyTree) -> Any:
    """The `batch`, a tuple, list or NamedTuple, with `item` at `index`."""
    items = [*batch[:index], item, *batch[index + 1 :]]
    return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)


def apply_to_inputs(change: Callable[[Array], Array], batch: PyTree) -> PyTree:
    """The `batch` with its x replaced by change(x)."""
    return replace_inputs(batch, change(get_inputs(batch)))


def as_images(where: str, x: Array, shape: Sequence[int] | None) -> Array:
    """x as images [batch, height, width, channels].

    where: begins the message of an error.
    shape: (height, width, channels) of images in another layout, or None.
    """
    if shape is not None and x.ndim > 1 and math.prod(x.shape[1:]) == math.prod(shape):
        return x.reshape(-1, *shape)
    if shape is not None:
        expected = f"x should hold images of shape {tuple(shape)}, {math.prod(shape)} numbers each"
        check.fail(where, expected=expected, actual=f"shape {tuple(x.shape)}")
    if x.ndim != 4:
        expected = "x should be images [batch, height, width, channels]"
        check.fail(
            where, expected=expected, actual=f"shape {tuple(x.shape)}", hint="For another layout, pass shape=(...)."
        )
    return x


def apply_to_images(where: str, change: Callable[[Array], Array], batch: PyTree, shape: Sequence[int] | None) -> PyTree:
    """The `batch` with its x replaced by change(x as images [batch, height, width, channels]), in the layout of x.

    where, shape: as for `as_images`.
    """
    x = get_inputs(batch)
    return replace_inputs(batch, change(as_images(where, x, shape)).reshape(x.shape))


def apply_in_floats(where: str, x: Array, change: Callable[[Array, float], Array]) -> Array:
    """change(x as floats, white) in the dtype of x; white is 255 for uint8 and 1 for floats.

    where: begins the message of an error. uint8 is rounded and clipped to [0, 255]; floats are not clipped.
    """
    if x.dtype == jnp.uint8:
        y = change(x.astype(jnp.float32), 255.0)
        return jnp.clip(jnp.round(y), 0, 255).astype(jnp.uint8)
    check.floating(where, "Images are uint8 or floats.", x=x)
    wide = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    return change(wide, 1.0).astype(x.dtype)


def draw_uniform(key: Key, x: Array, *shape: int) -> Array:
    """Uniform float32 numbers in [0, 1), of shape [batch, *shape]. key: random. x: [batch, ...]."""
    return jax.random.uniform(key, (x.shape[0], *shape), jnp.float32)


def as_scalar(value: Scalar, like: Any = jnp.float32) -> Array:
    """A number, which may be traced, as an array. value: the number. like: the dtype."""
    return jnp.asarray(value).astype(like)


def check_fill(where: str, fill: Fill) -> tuple[Any, ...]:
    """The values of `fill` as a tuple, Python numbers as floats. where: begins the message of an error."""
    values: Any = fill
    if not isinstance(values, Sequence) and getattr(values, "ndim", 0) != 1:
        values = (values,)
    for value in values:
        check.number(where, fill=value)
    return tuple(float(value) if check.is_plain(value) else value for value in values)


def fill_values(where: str, fill: tuple[Any, ...], x: Array) -> Array:
    """The fill, of `check_fill`, as an array [1] or [channels] in the dtype of x. where: begins the message."""
    if len(fill) not in (1, x.shape[-1]):
        expected = f"fill should be one number, or one for each of {x.shape[-1]} channels"
        check.fail(where, expected=expected, actual=len(fill))
    if x.dtype == jnp.uint8:
        plain = [value for value in fill if check.is_plain(value)]
        wrong = [value for value in plain if not (0 <= value <= 255 and value == int(value))]
        if wrong:
            expected = "fill should be an integer from 0 to 255 for uint8 images"
            check.fail(where, expected=expected, actual=wrong[0])
    return jnp.stack([as_scalar(value, x.dtype) for value in fill])
