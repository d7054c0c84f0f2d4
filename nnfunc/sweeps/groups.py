"""Which values of a sweep one program takes as arguments, and which need programs of their own.

A value that traces is a leaf of what `jax.vmap` runs over. One that sets a shape, or that build
branches on, makes groups: the members that share it are compiled as one. Which is which is found by
following the shapes of one step with the value unknown.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import struct
from nnfunc.training.programs import functions, split_hypers
from nnfunc.training.task import Build, built, kept

__all__ = ["Found", "Group", "grouped", "marks", "put", "same"]

_LARGEST = 2**31 - 1


class Group(NamedTuple):
    """Members that one program runs. static: the values that set it apart, by name.

    members: their places in the sweep. numbers: what each is given, [members] a leaf, or [] where all
    are given the same; None where the leaf is static; the last one is the seed of the data's order,
    None where that is the data's own. leaves, treedef: the static leaves, and the structure of the
    hypers. scanned: whether many steps a dispatch are surely quick.
    """

    static: dict[str, Any]
    members: tuple[int, ...]
    numbers: list[Any]
    leaves: tuple[Any, ...]
    treedef: Any
    scanned: bool

    def axes(self) -> list[int | None]:
        """Which leaves of numbers differ from member to member."""
        return [0 if n is not None and _varies(n) else None for n in self.numbers]

    def pick(self, places: list[int]) -> list[Any]:
        """The numbers of the members at these places of the group."""
        return [n[np.asarray(places)] if _varies(n) else n for n in self.numbers]

    def one(self, place: int) -> list[Any]:
        return [n[place] if _varies(n) else n for n in self.numbers]


class Found(NamedTuple):
    """groups: all of them. traced, static: names that differ between members; of static ones why.

    refused: members that build, or the step, refuses, and in which words. unread: of traced those that
    change nothing.
    """

    groups: list[Group]
    traced: list[str]
    static: dict[str, str]
    refused: dict[int, str]
    unread: set[str]


def grouped(
    build: Build, hypers: list[dict[str, Any]], key: Any, data: Any, varied: Iterable[str] = ()
) -> Found:
    """The groups of members with these hypers; members are counted from 0.

    varied: names that differ from those of members to come, whether they differ here or not.
    Raises: what build raises when it refuses them all.
    """
    apart_from = lambda n: any(not same(h[n], hypers[0][n]) for h in hypers[1:])
    varied = [n for n in hypers[0] if n in varied or apart_from(n)]
    refused, errors = _refused(build, hypers)
    good = [i for i in range(len(hypers)) if i not in refused]
    if not good:
        raise errors[0]
    traced, static = _traced(build, [hypers[i] for i in good], varied, key, data)

    apart: dict[Any, list[int]] = {}
    unread = set(traced)
    for i in good:
        apart.setdefault(marks(hypers[i][n] for n in static), []).append(i)
    groups = []
    for members in apart.values():
        own = [_typed(hypers[i], traced) for i in members]
        try:
            looked = _look(build, own[0], static, key, data)
        except Exception as error:
            errors.append(error)
            refused |= dict.fromkeys(members, str(error) or type(error).__name__)
            continue
        first, leaves, treedef = split_hypers(own[0], static)
        names = _names(own[0])
        numbers = [
            np.stack([h[name] for h in own]) if name in traced else number
            for name, number in zip(names, first, strict=True)
        ]
        unread &= {names[place] for place in looked.unread}
        fixed = {name: hypers[members[0]][name] for name in static}
        group = Group(
            fixed, tuple(members), [*numbers, None], leaves, treedef, not looked.convolves
        )
        groups.append(group)
    if not groups:
        raise errors[0]
    return Found(groups, traced, static, refused, unread)


def _refused(build: Build, hypers: list[dict[str, Any]]) -> tuple[dict[int, str], list[Exception]]:
    """Members whose plain numbers build refuses: checks look at plain numbers only."""
    refused, errors = {}, []

    def every():
        for i, own in enumerate(hypers):
            try:
                built(build, own)
            except Exception as error:  # whatever build says of it
                refused[i] = str(error) or type(error).__name__
                errors.append(error)

    jax.eval_shape(every)  # so that nothing is calculated
    return refused, errors


def _traced(
    build: Build, hypers: list[dict[str, Any]], varied: list[str], key: Any, data: Any
) -> tuple[list[str], dict[str, str]]:
    """Which of the names that vary trace, and why the others do not."""
    static = {}
    for name in varied:
        values = [h[name] for h in hypers]
        if not all(_number(v) for v in values):
            odd = next(v for v in values if not _number(v))
            static[name] = f"{check.describe(odd)} is no number"
        elif len({np.shape(v) for v in values}) > 1:
            static[name] = "its values differ in shape"
        elif len({_typed_as(v) for v in values}) > 1:
            static[name] = "its values differ in type"
        elif any(isinstance(v, int) and abs(v) > _LARGEST for v in values):
            static[name] = "its values are larger than the program's whole numbers"
    able = [name for name in varied if name not in static]
    if not able:
        return [], static
    try:
        plain = _look(build, hypers[0], static, key, data)  # as a run alone has them
    except Exception:  # this member cannot run: its own group will say so
        plain = None

    def trouble(names: list[str]) -> str | None:
        try:
            apart = [name for name in varied if name not in names]
            seen = _look(build, _typed(hypers[0], names), apart, key, data)
        except Exception as error:  # what a tracer is not, or cannot
            return _first_line(error)
        return None if plain is None or seen.shapes == plain.shapes else "it sets a shape or a type"

    if trouble(able) is None:
        return able, static
    words = {name: trouble([name]) for name in able}
    traced = [name for name in able if words[name] is None]
    while traced and (word := trouble(traced)) is not None:  # fine alone, not together
        words[traced.pop()] = word
    return traced, static | {name: words[name] or "" for name in able if name not in traced}


class _Looked(NamedTuple):
    """What following a step shows. shapes: of the state and the sums of metrics, with their types.

    unread: the places of numbers that neither the start nor a step depends on, nor what follows from
    an evaluation.
    """

    shapes: Any
    convolves: bool
    unread: frozenset[int]


def _look(build: Build, hypers: Any, held: Iterable[str], key: Any, data: Any) -> _Looked:
    """Follow the start and a step of a run, without arithmetic. held: names that are static."""
    numbers, leaves, treedef = split_hypers(hypers, tuple(held))
    given, structure = jax.tree.flatten((numbers, key, data))
    shapes = tuple(struct(leaf) for leaf in given)
    return _looked(build, leaves, treedef, structure, shapes, marks(leaves))


def _follow(
    build: Build, leaves: Any, treedef: Any, structure: Any, given: Any, kinds: Any
) -> _Looked:
    own = functions(build, leaves, treedef)

    def run(numbers, key, data):
        return own.one(own.init(numbers, key, data), numbers, data)

    def observe(carry, numbers):
        return own.observe(carry, numbers, {name: jnp.float32(0) for name in carry.meter.total})

    arguments = jax.tree.unflatten(structure, given)
    jaxpr, shapes = jax.make_jaxpr(run, return_shape=True)(*arguments)
    unread = _unread(jaxpr, arguments[0])
    if unread:
        unread &= _unread(
            jax.make_jaxpr(observe)(shapes, arguments[0]),
            arguments[0],
            len(jax.tree.leaves(shapes)),
        )
    return _Looked(jax.tree.map(struct, shapes), "conv_general_dilated" in str(jaxpr), unread)


def _unread(jaxpr: Any, numbers: Any, first: int = 0) -> frozenset[int]:
    """The places of numbers, an argument whose arrays come after so many, that nothing depends on."""
    read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | {*map(id, jaxpr.jaxpr.outvars)}
    known = iter(id(var) in read for var in jaxpr.jaxpr.invars[first:])
    return frozenset(i for i, n in enumerate(numbers) if n is not None and not next(known))


_looked = kept(_follow, 256)


def same(one: Any, other: Any) -> bool:
    """Whether two values of a hyper are the same, types too, inside of containers as well."""
    return one is other or _mark(one) == _mark(other)


def _number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    if isinstance(value, int | float):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.number))


def _typed_as(value: Any) -> Any:
    return jax.dtypes.result_type(value)


def _typed(hypers: dict[str, Any], traced: Iterable[str]) -> dict[str, Any]:
    """The hypers with what is traced as arrays: whole numbers too, which a run alone holds static."""
    own = dict(hypers)
    for name in traced:
        own[name] = np.asarray(own[name], jax.dtypes.canonicalize_dtype(_typed_as(own[name])))
    return own


def put(group: Group, place: int, hypers: dict[str, Any], traced: Iterable[str]) -> None:
    """Give a member other numbers, in place."""
    numbers = split_hypers(_typed(hypers, traced), tuple(group.static))[0]
    for column, number in zip(group.numbers[:-1], numbers, strict=True):
        if _varies(column):
            column[place] = np.asarray(number)


def marks(values: Iterable[Any]) -> tuple[Any, ...]:
    """What static leaves have in common with others that are the same."""
    return tuple(_mark(value) for value in values)


def _mark(value: Any) -> Any:
    """What two static values have in common when they are the same; it has a hash."""
    leaves, treedef = jax.tree.flatten(value)
    return treedef, tuple(map(_leaf_mark, leaves))


def _leaf_mark(leaf: Any) -> Any:
    if hasattr(leaf, "shape"):
        array = np.asarray(leaf)
        return ("array", array.shape, str(array.dtype), array.tobytes())
    try:
        hash(leaf)
    except TypeError:
        return (type(leaf), repr(leaf))
    return (type(leaf), leaf)


def _names(hypers: dict[str, Any]) -> list[str]:
    """The name of each leaf."""
    return [path[0].key for path, _ in jax.tree_util.tree_flatten_with_path(hypers)[0]]


def _varies(number: Any) -> bool:
    return isinstance(number, np.ndarray)


def _first_line(error: Exception) -> str:
    if isinstance(error, AttributeError):
        return "build asks for what only a plain number has"
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerBoolConversionError):
        return "build, or what it makes, needs to know it while it is traced"
    text = str(error).split("\n")[0]
    return text if len(text) <= 160 else text[:157] + "..."
