"""What decoders take beside ids, and numbers for each layer: what they compute, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.published_weights import filled

import nnfunc as nf
from nnfunc.generation import decode, prefill

IDS = jnp.arange(10, dtype=jnp.int32).reshape(2, 5) % 7
SIZES = {"dim": 8, "layers": 2, "heads": 2}


def drawn(model):
    leaves = nf.paths.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    return nf.paths.unflatten(
        {path: jnp.asarray(filled(path, leaf.shape), jnp.float32) for path, leaf in leaves.items()}
    )


def near(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_padding_changes_nothing_wherever_it_is(name):
    model = nf.gpt(7, block_size=8, **SIZES) if name == "gpt" else nf.llama(7, **SIZES)
    params, apply = drawn(model), jax.jit(model.apply)
    alone = apply(params, IDS[:, :3])
    right = apply(params, nf.TokenInput(IDS, lengths=jnp.array([3, 3])))
    near(right[:, :3], alone)
    padded = jnp.concatenate([jnp.full((2, 2), 6, jnp.int32), IDS[:, :3]], axis=1)
    mask = jnp.arange(5) >= jnp.array([[2], [2]])
    left = apply(params, nf.TokenInput(padded, mask=mask, positions=jnp.maximum(mask.cumsum(-1) - 1, 0)))
    near(left[:, 2:], alone)
    if name == "gpt":  # rotary positions are relative: only learned ones depend on where the sequence begins
        assert not np.allclose(apply(params, nf.TokenInput(padded, mask=mask))[:, 2:], alone, atol=1e-3)


@pytest.mark.parametrize("end", [6, None])
def test_the_end_token_of_clip_is_not_in_the_padding(end):
    """CLIP's tokenizer pads with the end token."""
    model = nf.clip_text(7, block_size=8, **SIZES, out_dim=3, end=end)
    params, apply = drawn(model), jax.jit(model.apply)
    ids, padding = jnp.array([[1, 6, 2], [3, 4, 6]], jnp.int32), jnp.full((2, 2), 6, jnp.int32)
    alone = apply(params, ids)
    near(apply(params, nf.TokenInput(jnp.concatenate([ids, padding], axis=1), lengths=jnp.array([3, 3]))), alone)
    x, mask = jnp.concatenate([padding, ids], axis=1), jnp.arange(5) >= jnp.array([[2], [2]])
    near(apply(params, nf.TokenInput(x, mask=mask, positions=jnp.maximum(mask.cumsum(-1) - 1, 0))), alone)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_classes_are_those_of_the_last_token(name):
    def make(**options):
        return nf.gpt(7, block_size=8, **SIZES, **options) if name == "gpt" else nf.llama(7, **SIZES, **options)

    model, body = make(output="classes", classes=3, padding_index=6, tied=True), make(output="hidden", tied=True)
    params, apply = drawn(model), jax.jit(model.apply)
    head, inner = params["head"]["weight"], {path: leaf for path, leaf in params.items() if path != "head"}
    states = jax.jit(body.apply)(inner, IDS)
    near(apply(params, IDS), states[:, 4] @ head)
    near(apply(params, nf.TokenInput(IDS, lengths=jnp.array([3, 5]))), states[[0, 1], [2, 4]] @ head)
    near(apply(params, IDS.at[:, 3:].set(6)), states[:, 2] @ head)  # the id of padding, which may be inside, too
    mask = jnp.arange(5) < jnp.array([[3], [5]])
    near(apply(params, nf.TokenInput(IDS, mask=mask)), states[[0, 1], [2, 4]] @ head)
    tokens = make(output="token_classes", classes=3)
    logits = jax.jit(tokens.apply)(inner | {"head": {"weight": head, "bias": jnp.arange(3.0)}}, IDS)
    near(logits, states @ head + jnp.arange(3.0))


def test_rotary_positions_are_those_that_are_given():
    slow = nf.llama(7, **SIZES, rotary_scaling={"name": "linear", "factor": 3.0})
    params = drawn(slow)
    x = nf.TokenInput(IDS, positions=jnp.broadcast_to(3 * jnp.arange(5, dtype=jnp.int32), (2, 5)))
    near(jax.jit(slow.apply)(params, x), jax.jit(nf.llama(7, **SIZES).apply)(params, IDS))


