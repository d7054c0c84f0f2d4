"""Which values of a sweep one program takes as arguments, and which need programs of their own.

A value that traces is a leaf of what `jax.vmap` runs over. One that sets a shape, or that build
branches on, makes groups: the trials that share it are compiled as one. Which is which is found by
following the shapes of one step with the value unknown.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import shape_struct
from nnfunc.sweeps.int_overflow import overflows
from nnfunc.training.compiled import run_functions, split_hypers
from nnfunc.training.fitting import check_state
from nnfunc.training.task import Build, build_task, cache_calls

__all__ = ["Group", "Grouping", "group_trials", "is_same", "set_numbers", "static_key"]

OVERFLOW = "integer arithmetic on it may leave the range of the program's integers"


class Group(NamedTuple):
    """Trials that one program runs. static: the values that set it apart, by name.

    trials: their places in the sweep. numbers: what each is given, [trials] a leaf, or [] where all
    are given the same; None where the leaf is static; the last one is the seed of the data's order,
    None where that is the data's own. leaves, treedef: the static leaves, and the structure of the
    hypers. scanned: whether many steps a dispatch are surely quick. traced: the names that vary.
    """

    static: dict[str, Any]
    trials: tuple[int, ...]
    numbers: list[Any]
    leaves: tuple[Any, ...]
    treedef: Any
    scanned: bool
    traced: frozenset[str]

    def axes(self) -> list[int | None]:
        """Which leaves of numbers differ from trial to trial."""
        return [0 if n is not None and _varies(n) else None for n in self.numbers]

    def pick(self, positions: list[int]) -> list[Any]:
        """The numbers of the trials at these places of the group."""
        return [n[np.asarray(positions)] if _varies(n) else n for n in self.numbers]

    def one(self, position: int) -> list[Any]:
        return [n[position] if _varies(n) else n for n in self.numbers]


class Grouping(NamedTuple):
    """groups: all of them. traced, static: names that differ between trials; of static ones why.

    A name may be both: of some trials it is a number, of others it is None.
    refused: trials that build, or the step, refuses, and in which words. unread: of traced those that
    change nothing.
    """

    groups: list[Group]
    traced: list[str]
    static: dict[str, str]
    refused: dict[int, str]
    unread: set[str]


def group_trials(
    build: Build,
    hypers: list[dict[str, Any]],
    key: Any,
    data: Any,
    varied: Mapping[str, Sequence[Any] | None] = MappingProxyType({}),
) -> Grouping:
    """The groups of trials with these hypers; trials are counted from 0.

    varied: names that differ from those of trials to come, whether they differ here or not, and
    the options of each, None where they cannot be counted.
    Raises: what build raises when it refuses them all.
    """
    apart_from = lambda n: any(not is_same(h[n], hypers[0][n]) for h in hypers[1:])
    names = [n for n in hypers[0] if n in varied or apart_from(n)]
    refused, errors = _refused(build, hypers)
    families: dict[Any, list[int]] = {}
    for i, values in enumerate(hypers):
        if i not in refused:
            families.setdefault(tuple(_form(values[n]) for n in names), []).append(i)
    result = Grouping([], [], _mixed_forms(names, list(families)), refused, set(names))
    for trials in families.values():
        _group_family(build, hypers, trials, names, varied, key, data, result, errors)
    if not result.groups:
        raise errors[0]
    traced = {name for group in result.groups for name in group.traced}
    return result._replace(traced=[n for n in names if n in traced], unread=result.unread & traced)


def _group_family(
    build: Build,
    hypers: list[dict[str, Any]],
    trials: list[int],
    names: list[str],
    options: Mapping[str, Sequence[Any] | None],
    key: Any,
    data: Any,
    result: Grouping,
    errors: list[Exception],
) -> None:
    """Add the groups of trials whose values have one form; see `_form`."""
    rows = [hypers[i] for i in trials]
    ranges = {n: _range(options.get(n) or (), [row[n] for row in rows]) for n in names}
    traced, static = _traced(build, rows, names, ranges, key, data)
    result.static.update({name: why for name, why in static.items() if name not in result.static})
    by_static: dict[Any, list[int]] = {}
    for i in trials:
        by_static.setdefault(static_key(hypers[i][n] for n in static), []).append(i)
    for part in by_static.values():
        arrays = [_as_arrays(hypers[i], traced) for i in part]
        try:
            trace = _trace_step(build, arrays[0], static, key, data)
            check_state("sweep", trace.shapes.state)
        except Exception as error:
            errors.append(error)
            result.refused.update(dict.fromkeys(part, str(error) or type(error).__name__))
            continue
        first, leaves, treedef = split_hypers(arrays[0], static)
        leaf_names = _names(arrays[0])
        numbers = [
            np.stack([h[name] for h in arrays]) if name in traced else number
            for name, number in zip(leaf_names, first, strict=True)
        ]
        used = {name for at, name in enumerate(leaf_names) if at not in trace.unread}
        result.unread.difference_update(used)
        fixed = {name: hypers[part[0]][name] for name in static}
        group = Group(fixed, tuple(part), [*numbers, None], leaves, treedef, not trace.convolves, frozenset(traced))
        result.groups.append(group)


def _form(value: Any) -> Any:
    """What values must have in common to be elements of one array; None for what is no number."""
    return (np.shape(value), _dtype(value)) if _number(value) else None


def _mixed_forms(names: list[str], forms: list[tuple[Any, ...]]) -> dict[str, str]:
    """Names whose numbers are elements of no one array, and why. forms: of the families."""
    static = {}
    for name, column in zip(names, zip(*forms, strict=True), strict=False):
        numbers = {form for form in column if form is not None}
        if len(numbers) > 1:
            shapes = {shape for shape, _ in numbers}
            static[name] = f"its values differ in {'shape' if len(shapes) > 1 else 'type'}"
    return static


def _range(options: Sequence[Any], values: list[Any]) -> tuple[int, int] | None:
    """The ends of a name that is a Python integer in a run alone; None where it is none."""
    few = (options[0], options[-1]) if isinstance(options, range) else options
    integers = [v for v in (*few, *values) if isinstance(v, int) and not isinstance(v, bool)]
    return (min(integers), max(integers)) if integers else None


def _refused(build: Build, hypers: list[dict[str, Any]]) -> tuple[dict[int, str], list[Exception]]:
    """Trials whose plain numbers build refuses: checks look at plain numbers only."""
    refused, errors = {}, []

    def every():
        for i, values in enumerate(hypers):
            try:
                build_task(build, values)
            except Exception as error:  # whatever build says of it
                refused[i] = str(error) or type(error).__name__
                errors.append(error)

    jax.eval_shape(every)  # so that nothing is calculated
    return refused, errors


def _traced(
    build: Build,
    hypers: list[dict[str, Any]],
    varied: list[str],
    ranges: Mapping[str, tuple[int, int] | None],
    key: Any,
    data: Any,
) -> tuple[list[str], dict[str, str]]:
    """Which of the names that vary trace, and why the others do not; of hypers of one form."""
    static = {}
    largest = int(jnp.iinfo(jax.dtypes.canonicalize_dtype(np.int64)).max)
    for name in varied:
        ends = ranges[name]
        if not _number(hypers[0][name]):
            static[name] = f"{check.describe(hypers[0][name])} is no number"
        elif ends is not None and max(-ends[0], ends[1]) > largest:
            static[name] = "its values are larger than the program's integers"
    candidates = [name for name in varied if name not in static]
    if not candidates:
        return [], static
    try:
        alone = _trace_step(build, hypers[0], static, key, data)  # as a run alone has them
    except Exception:  # this trial cannot run: its own group will say so
        alone = None

    def find_reason(names: list[str]) -> str | None:
        others = [name for name in varied if name not in names]
        typed = _as_arrays(hypers[0], names)
        try:
            traced_step = _trace_step(build, typed, others, key, data, {n: ranges[n] for n in names})
            if alone is not None:
                _build_with_arrays(build, typed, others)
        except Exception as error:  # what a tracer, or an array, is not, or cannot
            return _first_line(error)
        if alone is not None and traced_step.shapes != alone.shapes:
            return "it sets a shape or a type"
        return OVERFLOW if traced_step.overflows else None

    if find_reason(candidates) is None:
        return candidates, static
    reasons = {name: find_reason([name]) for name in candidates}
    traced = [name for name in candidates if reasons[name] is None]
    while traced and (reason := find_reason(traced)) is not None:  # fine alone, not together
        reasons[traced.pop()] = reason
    return traced, static | {name: reasons[name] or "" for name in candidates if name not in traced}


def _build_with_arrays(build: Build, hypers: Any, static_names: Iterable[str]) -> None:
    """Make the task of concrete arrays, as the inspection of the data does."""
    numbers, leaves, treedef = split_hypers(hypers, tuple(static_names))
    run_functions(build, leaves, treedef).build_task(numbers)


class _StepTrace(NamedTuple):
    """What following a step shows. shapes: of the state and the sums of metrics, with their types.

    unread: the places of numbers that neither the start nor a step depends on, nor what follows from
    an evaluation. overflows: whether integers may leave their range that a run alone does not give one.
    """

    shapes: Any
    convolves: bool
    unread: frozenset[int]
    overflows: bool


def _trace_step(
    build: Build,
    hypers: Any,
    static_names: Iterable[str],
    key: Any,
    data: Any,
    ranges: Mapping[str, tuple[int, int] | None] = MappingProxyType({}),
) -> _StepTrace:
    """Follow the start and a step of a run, without arithmetic.

    held: names that are static. ranges: of those that are Python integers in a run alone.
    """
    numbers, leaves, treedef = split_hypers(hypers, tuple(static_names))
    given, structure = jax.tree.flatten((numbers, key, data))
    shapes = tuple(shape_struct(leaf) for leaf in given)
    ends: tuple[Any, ...] = ()
    if any(ranges.values()):
        named = zip(_names(hypers), numbers, strict=True)
        ends = tuple(ranges.get(name) for name, number in named if number is not None)
    return _cached_trace(build, leaves, treedef, structure, shapes, ends, static_key(leaves))


def _trace_uncached(
    build: Build, leaves: Any, treedef: Any, structure: Any, given: Any, ranges: Any, cache_key: Any
) -> _StepTrace:
    program = run_functions(build, leaves, treedef)

    def run(numbers, key, data):
        return program.step(program.init(numbers, key, data), numbers, data)

    def observe(carry, numbers):
        return program.observe(carry, numbers, {name: jnp.float32(0) for name in carry.meter.total})

    arguments = jax.tree.unflatten(structure, given)
    jaxpr, shapes = jax.make_jaxpr(run, return_shape=True)(*arguments)
    unread, overflow = _unread(jaxpr, arguments[0]), overflows(jaxpr, ranges)
    if unread or (ranges and not overflow):
        after, first = jax.make_jaxpr(observe)(shapes, arguments[0]), len(jax.tree.leaves(shapes))
        unread &= _unread(after, arguments[0], first)
        overflow |= overflows(after, [*[None] * first, *ranges])
    convolves = "conv_general_dilated" in str(jaxpr)
    return _StepTrace(jax.tree.map(shape_struct, shapes), convolves, unread, overflow)


def _unread(jaxpr: Any, numbers: Any, first: int = 0) -> frozenset[int]:
    """The places of numbers, an argument whose arrays come after so many, that nothing depends on."""
    read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | {*map(id, jaxpr.jaxpr.outvars)}
    known = iter(id(var) in read for var in jaxpr.jaxpr.invars[first:])
    return frozenset(i for i, n in enumerate(numbers) if n is not None and not next(known))


_cached_trace = cache_calls(_trace_uncached, 256)


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of a hyper are the same, types too, inside of containers as well."""
    return one is other or _hashable(one) == _hashable(other)


