"""Which values of a sweep are traced, and which are static, so that each needs a compiled program.

A traced value is a leaf of the arguments that `jax.vmap` maps over. A value that sets a shape, or that
build branches on, is static: the trials that share its value are one group, with one program. To tell
them apart, one step is traced with the value unknown.
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

OVERFLOW = "integer arithmetic on it may overflow the program's integers"


class Group(NamedTuple):
    """Trials that one program runs.

    static: the values that distinguish the group, by name.
    trials: their indices in the sweep.
    numbers: one entry for each leaf of the hypers: [trials] where the values differ, one array where they are
        equal, None where the leaf is static. The last entry is the seed of the order of the data, None for the
        data's own.
    leaves, treedef: the static leaves, and the structure of the hypers.
    scanned: whether a loop over steps is known to be fast.
    traced: the names that differ between trials.
    """

    static: dict[str, Any]
    trials: tuple[int, ...]
    numbers: list[Any]
    leaves: tuple[Any, ...]
    treedef: Any
    scanned: bool
    traced: frozenset[str]

    def select(self, positions: int | list[int]) -> list[Any]:
        """The numbers of one trial, or of several along a leading axis. positions: their indices in the group."""
        return [n[positions] if varies(n) else n for n in self.numbers]


class Grouping(NamedTuple):
    """The groups of some trials, and why they are as they are.

    groups: all of them.
    traced: the names that differ between trials and are traced.
    static: the names that are static, and why. A name may be both: a number in some trials, None in others.
    refused: trial -> why build, or its step, refuses it.
    unread: the traced names that change nothing.
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
    """The groups of trials with these hypers.

    build: hypers -> Task.
    hypers: of each trial; trials are counted from 0.
    key: of a run, to trace it.
    data: the data set, to trace it.
    varied: names that may differ in later trials, even where they do not differ here, and the options of each, None
        where they cannot be counted.
    Raises: the error of the first trial when build refuses them all.
    """
    differs = lambda n: any(not is_same(h[n], hypers[0][n]) for h in hypers[1:])
    names = [n for n in hypers[0] if n in varied or differs(n)]
    refused, errors = _refused(build, hypers)
    families: dict[Any, list[int]] = {}
    for i, values in enumerate(hypers):
        if i not in refused:
            families.setdefault(tuple(_form(values[n]) for n in names), []).append(i)
    groups, static, unread = [], _mixed_forms(names, list(families)), set(names)
    for trials in families.values():
        rows = [hypers[i] for i in trials]
        ranges = {n: _range(varied.get(n) or (), [row[n] for row in rows]) for n in names}
        traced, reasons = _traced(build, rows, names, ranges, key, data)
        static |= {name: why for name, why in reasons.items() if name not in static}
        by_static: dict[Any, list[int]] = {}
        for i in trials:
            by_static.setdefault(static_key(hypers[i][n] for n in reasons), []).append(i)
        for part in by_static.values():
            try:
                group, read = _make_group(build, {i: hypers[i] for i in part}, traced, list(reasons), key, data)
            except Exception as error:
                errors.append(error)
                refused |= dict.fromkeys(part, refusal(error))
            else:
                groups.append(group)
                unread -= read
    if not groups:
        raise errors[0]
    all_traced = {name for group in groups for name in group.traced}
    return Grouping(groups, [n for n in names if n in all_traced], static, refused, unread & all_traced)


def _make_group(
    build: Build, hypers: dict[int, dict[str, Any]], traced: list[str], static: list[str], key: Any, data: Any
) -> tuple[Group, set[str]]:
    """The group of trials whose static values are the same, and the names that its program reads."""
    arrays = [_as_arrays(values, traced) for values in hypers.values()]
    trace = _trace_step(build, arrays[0], static, key, data)
    check_state("sweep", trace.shapes.state)
    first, leaves, treedef = split_hypers(arrays[0], static)
    leaf_names = _names(arrays[0])
    numbers = [
        np.stack([h[name] for h in arrays]) if name in traced else number
        for name, number in zip(leaf_names, first, strict=True)
    ]
    read = {name for index, name in enumerate(leaf_names) if index not in trace.unread}
    fixed = {name: next(iter(hypers.values()))[name] for name in static}
    group = Group(fixed, tuple(hypers), [*numbers, None], leaves, treedef, not trace.convolves, frozenset(traced))
    return group, read


