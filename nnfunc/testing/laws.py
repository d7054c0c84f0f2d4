"""The laws, each a function of a case, and all of them over one model."""

import re
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths
from nnfunc.base import Context, Key, Model, PyTree, Watch, as_model, cast_floating
from nnfunc.combinators import precision
from nnfunc.errors import NnfuncError
from nnfunc.testing.comparing import fail, floats_of, leaf_types, near, two
from nnfunc.testing.derivatives import check_gradients
from nnfunc.testing.law_case import Case
from nnfunc.testing.numbers import check_moves


def check_model(
    make: Callable[..., Any],
    x: PyTree,
    *,
    numbers: Mapping[str, tuple[Any, Any]] | None = None,
    key: Key | None = None,
    any_width: bool = False,
    leading_axes: bool = True,
    smooth: bool = True,
    tolerance: float = 2e-5,
    order: int = 2,
    at_once: bool = False,
    skip: Collection[str] = (),
    all: bool = False,
) -> None:
    """Every law over one model: AssertionError names the law and what differed.

    make: numbers -> Model.
    x: a batch of at least two small examples, floats in float32.
    numbers: {name: (value, another value)} for each number the factory takes; every one may be traced.
    any_width: the model takes a last axis of any size.
    leading_axes: it takes any further leading axes.
    smooth: it has gradients that finite differences can find.
    tolerance: how far two programs for the same thing may differ by rounding, as a fraction of the largest value.
    order: of the derivatives; 1 is enough for a model of layers that were checked themselves.
    at_once: all numbers are moved together rather than each alone, which compiles less and reports less.
    key: for `init` and for layers that draw; `jax.random.key(0)` by default.
    skip: the names of laws to leave out, such as "derivatives_are_right" of a layer that rounds; `nf.testing.LAWS`
        has them.
    all: check every law and report all that fail; False, the default, stops at the first.
    Raises: AssertionError; InvalidValueError for a name in skip that is no law; TypeError for a model as make.

    >>> check_model(lambda rate: nf.serial(nf.linear(3, 2), nf.dropout(rate)), jnp.ones((4, 3)),
    ...             numbers={"rate": (0.1, 0.4)})
    """
    if isinstance(make, Model):
        expected, hint = "make should be a function that returns the model", "Write lambda: model."
        check.fail("check_model", expected=expected, actual=repr(make), hint=hint, exc_type=TypeError)
    case = Case(make, x, dict(numbers or {}), key, any_width, leading_axes, smooth, tolerance, order, at_once)
    known = [law.__name__ for law in LAWS]
    for name in skip:
        if name not in known:
            check.fail("check_model", f"there is no law {name!r} to skip{check.nearest(name, known)}")
    failures = []
    for law in LAWS:
        if law is ranks_are_explicit or law.__name__ in skip:  # a setting that a layer of one's own need not know
            continue
        try:
            law(case)
        except Exception as error:  # a layer may fail in any way at all
            if not all:
                raise
            failures.append(f"{law.__name__}: {str(error) or type(error).__name__}")
    if failures:
        raise AssertionError(f"{check.counted(len(failures), 'law')} failed:\n" + "\n".join(failures))


def numbers_trace(case: Case) -> None:
    """Law 1: each number may be traced, in init, outputs, new state and gradients."""
    if not case.numbers:
        return

    def init(key, numbers):
        return as_model(case.make(**numbers)).init(key)

    def whole(x, start, **numbers):
        model = as_model(case.make(**numbers))
        params = start if apart else model.init(start)
        return case.gradients(params, x, model=model) | ({} if apart else {"params": params})

    # Drawing is most of such a program: init stays outside where it depends on no number.
    apart = not _uses(init, case.key, case.numbers)
    start = case.params if apart else case.key
    known = case.reference | ({} if apart else {"params": case.params})
    second = {name: values[1] for name, values in case.numbers.items()}
    moves = {name: {name: value} for name, value in second.items()}
    if case.at_once:
        moves = {" and ".join(second): second}
    check_moves(whole, case.numbers, moves, (case.x, start), case.tolerance, known)


