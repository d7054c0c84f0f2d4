"""Every law of the design over every row of the roster, and the roster against the public names."""

import gc
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import roster
from helpers.quick_keys import quick_key

import nnfunc as nf
from nnfunc import testing
from nnfunc.testing import comparing


@pytest.fixture(autouse=True)
def _only_new_objects():
    """JAX looks for leaks among all objects that Python's collector knows: leave out older ones."""
    gc.freeze()
    yield
    gc.unfreeze()


LAWS = {law.__name__: law for law in testing.LAWS}
LONG = (
    "derivatives_are_right",
    "nothing_leaks",
    "plain_jax_works",
    "precision_is_a_wrapper",
    "works_without_jit",
    "computes_no_nan",
    "half_precision_comes_in",
    "batches_may_be_empty",
)


def beside(names):
    """The activations of these names side by side, as one model; numbers are called elu__alpha."""

    def make(**numbers):
        children = {}
        for name in names:
            own = {n.split("__")[1]: v for n, v in numbers.items() if n.split("__")[0] == name}
            children[name] = partial(getattr(nf.activations, name), **own)
        return nf.parallel(**children)

    return make


@cache
def case(name):
    if name.startswith("activations"):
        gated = name.endswith("gated")
        own = {n: row for n, row in roster.ACTIVATIONS.items() if row.any_width is not gated}
        numbers = {f"{n}__{arg}": v for n, row in own.items() for arg, v in row.numbers.items()}
        make = beside(list(own))
        return testing.Case(make, roster.X, numbers, quick_key(1), not gated, at_once=True)
    row, factory = roster.MODELS[name], roster.factory(name)

    def make(**numbers):
        if name == "flatten":
            return nf.as_model(factory)
        return factory(*row.args, **row.kwargs, **numbers)

    names = ("any_width", "leading_axes", "smooth", "tolerance", "order")
    own = {name: getattr(row, name) for name in names}
    return testing.Case(make, row.x, row.numbers, quick_key(row.seed), at_once=True, **own)


@pytest.mark.parametrize("law", [pytest.param(law, marks=[pytest.mark.slow] * (law in LONG)) for law in LAWS])
@pytest.mark.parametrize("name", [*roster.MODELS, "activations", "activations:gated"])
def test_model(name, law):
    if name in roster.MODELS and law in roster.MODELS[name].without:
        return  # the row says why
    LAWS[law](case(name))


def called(name, *args, **numbers):
    row = roster.FUNCTIONS[name]
    return row.then(roster.factory(name)(*(args or row.args), **row.kwargs, **numbers))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in roster.FUNCTIONS.items() if row.numbers])
def test_function_takes_traced_numbers(name):
    row = roster.FUNCTIONS[name]
    arrays, join = split(row.args)
    testing.check_numbers(lambda arrays, **numbers: called(name, *join(arrays), **numbers), row.numbers, arrays)


@pytest.mark.slow
@pytest.mark.parametrize("name", roster.FUNCTIONS)
def test_function_leaks_nothing_and_is_the_same_under_jit(name):
    row = roster.FUNCTIONS[name]
    first = {number: values[0] for number, values in row.numbers.items()}
    arrays, join = split(row.args)

    def run(arrays):
        return called(name, *join(arrays), **first)

    with jax.checking_leaks():
        shapes = jax.eval_shape(run, arrays)
    if row.numbers:
        return  # values are compared where its numbers are traced
    eager, jitted = run(arrays), jax.jit(run)(arrays)
    comparing.near("jit equals eager", name, jitted, eager)
    assert comparing.leaf_types(shapes) == comparing.leaf_types(eager)


@pytest.mark.parametrize("name", roster.FUNCTIONS)
def test_function_names_its_ranks(name):
    row = roster.FUNCTIONS[name]
    first = {number: values[0] for number, values in row.numbers.items()}
    arrays, join = split(row.args)
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda arrays: called(name, *join(arrays), **first), arrays)


@pytest.mark.slow
@pytest.mark.parametrize("name", roster.FUNCTIONS)
def test_function_works_without_jit_and_computes_no_nan(name):
    row = roster.FUNCTIONS[name]
    first = {number: values[0] for number, values in row.numbers.items()}
    with jax.disable_jit():
        called(name, **first)
    with jax.debug_nans(True):  # both at once stop in JAX's own random.beta
        called(name, **first)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, row in roster.FUNCTIONS.items() if row.differentiate])
def test_function_has_the_gradients_of_finite_differences(name):
    row = roster.FUNCTIONS[name]
    arrays, join = split(row.args)
    first = {number: values[0] for number, values in row.numbers.items()}
    testing.check_gradients(lambda arrays: called(name, *join(arrays), **first), arrays)


