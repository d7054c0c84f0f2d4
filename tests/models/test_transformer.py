"""Transformers against PyTorch (tests/golden/transformer.npz), one piece at a time, and by hand.

The golden numbers are float64, made with PyTorch 2.13 by scripts/golden/transformer.py from weights that `filled`
repeats; the tables of `nnfunc.interop` tell which of ours they are.
"""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import published_weights
from helpers.project import GOLDEN as GOLDEN_FILES
from helpers.published_weights import filled

import nnfunc as nf
from nnfunc.interop.families.bert_family import BERT, HEADS, body_rows
from nnfunc.interop.families.llama_family import EXPERT_ROWS
from nnfunc.interop.published_config import Family
from nnfunc.interop.registry import FAMILIES
from nnfunc.layers.attention.relative_bias import relative_bias

GOLDEN = np.load(GOLDEN_FILES / "transformer.npz")
SMALL = {"block_size": 7, "layers": 2, "heads": 2, "dim": 8}
IMAGE = {"image_size": (6, 4), "patch": 2, "in_dim": 2, "dim": 8}
CASES = {
    "gpt": nf.gpt(13, **SMALL),
    "gpt:plain": nf.gpt(13, **{**SMALL, "heads": 4}, bias=False, activation="gelu"),
    "llama": nf.llama(13, dim=16, layers=2, heads=4, kv_heads=2, hidden=12),
    "llama:base": nf.llama(13, dim=8, layers=1, heads=2, hidden=12, rotary_base=500.0, eps=1e-2),
    **{
        f"bert:{output}": nf.bert(13, **SMALL, hidden=12, output=output, classes=3)
        for output in ("hidden", "tokens", "classes")
    },
    "vit:class": nf.vit(3, **IMAGE, layers=2, heads=2, hidden=16),
    "vit:mean": nf.vit(3, **IMAGE, layers=1, heads=4, hidden=16, pool="mean"),
    "mixer": nf.mixer(3, **IMAGE, layers=2, token_hidden=5, channel_hidden=12),
    **{
        f"seq2seq:{order}": nf.seq2seq(13, dim=8, layers=2, heads=2, hidden=12, order=order)
        for order in ("pre", "post")
    },
    **{
        f"experts:{weighing}{k}": nf.mixture_of_experts(
            4, 6, 5, top_k=k, weighing=weighing, activation="swiglu", bias=False
        )
        for weighing, k in (("chosen", 2), ("all", 1), ("all", 3))
    },
}


def drawn(model):
    """Parameters of the model's shapes, without compiling anything."""
    made = nf.paths.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    leaves = {path: filled(path, leaf.shape).astype("f4") for path, leaf in made.items()}
    return jax.tree.map(jnp.asarray, nf.paths.unflatten(leaves))


def normal(*shape):
    return jnp.asarray(np.random.RandomState(0).standard_normal(shape), jnp.float32)


@functools.cache
def compiled(model):
    """apply(params, x), compiled once a kind of x."""
    return jax.jit(model.apply)


def shapes(case):
    """The published names and shapes of a case."""
    pairs = [entry.split() for entry in GOLDEN[f"{case}/names"]]
    return {name: tuple(map(int, shape.split(","))) for name, shape in pairs}


def inputs(case, dtype):
    """x as the model wants it, and what of y is looked at."""
    arrays = [GOLDEN[f"{case}/x{i}"] for i in range(3) if f"{case}/x{i}" in GOLDEN.files]
    kind = case.split(":")[0]
    if kind == "bert":
        mask = None if case == "bert:classes" else arrays[2][..., None]
        return nf.BertInput(*arrays), mask
    if kind == "seq2seq":
        return nf.Seq2SeqInput(arrays[0], arrays[1], source_mask=arrays[2]), None
    if kind in ("vit", "mixer"):
        return jnp.asarray(filled("x", (2, 6, 4, 2)), dtype), None
    if kind == "experts":
        return jnp.asarray(3 * filled("x", (7, 4)), dtype), None
    return arrays[0], None