def no_key_no_randomness(case: Case) -> None:
    """Law 2: without a key nothing random is computed; or an error says how to give one."""
    if case.needs_key:
        return

    def both(params, x, state):
        start = {} if case.model.draws_state else case.model.init_state()
        ctx = Context(train=True, state=state)
        return case.model.apply(params, x, state=state), case.model.forward(params, x, ctx), start

    program = str(jax.make_jaxpr(both)(case.params, case.x, case.state))
    result = re.search(r"random_bits|threefry\w*|rng_\w+|random_wrap|random_seed", program)
    if result:
        fail("no key, no randomness", f"{case.model.name} computes {result[0]} without a key")


def params_are_trainable_arrays(case: Case) -> None:
    """Law 4: nested dicts of float arrays with readable paths, and state that keeps its dtypes and shapes."""
    law, name = "params are trainable arrays only", case.model.name

    def visit(node, path):
        if isinstance(node, dict):
            if not node and path:
                fail(law, f"{name}: {'/'.join(path)} is an empty dict: leave it out")
            for child, below in node.items():
                if not isinstance(child, str) or not child or re.search(r"[/*@]", child):
                    fail(law, f"{name}: {child!r} cannot be part of a path")
                visit(below, (*path, child))
        elif not isinstance(node, jax.ShapeDtypeStruct):
            fail(law, f"{name}: {'/'.join(path)} should be an array or a dict, got {node!r}")
        elif not jnp.issubdtype(node.dtype, jnp.floating):
            hint = "What is not trained belongs in init_state"
            fail(law, f"{name}: {'/'.join(path)} should hold floats, got {node.dtype}. {hint}")
        elif node.weak_type:
            fail(law, f"{name}: {'/'.join(path)} is weakly typed: give its dtype, as jnp.float32")

    visit(jax.eval_shape(case.model.init, case.key), ())
    before = case.model.state_shapes
    _, after = jax.eval_shape(case.trained, case.params, case.x)
    if leaf_types(after) != leaf_types(before):
        expected = f"the state should keep its dtypes and shapes, {leaf_types(before)}"
        fail(law, f"{name}: {expected}, got {leaf_types(after)}")


def init_is_deterministic(case: Case) -> None:
    """init gives the same bits for the same key, the same values under jit, shapes without arrays."""
    law, init = "init is a pure function of the key", case.model.init
    shapes, eager = jax.eval_shape(init, case.key), init(case.key)
    if leaf_types(shapes) != leaf_types(eager):
        fail(law, f"eval_shape gives {leaf_types(shapes)}, init itself {leaf_types(eager)}")
    near(law, "init twice", init(case.key), eager, 0.0)
    near(law, "jit of init", case.params, eager, 1e-6)


def plain_jax_works(case: Case) -> None:
    """Law 5: jit, vmap, scan, checkpoint and eval_shape give what the eager call gives."""
    law = "plain JAX works inside and outside"

    def both(params, x):
        return case.evaluated(params, x), case.trained(params, x)

    def program(params, x):
        run = lambda x: both(params, x)
        saved = jax.checkpoint(run)
        return {
            "alone": run(x),
            "vmap": jax.vmap(run)(two(x)),
            "scan of checkpoint": jax.lax.scan(lambda c, x: (c, saved(x)), None, two(x))[1],
        }

    actual = jax.jit(program)(case.params, case.x)
    eager, close = both(case.params, case.x), partial(near, law, tolerance=case.tolerance)
    if leaf_types(jax.eval_shape(both, case.params, case.x)) != leaf_types(eager):
        fail(law, "eval_shape and the eager call differ in shape or type")
    close("jit against the eager call", actual["alone"], eager)
    for name in ("vmap", "scan of checkpoint"):
        first = jax.tree.map(lambda leaf: leaf[0], actual[name])
        close(f"{name} against the plain call", first, actual["alone"])
    close("vmap against scan of checkpoint", actual["vmap"], actual["scan of checkpoint"])


def derivatives_are_right(case: Case) -> None:
    """Laws 5 and 10: forward and reverse mode equal finite differences in float64; twice, too."""
    if not case.smooth:
        return
    with jax.enable_x64(True):
        params = cast_floating(case.params, jnp.float64)
    trained = lambda params, x: case.trained(params, x)[0]
    check_gradients(trained, params, case.x, order=case.order)


