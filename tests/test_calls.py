"""Wrong calls of public functions name the function and the argument that was meant."""

import inspect
import pickle

import jax
import pytest
from helpers.public_names import public_functions

import nnfunc as nf
from nnfunc.calls import explain_call

FUNCTIONS = public_functions()


def test_an_unknown_argument_is_named():
    wrong = {}
    for name, function in FUNCTIONS.items():
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
            continue  # it takes any keyword
        try:
            function(no_such_argument=1)
            wrong[name] = "no error"
        except nf.errors.InvalidTypeError as error:
            text = f"{function.__name__}: there is no argument 'no_such_argument'"
            if not str(error).startswith(text) or f"Call it as {function.__name__}(" not in str(error):
                wrong[name] = str(error)
        except Exception as error:
            wrong[name] = repr(error)
    assert not wrong


def test_a_function_is_found_under_its_own_name():
    """Pickle looks for it there: the module that defines a function holds what users are given."""
    assert [name for name, f in FUNCTIONS.items() if pickle.loads(pickle.dumps(f)) is not f] == []


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: nf.linear(3, 2, use_bias=False), r"^linear: there is no argument 'use_bias'; did you mean 'bias'\?"),
        (lambda: nf.dropout(p=0.5), r"^dropout: there is no argument 'p'; did you mean 'rate'\?"),
        (lambda: nf.linear(3), r"^linear: it needs out_dim\. Call it as linear\(in_dim, out_dim, \.\.\.\)\.$"),
        (lambda: nf.linear(3, 2, 1), r"^linear: it should get at most 2 positional arguments, got 3\. Name the others"),
        (lambda: nf.linear(3, 2, out_dim=2), r"^linear: it got 'out_dim' twice"),
        (lambda: nf.linear(3, 2).init(), r"^linear\.init: it needs key\. Call it as linear\.init\(key\)\.$"),
        (lambda: nf.linear(3, 2).apply({}), r"^linear\.apply: it needs x\."),
        (
            lambda: nf.linear(3, 2).apply({}, 1, rng=1),
            r"^linear\.apply: there is no argument 'rng'; did you mean 'key'",
        ),
        (lambda: nf.optimizers.adam(lr=1e-3), r"^adam: there is no argument 'lr'; did you mean 'learning_rate'\?"),
    ],
)
def test_the_argument_that_was_meant_is_named(call, message):
    with pytest.raises(nf.errors.InvalidTypeError, match=message):
        call()


def test_an_error_lists_the_valid_names_once_and_no_empty_list(tmp_path):
    with pytest.raises(nf.errors.InvalidValueError, match=r"should be one of 'mse', .*, got 'l2'\.$"):
        nf.regression("l2")
    with pytest.raises(nf.errors.InvalidValueError, match=r"'mae', .*, got 'hubert'; did you mean 'huber'"):
        nf.regression("hubert")
    with pytest.raises(nf.errors.MissingFileError, match=r"none does not exist(\.$|; )") as error:
        nf.load_run(tmp_path / "none")
    assert "there are none" not in str(error.value)


def test_an_error_from_inside_is_left_alone():
    def inner(x):
        raise TypeError("of the user")

    with pytest.raises(TypeError, match=r"^of the user$") as caught:
        explain_call(inner)(1)
    assert not isinstance(caught.value, nf.errors.NnfuncError)


def test_a_wrapped_function_is_one_to_jax():
    twice = jax.jit(nf.activations.leaky_relu, static_argnames="slope")
    assert float(twice(-1.0, slope=0.5)) == -0.5