def _number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    if isinstance(value, int | float):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.number))


def _dtype(value: Any) -> Any:
    return jax.dtypes.result_type(value)


def _as_arrays(hypers: dict[str, Any], traced: Iterable[str]) -> dict[str, Any]:
    """The hypers with what is traced as arrays: integers too, which a run alone holds static."""
    arrays = dict(hypers)
    for name in traced:
        arrays[name] = np.asarray(arrays[name], jax.dtypes.canonicalize_dtype(_dtype(arrays[name])))
    return arrays


def set_numbers(group: Group, position: int, hypers: dict[str, Any], traced: Iterable[str]) -> None:
    """Give a trial other numbers, in place."""
    numbers = split_hypers(_as_arrays(hypers, traced), tuple(group.static))[0]
    for column, number in zip(group.numbers[:-1], numbers, strict=True):
        if _varies(column):
            column[position] = np.asarray(number)


def static_key(values: Iterable[Any]) -> tuple[Any, ...]:
    """What static leaves have in common with others that are the same."""
    return tuple(_hashable(value) for value in values)


def _hashable(value: Any) -> Any:
    """What two static values have in common when they are the same; it has a hash."""
    leaves, treedef = jax.tree.flatten(value)
    return treedef, tuple(map(_hashable_leaf, leaves))


def _hashable_leaf(leaf: Any) -> Any:
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