def refusal(error: Exception) -> str:
    """The message of an error, for the trials that it refuses; the name of its class without one."""
    return str(error) or type(error).__name__


def _form(value: Any) -> Any:
    """The shape and dtype of a number, equal for elements of one array; None for everything else."""
    return (np.shape(value), jax.dtypes.result_type(value)) if _number(value) else None


def _mixed_forms(names: list[str], forms: list[tuple[Any, ...]]) -> dict[str, str]:
    """The names whose numbers differ in shape or dtype, and in which. forms: of the families."""
    static = {}
    for name, column in zip(names, zip(*forms, strict=True), strict=False):
        numbers = {form for form in column if form is not None}
        if len(numbers) > 1:
            shapes = {shape for shape, _ in numbers}
            static[name] = f"its values differ in {'shape' if len(shapes) > 1 else 'type'}"
    return static


def _range(options: Sequence[Any], values: list[Any]) -> tuple[int, int] | None:
    """The least and greatest value of a name that is a Python integer in a single run; None for other names."""
    few = (options[0], options[-1]) if isinstance(options, range) else options
    integers = [v for v in (*few, *values) if isinstance(v, int) and not isinstance(v, bool)]
    return (min(integers), max(integers)) if integers else None


def _refused(build: Build, hypers: list[dict[str, Any]]) -> tuple[dict[int, str], list[Exception]]:
    """The trials that build refuses, and its errors. Checks see plain numbers only, so these are not traced."""
    refused, errors = {}, []

    def build_all():
        for i, values in enumerate(hypers):
            try:
                build_task(build, values)
            except Exception as error:
                refused[i] = refusal(error)
                errors.append(error)

    jax.eval_shape(build_all)  # no arrays are computed
    return refused, errors


def _traced(
    build: Build,
    hypers: list[dict[str, Any]],
    varied: list[str],
    ranges: Mapping[str, tuple[int, int] | None],
    key: Any,
    data: Any,
) -> tuple[list[str], dict[str, str]]:
    """Which of the varied names trace, and why the others do not. hypers: of one form."""
    static = {}
    largest = int(jnp.iinfo(jax.dtypes.canonicalize_dtype(np.int64)).max)
    for name in varied:
        ends = ranges[name]
        if not _number(hypers[0][name]):
            static[name] = f"{check.describe(hypers[0][name])} is not a number"
        elif ends is not None and max(-ends[0], ends[1]) > largest:
            static[name] = "its values do not fit the program's integers"
    candidates = [name for name in varied if name not in static]
    if not candidates:
        return [], static
    try:
        single = _trace_step(build, hypers[0], static, key, data)  # with plain numbers, as in a single run
    except Exception:  # this trial cannot run; its group reports that
        single = None

    def find_reason(names: list[str]) -> str | None:
        others = [name for name in varied if name not in names]
        typed = _as_arrays(hypers[0], names)
        try:
            traced_step = _trace_step(build, typed, others, key, data, {n: ranges[n] for n in names})
            if single is not None:
                _build_with_arrays(build, typed, others)
        except Exception as error:  # build needs more than a tracer, or an array, can tell
            return _first_line(error)
        if single is not None and traced_step.shapes != single.shapes:
            return "it sets a shape or a type"
        return OVERFLOW if traced_step.overflows else None

    if find_reason(candidates) is None:
        return candidates, static
    reasons = {name: find_reason([name]) for name in candidates}
    traced = [name for name in candidates if reasons[name] is None]
    while traced and (reason := find_reason(traced)) is not None:  # each traces, but not all of them together
        reasons[traced.pop()] = reason
    return traced, static | {name: reasons[name] or "" for name in candidates if name not in traced}


def _build_with_arrays(build: Build, hypers: Any, static_names: Iterable[str]) -> None:
    """Build the task from concrete arrays, as the inspection of the data does."""
    numbers, leaves, treedef = split_hypers(hypers, tuple(static_names))
    run_functions(build, leaves, treedef).build_task(numbers)