MOE = "model.layers.{i}.block_sparse_moe."
EXPERTS = [(name.removeprefix(MOE), path.removeprefix("blocks/mlp/"), leaves) for name, path, leaves in EXPERT_ROWS]
TABLES = {
    "gpt": FAMILIES["nanogpt"],
    "llama": FAMILIES["llama"],
    # the script's BERT has no name for its body
    "bert": BERT._replace(
        rows=lambda arguments: [
            (name.removeprefix("bert."), *rest) for name, *rest in body_rows("bert") + HEADS[arguments["output"]]
        ]
    ),
    "vit": FAMILIES["timm-vit"],
    "mixer": FAMILIES["timm-mixer"],
    "seq2seq": FAMILIES["torch-transformer"],
    "experts": Family("experts", nf.mixture_of_experts, [], EXPERTS, {}),
}


def ours(case, state):
    return published_weights.ours(CASES[case], TABLES[case.split(":")[0]], state)[0]


@functools.cache
def value_and_gradients(case):
    """Compiled once a case and type: y, and the gradients of sum(y * dy) by params and floats of x."""
    model = CASES[case]
    inside = nf.capture(model, "router/*_loss") if case.startswith("experts") else None

    @jax.jit
    def run(params, x, dy, mask):
        def whole(params, floats):
            given = x if floats is None else floats
            if inside is None:
                y = model.apply(params, given)
                return y if mask is None else jnp.where(mask, y, 0)
            y, taps = inside(params, given)
            losses = [taps["router/balance_loss"], taps["router/z_loss"]]
            return jnp.concatenate([y.ravel(), jnp.stack(losses)])

        floats = None if isinstance(x, tuple) or x.dtype == jnp.int32 else x
        y, back = jax.vjp(whole, params, floats)
        return y, *back(dy)

    return run


def errors(case, dtype):
    """The largest error of y and of each gradient, as a share of the largest expected value."""
    state = {name: filled(name, shape) for name, shape in shapes(case).items()}
    sizes = np.cumsum([math.prod(shape) for shape in shapes(case).values()])[:-1]
    parts = np.split(GOLDEN[f"{case}/grads"], sizes)
    pairs = zip(shapes(case).items(), parts, strict=True)
    expected = ours(case, {name: part.reshape(shape) for (name, shape), part in pairs})
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), ours(case, state))
    x, mask = inputs(case, dtype)
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf, None if leaf.dtype == dtype else "int32"), x)
    y = GOLDEN[f"{case}/y"]
    mask = None if mask is None else jnp.asarray(mask, bool)
    got = value_and_gradients(case)(params, x, jnp.asarray(filled("dy", y.shape), dtype), mask)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(got))

    def error(got, expected):
        assert got.shape == expected.shape
        largest = max(np.abs(expected).max(), 1e-2 * np.abs(y).max())
        return float(np.abs(np.asarray(got, np.float64) - expected).max() / largest)

    found = {"y": error(got[0], y), "grads": jax.tree.map(error, got[1], expected)}
    return found | ({} if got[2] is None else {"x": error(got[2], GOLDEN[f"{case}/dx0"])})


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_pytorchs_in_float64(case):
    with jax.enable_x64(True):
        found = errors(case, jnp.float64)
    assert max(jax.tree.leaves(found)) < 1e-10, found


QUICK = ("gpt", "llama", "experts:chosen2")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in CASES])
def test_values_and_gradients_are_pytorchs_in_float32(case):
    found = errors(case, jnp.float32)
    assert max(jax.tree.leaves(found)) < 1e-4, found


@pytest.mark.parametrize("case", CASES)
def test_init_gives_the_published_parameters(case):
    state = {name: np.zeros(shape) for name, shape in shapes(case).items()}
    made = jax.eval_shape(CASES[case].init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(np.shape, ours(case, state))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}


# Generation: what comes token by token is what the whole sequence gives.