def test_windows_and_bases_belong_to_their_layers():
    both = nf.llama(7, **SIZES, windows=[2.0, np.inf], rotary_bases=[1e4, 50.0])
    params = drawn(both)
    y = jax.jit(nf.capture(both, "blocks/*"))(params, IDS)[1]["blocks/*"]
    first = nf.llama(7, **SIZES, window=2.0)
    np.testing.assert_array_equal(y[0], jax.jit(nf.capture(first, "blocks/*"))(params, IDS)[1]["blocks/*"][0])
    for other in ({"windows": [2.0, 2.0], "rotary_bases": [1e4, 50.0]}, {"windows": [2.0, np.inf]}):
        values = jax.jit(nf.capture(nf.llama(7, **SIZES, **other), "blocks/*"))(params, IDS)[1]["blocks/*"]
        np.testing.assert_array_equal(values[0], y[0])
        assert not np.allclose(values[1], y[1], atol=1e-3)


def test_a_cache_knows_the_window_of_each_layer():
    model = nf.llama(7, **SIZES, windows=[2.0, np.inf], rotary_scaling={"name": "yarn", "factor": 4.0, "length": 4})
    params = drawn(model)
    y, state = prefill(model, params, IDS[:, :2], 5)
    parts = [y]
    for t in range(2, 5):
        y, state = decode(model, params, IDS[:, t : t + 1], state, 5)
        parts.append(y)
    near(jnp.concatenate(parts, axis=1), model.apply(params, IDS))


@pytest.mark.parametrize(
    "scaling, message",
    [
        ({"factor": 4.0}, "rotary_scaling should be a table with a name"),
        ({"name": "yarm"}, "rotary_scaling should be one of .*, got 'yarm'; did you mean 'yarn'"),
        ({"name": "linear"}, "rotary_scaling 'linear' needs 'factor'"),
        ({"name": "linear", "factor": 0.0}, "factor should be above 0, got 0.0"),
        ({"name": "linear", "factor": 2.0, "lenght": 3}, "rotary_scaling 'linear' has no 'lenght'"),
        (
            {"name": "longrope", "factor": 2.0, "length": 4, "short": [1.0], "long": [1.0, 2.0]},
            "short should have 2 numbers, got 1",
        ),
    ],
)
def test_wrong_scalings_are_refused_by_name(scaling, message):
    with pytest.raises((ValueError, TypeError), match=message):
        nf.llama(7, **SIZES, rotary_scaling=scaling)


@pytest.mark.parametrize(
    "model, x, message",
    [
        (nf.llama(7, **SIZES), nf.TokenInput(IDS, mask=jnp.ones((2, 4))), r"mask: it should be \[..., 5\], true where"),
        (
            nf.llama(7, **SIZES),
            nf.TokenInput(IDS, positions=IDS[:1]),
            "llama: positions and ids should have the same shape",
        ),
        (
            nf.gpt(7, block_size=8, **SIZES),
            nf.TokenInput(IDS, positions=IDS.astype(jnp.float32)),
            "gpt: positions should hold integers",
        ),
        (
            nf.llama(7, **SIZES, windows=[2.0]),
            IDS,
            "windows should have a number for each layer .* got 1 numbers for 2",
        ),
        (
            nf.attention(8, 2, causal=True, windows=[2.0]),
            jnp.ones((2, 3, 8)),
            "windows should have a number for each layer .* got 1 numbers for no layers",
        ),
        (nf.bert(7, block_size=8, types=0, **SIZES), nf.BertInput(IDS, IDS % 2), "x should have no types, because"),
    ],
)
def test_wrong_inputs_are_refused_by_name(model, x, message):
    params = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises((ValueError, TypeError), match=message):
        jax.eval_shape(model.apply, params, x)


def test_a_sequence_that_is_generated_has_no_padding():
    model = nf.llama(7, **SIZES)
    with pytest.raises(
        ValueError, match=r"a sequence that is generated should have no padding, got .* See nf.generate"
    ):
        prefill(model, drawn(model), nf.TokenInput(IDS, lengths=jnp.array([5, 3])), 8)