def split(args):
    """The arrays among the leaves of args, and the function that puts them back."""
    leaves, treedef = jax.tree.flatten(args)
    arrays = [leaf if hasattr(leaf, "dtype") else None for leaf in leaves]

    def join(arrays):
        pairs = zip(leaves, arrays, strict=True)
        return jax.tree.unflatten(treedef, [leaf if new is None else new for leaf, new in pairs])

    return arrays, join


def test_every_public_name_has_a_row():
    names = {name.partition(":")[0] for name, _ in roster.rows()}
    missing = sorted(set(roster.public()) - names - set(roster.NOT_FACTORIES))
    assert not missing, f"give a row in tests/helpers/roster to {', '.join(missing)}"


def test_every_row_has_a_public_name():
    names = {name.partition(":")[0] for name, _ in roster.rows()} | set(roster.NOT_FACTORIES)
    gone = sorted(names - set(roster.public()))
    assert not gone, f"these rows of tests/helpers/roster name nothing public: {', '.join(gone)}"


def test_no_name_is_both_tested_and_excused():
    names = {name.partition(":")[0] for name, _ in roster.rows()}
    assert not names & set(roster.NOT_FACTORIES)


def test_every_number_has_two_values():
    given = {}
    for name, row in roster.rows():
        given.setdefault(name.partition(":")[0], set()).update(row.numbers)
        for number, (one, other) in row.numbers.items():
            assert one != other, f"{name}: {number} has one value twice"
    wanted = {name: set(roster.scalars(roster.factory(name))) for name in given}
    missing = {name: sorted(wanted[name] - given[name]) for name in given if wanted[name] - given[name]}
    assert not missing, f"Scalar arguments without values in tests/helpers/roster: {missing}"
    extra = {name: sorted(given[name] - wanted[name]) for name in given if given[name] - wanted[name]}
    assert not extra, f"arguments with values that are not annotated Scalar: {extra}"


def test_reader_of_annotations():
    def function(
        a: nf.base.Scalar,
        b: nf.base.Scalar | None,
        c: int,
        d: tuple[nf.base.Scalar, ...],
        e: nf.base.Array,
        f: nf.base.Scalar | nf.base.Schedule,
    ):
        pass

    assert roster.scalars(function) == ["a", "b", "d", "f"]


# Layers that break one law each: the law must say so, by name.

X = roster.X


def broken(law, make, words, **settings):
    with pytest.raises(AssertionError, match=words):
        LAWS[law](testing.Case(make, settings.pop("x", X), **settings))


def plain(apply, init=lambda key: {}, **kwargs):
    return nf.Model(init, apply, **kwargs)


def test_a_branch_on_a_number_is_found():
    def make(rate):
        return plain(lambda params, x: x * rate if rate > 0 else x)

    broken(
        "numbers_trace",
        make,
        "every number may be traced: with rate traced it raised Tracer",
        numbers={"rate": (0.1, 0.2)},
    )


def test_a_number_that_is_lost_is_found():
    def make(rate):
        seen = rate if isinstance(rate, float) else 0.1
        return plain(lambda params, x: x * seen)

    broken("numbers_trace", make, r"vmap over rate .*: gradients/1/0\[0, \d\] is", numbers={"rate": (0.1, 0.2)})


def test_a_number_that_is_lost_in_init_is_found():
    def make(size):
        seen = size if isinstance(size, float) else 0.1
        return plain(lambda p, x: x + p["shift"], lambda key: {"shift": jnp.full(6, seen, jnp.float32)})

    broken("numbers_trace", make, r"vmap over size .* is 0.1, expected 0.2", numbers={"size": (0.1, 0.2)})


def test_one_lost_number_of_two_is_found_when_they_move_at_once():
    def make(rate, size):
        seen = rate if isinstance(rate, float) else 0.1
        return plain(lambda p, x: x * seen + p["shift"], lambda key: {"shift": jnp.full(6, size, jnp.float32)})

    broken(
        "numbers_trace",
        make,
        "vmap over rate and size .*: gradients/1/0",
        numbers={"rate": (0.1, 0.2), "size": (0.1, 0.2)},
        at_once=True,
    )


def test_hidden_randomness_is_found():
    def make():
        return plain(lambda params, x: x + jax.random.normal(jax.random.key(0), x.shape))

    broken("no_key_no_randomness", make, "no key, no randomness: .* without a key")


@pytest.mark.parametrize(
    "params, words",
    [
        ({"count": jnp.zeros((), jnp.int32)}, "count should hold floats, got int32"),
        ({"a/b": jnp.zeros(2)}, "'a/b' cannot be part of a path"),
        ({"below": {}}, "below is an empty dict"),
        ({"list": [jnp.zeros(2)]}, "list should be an array or a dict"),
        ({"weak": jnp.full(2, 1.0)}, "weak is weakly typed"),
    ],
)
def test_params_of_another_kind_are_found(params, words):
    broken("params_are_trainable_arrays", lambda: plain(lambda p, x: x, lambda key: params), words)