def nothing_leaks(case: Case) -> None:
    """Law 5: no traced value outlives its trace, in init, apply and training with gradients."""
    try:
        with jax.checking_leaks():
            params = jax.eval_shape(case.model.init, case.key)
            jax.eval_shape(case.gradients, params, case.x)
            jax.eval_shape(case.evaluated, params, case.x)
    except Exception as error:
        if "leak" not in str(error).lower():
            raise
        fail("nothing leaks a tracer", f"{case.model.name}: {error}", error)


def leading_axes_are_free(case: Case) -> None:
    """Law 7: one more leading axis gives the results of its parts."""
    if not case.leading_axes:
        return
    xs = two(case.x)
    together = jax.jit(case.evaluated)(case.params, xs)
    parts = jax.jit(jax.vmap(case.evaluated, (None, 0)))(case.params, xs)
    near("leading axes are free", "x[2, ...] against its two parts", together, parts, case.tolerance)


def errors_come_at_trace_time(case: Case) -> None:
    """Law 8: a wrong last axis (or floats for integers) is refused with a path, before arithmetic."""
    law, model = "errors come at trace time", case.model
    leaves, treedef = jax.tree.flatten(case.x)
    floats = jnp.issubdtype(leaves[0].dtype, jnp.floating)
    shape, dtype = leaves[0].shape, leaves[0].dtype
    if floats:
        leaves[0] = jax.ShapeDtypeStruct((*shape[:-1], shape[-1] + 1), dtype)
    else:
        leaves[0] = jax.ShapeDtypeStruct(shape, jnp.float32)
    wrong, what = jax.tree.unflatten(treedef, leaves), "last axis" if floats else "type"
    watch = Watch()
    ctx = Context(key=case.key, state=case.state, watch=watch)
    try:
        jax.eval_shape(lambda params, x: model.forward(params, x, ctx)[0], case.params, wrong)
    except Exception as error:
        message = str(error)
        layers = {model.name, *("/".join(call[0]) for call in watch.calls)}
        if not isinstance(error, ValueError | TypeError) or message.split(": ")[0] not in layers:
            fail(law, f"a wrong {what} of x raised {type(error).__name__} without a layer's name: {message}", error)
        if "should" not in message or "got" not in message:
            fail(law, f"the error should say what was expected and what it got: {message}", error)
        return
    if not case.any_width:
        fail(law, f"{model.name} takes an x of a wrong {what} (any_width=True when that is meant)")


def precision_is_a_wrapper(case: Case) -> None:
    """Law 9: in bfloat16 under strict promotion, with traced numbers; gradients stay float32."""
    law = "precision is a wrapper"

    def half(numbers):
        return precision(as_model(case.make(**numbers)), jnp.bfloat16)

    def trained(params, x, numbers):
        return case.gradients(params, x, model=half(numbers))

    def evaluated(params, x, numbers):
        return case.evaluated(params, x, model=half(numbers))

    with jax.numpy_dtype_promotion("strict"):
        args = (case.params, case.x, jax.tree.map(jnp.asarray, case.first))
        expected = case.reference
        try:
            actual, y = jax.jit(trained)(*args), jax.eval_shape(evaluated, *args)
        except Exception as error:
            fail(law, f"in bfloat16 it raised {type(error).__name__}: {error}", error)
    if leaf_types(y) != leaf_types(actual["y"]):
        fail(law, f"y is {leaf_types(y)} in evaluation mode, {leaf_types(actual['y'])} in training mode")
    near(law, "bfloat16 against float32", actual, expected, 0.1)


def ranks_are_explicit(case: Case) -> None:
    """It works where JAX refuses arrays of different ranks in one operation (`jax_numpy_rank_promotion`)."""
    try:
        with jax.numpy_rank_promotion("raise"):
            params = jax.eval_shape(case.model.init, case.key)
            jax.eval_shape(case.gradients, params, case.x)
            jax.eval_shape(case.evaluated, params, case.x)
    except Exception as error:
        fail("ranks are explicit", f"under rank promotion 'raise': {error}", error)


def works_without_jit(case: Case) -> None:
    """`jax.disable_jit` changes no value; derivatives are tried where the case has those of order 2."""
    with jax.disable_jit():
        if case.order > 1:
            actual = case.gradients(case.params, case.x)
        else:
            actual = dict(zip(("y", "state"), case.trained(case.params, case.x), strict=True))
    expected = {name: case.reference[name] for name in actual}
    near("works without jit", "disable_jit", actual, expected, max(case.tolerance, 1e-4))