class _StepTrace(NamedTuple):
    """What the trace of a step shows.

    shapes: of the state and the sums of metrics, with their dtypes.
    convolves: whether it has convolutions.
    unread: the indices of the numbers on which neither the initial state, nor a step, nor what follows an
        evaluation depends.
    overflows: whether integers may overflow that are Python integers in a single run.
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
    """The trace of the initial state and one step of a run; no arrays are computed.

    static_names: names that are not traced.
    ranges: the ends of the names that are Python integers in a single run.
    """
    numbers, leaves, treedef = split_hypers(hypers, tuple(static_names))
    values, structure = jax.tree.flatten((numbers, key, data))
    shapes = tuple(shape_struct(leaf) for leaf in values)
    ends: tuple[Any, ...] = ()
    if any(ranges.values()):
        named = zip(_names(hypers), numbers, strict=True)
        ends = tuple(ranges.get(name) for name, number in named if number is not None)
    return _cached_trace(build, leaves, treedef, structure, shapes, ends, static_key(leaves))


def _trace_uncached(
    build: Build, leaves: Any, treedef: Any, structure: Any, values: Any, ranges: Any, cache_key: Any
) -> _StepTrace:
    program = run_functions(build, leaves, treedef)

    def run(numbers, key, data):
        return program.step(program.init(numbers, key, data), numbers, data)

    def observe(carry, numbers):
        return program.observe(carry, numbers, {name: jnp.float32(0) for name in carry.meter.names})

    arguments = jax.tree.unflatten(structure, values)
    jaxpr, shapes = jax.make_jaxpr(run, return_shape=True)(*arguments)
    unread, overflow = _unread(jaxpr, arguments[0]), overflows(jaxpr, ranges)
    if unread or (ranges and not overflow):
        after, first = jax.make_jaxpr(observe)(shapes, arguments[0]), len(jax.tree.leaves(shapes))
        unread &= _unread(after, arguments[0], first)
        overflow |= overflows(after, [*[None] * first, *ranges])
    convolves = "conv_general_dilated" in str(jaxpr)
    return _StepTrace(jax.tree.map(shape_struct, shapes), convolves, unread, overflow)


def _unread(jaxpr: Any, numbers: Any, first: int = 0) -> frozenset[int]:
    """The indices of the numbers that nothing depends on. first: how many input variables come before them."""
    read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | {*map(id, jaxpr.jaxpr.outvars)}
    known = iter(id(var) in read for var in jaxpr.jaxpr.invars[first:])
    return frozenset(i for i, n in enumerate(numbers) if n is not None and not next(known))


_cached_trace = cache_calls(_trace_uncached, 256)


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of a hyper, one and other, are equal in value and type, inside containers too."""
    return one is other or _hashable(one) == _hashable(other)


def _number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    if isinstance(value, int | float):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.number))


def _as_arrays(hypers: dict[str, Any], traced: Iterable[str]) -> dict[str, Any]:
    """The hypers with arrays for the traced names, integers too, which are static in a single run."""
    arrays = dict(hypers)
    for name in traced:
        arrays[name] = np.asarray(arrays[name], jax.dtypes.canonicalize_dtype(jax.dtypes.result_type(arrays[name])))
    return arrays


def set_numbers(group: Group, position: int, hypers: dict[str, Any], traced: Iterable[str]) -> None:
    """Replace the numbers of a trial, in place.

    group: of the trial.
    position: its index in the group.
    hypers: the new values.
    traced: the names to replace.
    """
    numbers = split_hypers(_as_arrays(hypers, traced), tuple(group.static))[0]
    for column, number in zip(group.numbers[:-1], numbers, strict=True):
        if varies(column):
            column[position] = np.asarray(number)


def static_key(values: Iterable[Any]) -> tuple[Any, ...]:
    """A hashable that is equal for equal static values. values: of any types."""
    return tuple(_hashable(value) for value in values)


def _hashable(value: Any) -> Any:
    """A hashable that is equal for equal values."""
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


def varies(number: Any) -> bool:
    """Whether an entry of `Group.numbers` differs between trials. number: the entry."""
    return isinstance(number, np.ndarray)


def _first_line(error: Exception) -> str:
    if isinstance(error, AttributeError):
        return "build uses an attribute that only a plain number has"
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerBoolConversionError):
        return "build, or the model, needs its value while the program is traced"
    text = str(error).split("\n")[0]
    return text if len(text) <= 160 else text[:157] + "..."