DECODERS = {
    "gpt": nf.gpt(13, **SMALL),
    "llama": nf.llama(13, dim=16, layers=2, heads=4, kv_heads=2, hidden=12, window=3.0),
    "experts": nf.gpt(13, **SMALL, mlp=nf.mixture_of_experts(8, 8, 4)),
}
IDS = jnp.asarray(np.random.RandomState(0).randint(0, 13, (2, 7)), jnp.int32)


def steps(model, params, pieces, cache):
    """The results for the pieces of a sequence, one after another through the cache."""
    run = jax.jit(model.forward)
    results, ctx = [], nf.Context(cache=cache)
    for piece in pieces:
        y, out = run(params, piece, ctx)
        results.append(y)
        ctx = replace(ctx, state=out.state)
    return jnp.concatenate(results, axis=1)


@pytest.mark.parametrize("name", DECODERS)
def test_token_by_token_is_the_full_pass(name):
    model = DECODERS[name]
    params = drawn(model)
    pieces = [IDS[:, :3], IDS[:, 3:4], IDS[:, 4:5], IDS[:, 5:7]]
    got = steps(model, params, pieces, cache=7)
    np.testing.assert_allclose(got, compiled(model)(params, IDS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_seq2seq_decodes_token_by_token_from_its_memory(order):
    model = CASES[f"seq2seq:{order}"]
    params, source = drawn(model), nf.Seq2SeqInput(IDS[:, :5], source_lengths=jnp.array([5, 2]))
    memory = compiled(model)(params, source)
    encoded = source._replace(source=None, memory=memory)
    pieces = [encoded._replace(target=IDS[:, i : i + 1]) for i in range(6)]
    whole = compiled(model)(params, source._replace(target=IDS[:, :6]))
    np.testing.assert_allclose(steps(model, params, pieces, cache=6), whole, rtol=1e-5, atol=1e-5)
    first = source._replace(target=IDS[:, :1])  # the source is longer than the cache
    begun = steps(model, params, [first, *pieces[1:3]], cache=3)
    np.testing.assert_allclose(begun, whole[:, :3], rtol=1e-5, atol=1e-5)


def test_seq2seq_does_not_look_at_padding_or_ahead():
    model = CASES["seq2seq:post"]
    params = drawn(model)
    x = nf.Seq2SeqInput(IDS[:, :5], IDS[:, :6], source_lengths=jnp.array([5, 2]))
    y = compiled(model)(params, x)
    mask = jnp.arange(5) < x.source_lengths[:, None]
    masked = nf.Seq2SeqInput(x.source, x.target, source_mask=mask)
    np.testing.assert_allclose(compiled(model)(params, masked), y, rtol=1e-6, atol=1e-6)
    other = x._replace(source=x.source.at[1, 2:].add(1), target=x.target.at[:, 4:].set(0))
    np.testing.assert_allclose(compiled(model)(params, other)[:, :4], y[:, :4], rtol=1e-6, atol=1e-6)
    assert not np.allclose(compiled(model)(params, x._replace(source=x.source + 1))[1], y[1])


def test_seq2seq_may_have_two_vocabularies_and_learned_positions():
    model = nf.seq2seq(13, dim=8, layers=1, heads=2, target_vocab_size=5, tied=False, block_size=6, norm="rms")
    params = drawn(model)
    assert params["encoder"]["tokens"]["weight"].shape == (13, 8)
    assert params["decoder"]["head"]["weight"].shape == (8, 5)
    assert params["decoder"]["positions"]["weight"].shape == (6, 8)
    x = nf.Seq2SeqInput(IDS[:, :6], IDS[:, :3] % 5)
    assert compiled(model)(params, x).shape == (2, 3, 5)


def test_seq2seq_without_a_decoder_is_its_encoder():
    model = nf.seq2seq(13, dim=8, layers=2, heads=2, hidden=12, order="pre", decoder_layers=0)
    whole = CASES["seq2seq:pre"]
    params, x = drawn(whole), nf.Seq2SeqInput(IDS[:, :5], source_lengths=jnp.array([5, 2]))
    memory = compiled(whole)(params, x)
    np.testing.assert_array_equal(compiled(model)({"encoder": params["encoder"]}, x), memory)
    with pytest.raises(ValueError, match=r"source alone, because decoder_layers is 0, got .*'target'"):
        jax.eval_shape(model.apply, drawn(model), x._replace(target=IDS))


@pytest.mark.parametrize(
    "x, words",
    [
        (
            {"source": IDS, "target": IDS},
            r"x should be an nf.Seq2SeqInput, got a dict with \['source', 'target'\]. Write nf.Seq2SeqInput\(",
        ),
        (IDS, r"x should be an nf.Seq2SeqInput, got an array of shape \(2, 7\)"),
        (nf.Seq2SeqInput(target=IDS), r"x should have source, .* got an nf.Seq2SeqInput with \['target'\]"),
        (nf.Seq2SeqInput(IDS.astype(jnp.float32), IDS), "source should hold integers, got float32"),
        (nf.Seq2SeqInput(IDS, IDS, source_mask=jnp.ones((2, 3))), "source_mask: .*, 7"),
        (nf.Seq2SeqInput(memory=jnp.ones((2, 3, 9)), target=IDS), r"should be 8 \(dim\)"),
    ],
)
def test_seq2seq_says_what_is_wrong_with_x(x, words):
    with pytest.raises((ValueError, TypeError), match=words):
        jax.eval_shape(CASES["seq2seq:pre"].apply, drawn(CASES["seq2seq:pre"]), x)


def test_seq2seq_tied_needs_one_vocabulary():
    with pytest.raises(ValueError, match=r"target_vocab_size should be .*, got 5. Set tied=False"):
        nf.seq2seq(13, dim=8, layers=1, heads=2, target_vocab_size=5)


# Depth: one program whatever the number of layers.


@pytest.mark.parametrize("name", ["gpt", "vit"])
def test_the_program_does_not_grow_with_depth(name):
    def instructions(layers):
        if name == "gpt":
            model, x = nf.gpt(13, **{**SMALL, "layers": layers}, dropout=0.1), IDS
        else:
            model, x = nf.vit(3, **IMAGE, layers=layers, heads=2), jnp.ones((2, 6, 4, 2))

        def loss(params, key):
            return jnp.sum(model.apply(params, x, key=key) ** 2)

        made = jax.eval_shape(model.init, jax.random.key(0))
        program = jax.jit(jax.grad(loss)).lower(made, jax.random.key(0))
        return program.as_text("hlo").count(" = ")

    assert instructions(2) == instructions(8)


# The block and the models, one piece at a time.


def parts():
    return nf.attention(8, 2), nf.feed_forward(8, 16)


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_block_is_its_formula(order, norm):
    attend, mlp = parts()
    block = nf.transformer_block(8, attend, mlp, order=order, norm=norm)
    params, x = drawn(block), normal(2, 5, 8)
    normed = nf.layer_norm(8) if norm == "layer" else nf.rms_norm(8)
    y = x
    for name, branch in (("attend", attend), ("mlp", mlp)):
        scale = functools.partial(normed.apply, params[f"{name}_norm"])
        if order == "pre":
            y = y + branch.apply(params[name], scale(y))
        else:
            y = scale(y + branch.apply(params[name], y))
    np.testing.assert_allclose(compiled(block)(params, x), y, rtol=1e-5, atol=1e-6)


def test_block_hands_masks_on_through_repeat():
    block = nf.transformer_block(8, *parts(), cross=nf.attention(8, 2, context_dim=6))
    stack = nf.repeat(block, 2)
    x = nf.TransformerInput(
        normal(2, 5, 8),
        lengths=jnp.array([5, 2]),
        context=normal(2, 4, 6),
        context_mask=jnp.ones((2, 5, 4), bool).at[1, :, 3].set(False),
    )
    params = drawn(stack)
    y = compiled(stack)(params, x)
    assert jax.tree.structure(y) == jax.tree.structure(x)
    np.testing.assert_array_equal(y.context, x.context)
    hidden = x._replace(context=x.context.at[1, 3].set(9.0))  # what is masked is not seen
    np.testing.assert_allclose(compiled(stack)(params, hidden).x, y.x, rtol=1e-6, atol=1e-6)
    short = x._replace(x=x.x.at[1, 3:].set(9.0))
    np.testing.assert_allclose(compiled(stack)(params, short).x[1, :2], y.x[1, :2], rtol=1e-5)


def test_block_drops_whole_branches(key):
    block = nf.transformer_block(8, *parts(), drop_path=1.0, dropout=0.5)
    params, x = drawn(block), normal(4, 5, 8)
    dropped = jax.jit(lambda params, x: block.apply(params, x, key=key))(params, x)
    np.testing.assert_array_equal(dropped, x)
    assert not np.allclose(compiled(block)(params, x), x)


def test_branches_draw_masks_of_their_own(key):
    """With dropout the two branches and the layers differ: no mask is used twice."""
    block = nf.transformer_block(8, jnp.ones_like, jnp.ones_like, dropout=0.5)
    stack = nf.repeat(block, 3)
    inside = jax.jit(nf.capture(stack, "*/*_drop"))
    _, taps = inside(drawn(stack), jnp.ones((4, 5, 8)), key=key)
    masks = np.concatenate([np.asarray(tap) for tap in taps.values()]).reshape(6, -1)
    assert len(np.unique(masks, axis=0)) == 6


@pytest.mark.parametrize(
    "x, words",
    [
        (
            {"x": jnp.ones((2, 5, 8)), "mask": jnp.ones(3)},
            r"x should be an array or an nf.TransformerInput, got a dict .* Write nf.TransformerInput\(x, mask=...",
        ),
        (nf.TransformerInput(jnp.ones((2, 5, 8)), context=jnp.ones((2, 4, 8))), "x should have no context"),
        (jnp.ones((2, 5, 7)), r"should be 8 \(dim\), got shape \(2, 5, 7\)"),
    ],
)
def test_block_says_what_is_wrong_with_x(x, words):
    block = nf.transformer_block(8, *parts())
    with pytest.raises((ValueError, TypeError), match=words):
        jax.eval_shape(block.apply, drawn(block), x)


def test_decoder_block_needs_a_context():
    block = nf.transformer_block(8, *parts(), cross=nf.attention(8, 2, context_dim=6))
    with pytest.raises(ValueError, match=r"should have a context for the layer cross, got none. Write nf.Trans"):
        jax.eval_shape(block.apply, drawn(block), jnp.ones((2, 5, 8)))


def test_block_needs_branches_that_keep_the_shape():
    block = nf.transformer_block(8, lambda x: x[..., :4], lambda x: x)
    with pytest.raises(ValueError, match=r"transformer_block: attend: .* should have the same shape"):
        jax.eval_shape(block.apply, drawn(block), jnp.ones((2, 5, 8)))


def test_feed_forward_by_hand():
    up = {"weight": jnp.array([[1.0, -1.0]]), "bias": jnp.array([0.0, 1.0])}
    down = {"weight": jnp.array([[2.0], [3.0]]), "bias": jnp.array([0.5])}
    plain = nf.feed_forward(1, 2, activation="relu")
    y = plain.apply({"up": up, "down": down}, jnp.array([[2.0], [-2.0]]))
    np.testing.assert_array_equal(y, [[4.5], [9.5]])  # 2 * 2 + 0.5, 3 * 3 + 0.5
    gate = {"weight": jnp.array([[1.0, 1.0]]), "bias": jnp.array([0.0, 5.0])}
    gated = nf.feed_forward(1, 2, activation="reglu")
    y = gated.apply({"up": up, "gate": gate, "down": down}, jnp.array([[2.0], [-2.0]]))
    np.testing.assert_array_equal(y, [[-12.5], [27.5]])  # 2*2*2 - 1*7*3 + .5, 0 + 3*3*3 + .5


@pytest.mark.parametrize("name", ["glu", "bilinear_glu", "reglu", "geglu", "swiglu"])
def test_gated_feed_forward_is_the_activation_of_both_halves(name):
    model = nf.feed_forward(4, 6, activation=name, bias=False)
    params, x = drawn(model), normal(3, 4)
    both = jnp.concatenate([x @ params[part]["weight"] for part in ("up", "gate")], axis=-1)
    expected = getattr(nf.activations, name)(both) @ params["down"]["weight"]
    np.testing.assert_allclose(compiled(model)(params, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "activation, kind, words",
    [
        ("swigul", ValueError, "did you mean 'swiglu'"),
        (nf.activations.swiglu, ValueError, "go by name: 'glu', .* 'swiglu'"),
        (3, TypeError, "activation should be a function x -> y or a name, got 3"),
    ],
)
def test_feed_forward_says_which_activation_is_wrong(activation, kind, words):
    with pytest.raises(kind, match=words):
        nf.feed_forward(4, 6, activation=activation)


def test_gpt_starts_as_gpt2_does(key):
    model = nf.gpt(65, block_size=64, layers=8, heads=4, dim=64)
    params = jax.jit(model.init)(key)
    leaves = nf.paths.flatten(params)
    assert "head/weight" not in leaves
    for path, leaf in leaves.items():
        if path.endswith(("out/weight", "down/weight")):
            assert float(leaf.std()) == pytest.approx(0.02 / 4, rel=0.05), path
        elif path.endswith("weight"):
            assert float(leaf.std()) == pytest.approx(0.02, rel=0.05), path
        else:
            np.testing.assert_array_equal(leaf, np.float32(path.endswith("scale")), path)
    logits = jax.jit(model.apply)(params, IDS)
    loss = nf.losses.cross_entropy(logits, IDS + 13).mean()
    assert float(loss) == pytest.approx(math.log(65), abs=0.1)


def test_gpt_untied_has_a_head_of_its_own():
    model = nf.gpt(13, **SMALL, tied=False)
    params = drawn(model)
    assert params["head"]["weight"].shape == (8, 13)
    tied = {**params, "head": {"weight": params["tokens"]["weight"].T}}
    without = {name: value for name, value in params.items() if name != "head"}
    expected = compiled(CASES["gpt"])(without, IDS)
    np.testing.assert_allclose(compiled(model)(tied, IDS), expected, rtol=1e-5, atol=1e-6)


def test_gpt_refuses_what_is_longer_than_its_block():
    with pytest.raises(ValueError, match=r"positions: .* at most 7, got 8"):
        jax.eval_shape(CASES["gpt"].apply, drawn(CASES["gpt"]), jnp.zeros((1, 8), jnp.int32))


def test_decoders_do_not_look_ahead():
    for model in DECODERS.values():
        params = drawn(model)
        y, other = (compiled(model)(params, ids) for ids in (IDS, IDS.at[:, 4:].set(0)))
        np.testing.assert_allclose(other[:, :4], y[:, :4], rtol=1e-5, atol=1e-6)


def test_experts_in_gpt_report_one_loss_a_layer():
    model = DECODERS["experts"]
    _, taps = jax.eval_shape(nf.capture(model, "**/router/*"), drawn(model), IDS)
    assert {path: tap.shape for path, tap in taps.items()} == {
        "blocks/*/mlp/router/balance_loss": (2,),
        "blocks/*/mlp/router/z_loss": (2,),
        "blocks/*/mlp/router/fraction": (2, 4),
    }


def test_bert_does_not_look_at_padding():
    model = CASES["bert:classes"]
    params, lengths = drawn(model), jnp.array([7, 3])
    y = compiled(model)(params, nf.BertInput(IDS, lengths=lengths))
    mask = jnp.arange(7) < lengths[:, None]
    np.testing.assert_allclose(compiled(model)(params, nf.BertInput(IDS, mask=mask)), y, rtol=1e-6)
    np.testing.assert_allclose(compiled(model)(params, IDS[1:, :3]), y[1:], rtol=1e-5, atol=1e-6)
    assert not np.allclose(compiled(model)(params, IDS)[1], y[1])


def test_bert_types_are_0_by_default():
    model = CASES["bert:hidden"]
    params = drawn(model)
    y = compiled(model)(params, IDS)
    np.testing.assert_array_equal(compiled(model)(params, nf.BertInput(IDS, 0 * IDS)), y)
    assert not np.allclose(compiled(model)(params, nf.BertInput(IDS, 0 * IDS + 1)), y)


@pytest.mark.parametrize(
    "x, words",
    [
        (
            {"ids": IDS, "types": IDS},
            r"x should be an array or an nf.BertInput, got a dict .* "
            r"Write nf.BertInput\(ids, types=..., mask=..., lengths=..., positions=...\)",
        ),
        (nf.BertInput(IDS, IDS[:, :3]), r"types \(2, 3\) and ids \(2, 7\)"),
        (nf.BertInput(IDS, mask=IDS[:, :3]), r"it should be \[..., 7\], .* got shape \(2, 3\)"),
    ],
)
def test_bert_says_what_is_wrong_with_x(x, words):
    with pytest.raises((ValueError, TypeError), match=words):
        jax.eval_shape(CASES["bert:hidden"].apply, drawn(CASES["bert:hidden"]), x)


@pytest.mark.parametrize("case", ["vit:class", "mixer"])
def test_image_models_say_which_size_they_want(case):
    words = r"x should be \[..., 6, 4, 2\], the image_size, got shape \(1, 4, 6, 2\). Resize"
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(CASES[case].apply, drawn(CASES[case]), jnp.ones((1, 4, 6, 2)))


def test_patches_should_cover_the_image():
    with pytest.raises(ValueError, match=r"vit: patches of \(5, 5\) .*, got image_size \(28, 28\)"):
        nf.vit(10, image_size=28, patch=5, dim=8, layers=1, heads=2)


def test_norms_differentiate_by_eps():
    """Their derivatives are written by hand: that by eps against a difference."""
    x = jnp.array([[1.0, 2.0, 4.0], [0.5, -1.0, 3.0]])
    for make in (nf.layer_norm, nf.rms_norm):
        value = lambda eps, make=make: jnp.sin(make(3, affine=False, eps=eps).apply({}, x)).sum()
        difference = (value(0.51) - value(0.49)) / 0.02
        assert float(jax.grad(value)(0.5)) == pytest.approx(float(difference), abs=1e-3)


def test_distances_have_the_buckets_of_t5():
    """8 buckets, 4 for later positions: 0 and 1 alone, then up to 3 and from 4 on, as log(4 / 2) / log(8 / 2) = 1 / 2."""
    layer = relative_bias(1, buckets=8, max_distance=8)
    params = {"weight": jnp.arange(8.0)[:, None]}
    bias = layer.apply(params, jnp.zeros((7, 3)))
    np.testing.assert_array_equal(bias[0, 0], [0, 5, 6, 6, 7, 7, 7])
    np.testing.assert_array_equal(bias[0, 6], [3, 3, 3, 2, 2, 1, 0])
    causal = relative_bias(1, buckets=4, max_distance=8, causal=True).apply(params, jnp.zeros((7, 3)))
    np.testing.assert_array_equal(causal[0, 6], bias[0, 6])
    np.testing.assert_array_equal(causal[0, 0], np.zeros(7))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tied": "table"}, "tied should be one of .* did you mean 'tables'"),
        ({"buckets": 6}, "buckets should be a multiple of 4, got 6"),
        ({"buckets": 8, "block_size": 4}, "block_size should be left out with buckets"),
        ({"buckets": 8, "max_distance": 2}, "max_distance should be above 2"),
    ],
)
def test_wrong_positions_and_tables_of_seq2seq_have_one_message(options, message):
    with pytest.raises(ValueError, match=message):
        nf.seq2seq(5, dim=4, layers=1, heads=1, **options)