def computes_no_nan(case: Case) -> None:
    """`jax.debug_nans` finds none, in results and gradients, and in the steps of eager calls."""
    law = "computes no NaN"
    try:
        with jax.debug_nans(True):
            jax.jit(case.gradients)(case.params, case.x)
            if case.order > 1:
                case.evaluated(case.params, case.x)
    except FloatingPointError as error:
        fail(law, f"{case.model.name} under debug_nans: {error}", error)


def half_precision_comes_in(case: Case) -> None:
    """x in float16 or bfloat16 with float32 parameters gives the same, to what x was rounded to."""
    law = "half precision comes in"

    def trained(params, x, dtype):
        return case.trained(params, cast_floating(x, dtype))[0]

    x = jax.tree.map(jnp.asarray, case.x)
    if not floats_of(x)[0]:
        return
    with jax.numpy_dtype_promotion("standard"):
        jax.eval_shape(lambda p, x: case.gradients(p, cast_floating(x, jnp.float16)), case.params, x)
        actual = jax.jit(partial(trained, dtype=jnp.bfloat16))(case.params, x)
    expected = case.reference["y"]
    near(law, "bfloat16 x", cast_floating(actual, jnp.float32), expected, 0.1)


def wide_arrays_come_in(case: Case) -> None:
    """x as NumPy's arrays of 64 bits is taken without a warning."""

    def wide(leaf):
        return np.asarray(leaf, {"f": np.float64, "i": np.int64}.get(np.asarray(leaf).dtype.kind))

    x = jax.tree.map(wide, case.x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            actual = jax.eval_shape(lambda params: case.evaluated(params, x), case.params)
        except Warning as warning:
            fail("wide arrays come in", f"{case.model.name} with float64 x: {warning}", warning)
    if leaf_types(actual) != leaf_types(jax.eval_shape(case.evaluated, case.params, case.x)):
        fail("wide arrays come in", f"{case.model.name}: other types, {leaf_types(actual)}")


def batches_may_be_empty(case: Case) -> None:
    """No examples: y is empty, and gradients of parameters are zero; or a refusal that says why."""
    law = "batches may be empty"
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:0], case.x)
    run = jax.jit(case.gradients) if case.order > 1 else partial(jax.eval_shape, case.gradients)
    try:
        actual = run(case.params, x)
    except Exception as error:
        if isinstance(error, NnfuncError):
            return
        fail(law, f"{case.model.name} raised {type(error).__name__}: {error}", error)
    for path, leaf in paths.flatten(actual["gradients"][0]).items() if case.order > 1 else ():
        if np.asarray(leaf).any() or np.isnan(leaf).any():
            fail(law, f"{case.model.name}: the gradient of {path} is not 0")


LAWS: tuple[Callable[[Case], None], ...] = (
    params_are_trainable_arrays,
    init_is_deterministic,
    no_key_no_randomness,
    errors_come_at_trace_time,
    nothing_leaks,
    plain_jax_works,
    leading_axes_are_free,
    numbers_trace,
    precision_is_a_wrapper,
    derivatives_are_right,
    ranks_are_explicit,
    works_without_jit,
    computes_no_nan,
    half_precision_comes_in,
    wide_arrays_come_in,
    batches_may_be_empty,
)


def _uses(function: Callable[..., PyTree], fixed: Any, numbers: Mapping[str, Any]) -> bool:
    """Whether the result of function(fixed, numbers) depends on the numbers, traced or plain."""

    def program(values: Any) -> Any:
        return jax.make_jaxpr(lambda fixed: function(fixed, values))(fixed)

    first, second = ({name: values[i] for name, values in numbers.items()} for i in range(2))
    try:
        one, other = program(first), program(second)
        traced = jax.make_jaxpr(partial(function, fixed))(jax.tree.map(jnp.asarray, first)).jaxpr
    except Exception:  # the law that calls the function reports it
        return True
    same = all(map(np.array_equal, one.consts, other.consts)) and str(one) == str(other)
    reached = {id(variable) for variable in traced.invars}
    for step in traced.eqns:
        if any(id(variable) in reached for variable in step.invars):
            reached |= {id(variable) for variable in step.outvars}
    return not same or any(id(variable) in reached for variable in traced.outvars)