def test_state_that_changes_its_type_is_found():
    def forward(params, x, ctx):
        return x, nf.Out({"count": ctx.state["count"].astype(jnp.bfloat16)})

    def make():
        state = lambda: {"count": jnp.zeros(())}
        return nf.Model(lambda key: {}, forward=forward, init_state=state)

    broken("params_are_trainable_arrays", make, "the state should keep its dtypes and shapes")


def test_init_with_a_source_of_its_own_is_found():
    source = np.random.default_rng(0)

    def make():
        return plain(lambda p, x: x, lambda key: {"w": jnp.asarray(source.normal(), jnp.float32)})

    broken("init_is_deterministic", make, "init twice")


def test_a_count_kept_in_python_is_found():
    calls = []

    def apply(params, x):
        calls.append(None)
        return x * len(calls)

    broken("plain_jax_works", lambda: plain(apply), "plain JAX works")


def test_a_wrong_derivative_is_found():
    @jax.custom_jvp
    def square(x):
        return x * x

    square.defjvp(lambda primals, tangents: (square(*primals), primals[0] * tangents[0]))
    broken("derivatives_are_right", lambda: plain(lambda p, x: square(x)), "forward mode against")


def test_a_derivative_without_forward_mode_is_found():
    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))
    with pytest.raises(TypeError, match="forward-mode"):
        LAWS["derivatives_are_right"](testing.Case(lambda: plain(lambda p, x: square(x)), X))


@pytest.mark.slow  # JAX takes its time to say who holds the tracer
def test_a_leaked_tracer_is_found():
    kept = []

    def apply(params, x):
        kept.append(x * 2)
        return x

    broken("nothing_leaks", lambda: plain(apply), "nothing leaks a tracer")


def test_a_layer_that_mixes_examples_is_found():
    make = lambda: plain(lambda p, x: x - x[0])
    broken("leading_axes_are_free", make, "leading axes are free")


def test_an_error_of_jax_itself_is_found():
    weight = jnp.ones((6, 2))
    make = lambda: plain(lambda p, x: x @ weight)
    broken("errors_come_at_trace_time", make, "a wrong last axis of x raised TypeError without")
    make = lambda: plain(lambda p, x: 2 * x)
    broken("errors_come_at_trace_time", make, "takes an x of a wrong last axis")


def test_a_type_of_its_own_is_found():
    weight = jnp.ones((6, 2))
    make = lambda: plain(lambda p, x: x @ weight)
    broken("precision_is_a_wrapper", make, "in bfloat16 it raised")


def test_check_model_is_one_line_for_a_layer_of_ones_own():
    def shift(dim, size):
        def apply(params, x):
            nf.check.last_axis("shift", x, dim=dim)
            return x + params["shift"]

        return nf.Model(lambda key: {"shift": jnp.full(dim, size, jnp.float32)}, apply)

    testing.check_model(lambda size: shift(6, size), X, numbers={"size": (0.1, 0.4)})
    with pytest.raises(AssertionError, match=re.escape("errors come at trace time")):
        testing.check_model(lambda: plain(lambda p, x: jnp.sin(x)), X)


def test_check_gradients_finds_a_wrong_second_derivative():
    @jax.custom_jvp
    def cube(x):
        return x**3

    cube.defjvp(lambda p, t: (cube(*p), jax.lax.stop_gradient(3 * p[0] ** 2) * t[0]))
    testing.check_gradients(cube, X, order=1)
    with pytest.raises(AssertionError, match="second derivative"):
        testing.check_gradients(cube, X)


def test_check_model_reports_every_law_at_once():
    def make():
        return nf.Model(
            lambda key: {"count": 1}, lambda params, x: jax.random.normal(jax.random.key(0), x.shape) * x.mean()
        )

    with pytest.raises(AssertionError, match=r"laws failed") as caught:
        testing.check_model(make, X, all=True, order=1)
    laws = [line.split(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert "params_are_trainable_arrays" in laws
    assert "leading_axes_are_free" in laws
    with pytest.raises(AssertionError) as first:
        testing.check_model(make, X, order=1, skip=["numbers_trace"])
    assert "laws failed" not in str(first.value)


def test_check_model_skips_laws_by_name():
    def rounding():
        return nf.as_model(lambda x: jnp.round(x) + x)

    testing.check_model(rounding, X, any_width=True, skip=["derivatives_are_right"])
    with pytest.raises(ValueError, match=r"there is no law 'derivatives'"):
        testing.check_model(rounding, X, skip=["derivatives"])


def test_check_model_asks_for_a_function_that_returns_the_model():
    with pytest.raises(TypeError, match=r"check_model: make should be a function .* Write lambda: model\."):
        testing.check_model(nf.linear(3, 2), jnp.ones((2, 3)))
