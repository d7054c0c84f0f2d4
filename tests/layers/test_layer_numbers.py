"""Numbers that layers get in the wild: NaN in padding, 1e20, ids beyond int32, half precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf

KEY = jax.random.key(0)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def near(one, other, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# lp_pool: each window by its own largest value


@jax.jit
def pooled(x, p):
    def run(x):
        return nf.lp_pool((2, 3), stride=1, p=p, padding=1).apply({}, x)

    y, pull = jax.vjp(run, x)
    return y, pull(jnp.ones_like(y))[0]


@pytest.mark.parametrize("p", [1.0, 2.0, 16.0])
def test_lp_pool_is_the_same_whatever_the_size_of_the_rest(p):
    image = noise(4, 5, 1)
    alone, slope = pooled(image[None], p)
    for other in (1e12, np.inf, 0.0):
        together, slopes = pooled(np.stack([image, np.full_like(image, other)]), p)
        near((together[0], slopes[0]), (alone[0], slope[0]), 1e-6)
    small, slopes = pooled(image[None] * np.float32(2.0**-60), p)
    near((small * 2.0**60, slopes), (alone, slope), 1e-5)


def test_lp_pool_by_hand():
    x = np.array([[3.0, 4.0, 0.0, 0.0, np.inf, 1.0]], np.float32)[..., None]
    y, pull = jax.vjp(lambda x: nf.lp_pool((1, 2)).apply({}, x), x)
    assert y.ravel().tolist() == [5.0, 0.0, np.inf]
    slope = pull(jnp.array([[[1.0], [1.0], [0.0]]]))[0]
    near(slope.ravel()[:4], np.array([0.6, 0.8, 0.0, 0.0]))


# attention: what is excluded is not looked at

EXCLUDED = {
    "lengths": {"lengths": np.array([3, 3])},
    "mask": {"mask": np.arange(5)[None] < np.array([[1], [2], [3], [3]])},
    "causal lengths": {"causal": True, "start": 0, "lengths": np.array([4, 5])},
    "window": {"window": 1, "start": 0},
}


@partial(jax.jit, static_argnames=("implementation", "causal", "window", "start"))
def attended(q, k, v, **options):
    def run(q, k, v):
        y = nf.attend(q, k, v, **options)
        return jnp.sin(y[:, :3]).sum(), y

    (_, y), slopes = jax.value_and_grad(run, (0, 1, 2), has_aux=True)(q, k, v)
    return y, slopes


@pytest.mark.parametrize("implementation", ["plain", "xla"])
@pytest.mark.parametrize("how", EXCLUDED)
def test_nan_at_excluded_positions_reaches_no_gradient(how, implementation):
    q, k, v = noise(2, 4, 4, 3), noise(2, 5, 2, 3, seed=1), noise(2, 5, 2, 3, seed=2)
    options = {"implementation": implementation, **EXCLUDED[how]}
    y, slopes = attended(q, k, v, **options)
    for bad in (np.nan, np.inf):
        dirty_k, dirty_v = k.copy(), v.copy()
        dirty_k[:, 3:], dirty_v[:, 3:, 0] = bad, bad
        got, dirty_slopes = attended(q, dirty_k, dirty_v, **options)
        near((got[:, :3], dirty_slopes), (y[:, :3], slopes), 1e-6)
    if how in ("causal lengths", "window"):  # the last query does look at place 3
        assert np.isnan(got[:, 3]).all()


def test_a_nan_of_one_head_stays_there():
    q, k, v = noise(1, 2, 2, 3), noise(1, 2, 2, 3, seed=1), noise(1, 2, 2, 3, seed=2)
    v[:, 0, 1] = np.nan
    y, _ = attended(q, k, v, lengths=np.array([2]))
    assert np.isfinite(y[:, :, 0]).all()
    assert np.isnan(y[:, :, 1]).all()


def dirty_padding(model, make, real):
    """Results of the real places, and gradients of them, with clean and with dirty padding."""
    params = model.init(KEY)

    @jax.jit
    def run(params, x):
        return jax.value_and_grad(lambda p: jnp.sin(real(model.apply(p, x))).sum())(params)

    clean, dirty = (run(params, make(bad)) for bad in (False, True))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(dirty))
    near(dirty, clean)


KNOWN = {"mask": np.array([[True, True, True], [True, True, False]]), "lengths": np.array([3, 2], np.int32)}


@pytest.mark.parametrize("how", KNOWN)
def test_attention_and_blocks_do_not_look_at_dirty_padding(how):
    def make(bad):
        x = noise(2, 3, 4)
        x[1, 2] = np.nan if bad else 0.0
        about = KNOWN[how][:, None, :] if how == "mask" else KNOWN[how]
        return x, {how: about}

    def attention_input(bad):
        x, padding = make(bad)
        return nf.AttentionInput(x, **padding)

    def block_input(bad):
        x, padding = make(bad)
        return nf.TransformerInput(x, **padding)

    block = nf.transformer_block(4, nf.attention(4, 2), nf.feed_forward(4, 6))
    real = lambda y: jnp.concatenate([y[0], y[1, :2]])
    dirty_padding(nf.attention(4, 2), attention_input, real)
    dirty_padding(nf.serial(block, lambda x: x.x), block_input, real)


def test_cross_attention_does_not_look_at_dirty_padding():
    def make(bad):
        context = noise(2, 3, 5)
        context[1, 2] = np.inf if bad else 0.0
        return nf.AttentionInput(noise(2, 2, 4), context, lengths=KNOWN["lengths"])

    dirty_padding(nf.attention(4, 2, context_dim=5), make, lambda y: y)


@pytest.mark.parametrize("how", KNOWN)
def test_models_of_text_do_not_look_at_ids_of_the_padding(how):
    def ids(bad):
        return np.array([[1, 2, 3], [1, 2, -1 if bad else 0]])

    sizes = {"layers": 1, "heads": 2, "dim": 4}
    bert = nf.bert(5, block_size=3, output="classes", **sizes)
    dirty_padding(bert, lambda bad: nf.BertInput(ids(bad), **{how: KNOWN[how]}), lambda y: y)
    both = nf.seq2seq(5, **sizes)
    padding = {f"source_{how}": KNOWN[how]}
    dirty_padding(both, lambda bad: nf.Seq2SeqInput(ids(bad), ids(False), **padding), lambda y: y)


# norms: 1e20 and 1e-25 are numbers as others

NORMS = {
    "layer": nf.layer_norm(4, eps=0.0),
    "rms": nf.rms_norm(4, eps=0.0),
    "group": nf.group_norm(2, 4, eps=0.0),
    "instance": nf.instance_norm(4, eps=0.0),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_take_very_large_and_very_small_numbers(name):
    model, x = NORMS[name], noise(2, 3, 4)
    params = model.init(KEY)

    @jax.jit
    def run(x):
        y, pull = jax.vjp(lambda x: model.apply(params, x), x)
        return y, pull(jnp.sin(y))[0]

    y, slope = run(x)
    for size in (2.0**67, 2.0**-83, 1e30):  # 1.5e20, 1e-25
        got, slopes = run(x * np.float32(size))
        near((got, slopes * size), (y, slope), 2e-5)


def test_batch_norm_in_training_takes_very_large_numbers():
    model, x = nf.batch_norm(3), noise(8, 3)
    ctx = nf.Context(train=True, state=model.init_state())
    run = jax.jit(lambda x: model.forward(model.init(KEY), x, ctx))
    (y, _), (got, out) = run(x), run(x * np.float32(1e20))
    near(got, y, 1e-4)
    assert np.isinf(out.state["var"]).all()  # which float32 cannot hold


# ids and other integers beyond int32


@pytest.mark.parametrize("bad", [np.int64(2**32 + 1), np.uint64(2**32 + 1), np.int64(-(2**32) + 1)])
def test_ids_beyond_int32_are_no_ids(bad):
    ids = np.array([[1, bad]], bad.dtype)
    sizes = {"block_size": 4, "layers": 1, "heads": 2, "dim": 4}
    for model in (nf.embedding(5, 2), nf.gpt(5, **sizes), nf.bert(5, **sizes)):
        y = model.apply(model.init(KEY), ids)
        assert np.isnan(y[0, 1]).all()
    model = nf.gpt(5, **sizes)
    for prompt in (ids, ids[0], ids.tolist(), [ids[0], ids[0, :1]]):
        with pytest.raises(ValueError, match=r"generate: prompt should have ids in \[0, 5\)"):
            nf.generate(model, model.init(KEY), prompt, 1, verify=False)


def test_lengths_and_starts_beyond_int32_are_refused():
    x, lengths = noise(1, 3, 4), np.array([2**32 + 1])
    padded = {nf.attention(4, 2): nf.AttentionInput(x, lengths=lengths), nf.lstm(4, 3): nf.RecurrentInput(x, lengths)}
    for model, inputs in padded.items():
        with pytest.raises(ValueError, match="lengths should be from 0 to 3"):
            model.apply(model.init(KEY), inputs)
    bert = nf.bert(5, block_size=3, layers=2, heads=2, dim=4)
    with pytest.raises(ValueError, match="lengths should be from 0 to 3"):
        bert.apply(bert.init(KEY), nf.BertInput(np.array([[1, 2, 3]]), lengths=lengths))
    q = noise(1, 3, 2, 4)
    with pytest.raises(ValueError, match="start should be in"):
        nf.attend(q, q, q, causal=True, start=2**32 + 1)
    turned = nf.rotary(q, np.array([2**32, 2**32, 2**32]))
    near(turned, nf.rotary(q, np.array([2.0**32] * 3, np.float32)))


# shapes and types at the edge


def test_prelu_of_a_single_number_stays_one():
    model = nf.prelu()
    assert model.apply(model.init(KEY), jnp.float32(-2.0)).shape == ()
    slope = jax.grad(lambda p, x: model.apply(p, x).sum())({"slope": jnp.ones(1)}, jnp.array([np.inf]))
    assert slope["slope"].tolist() == [0.0]


@pytest.mark.parametrize("lengths", [None, np.array([0, 0])])
def test_a_mean_over_no_steps_is_zero(lengths):
    model, x = nf.rnn_classifier(2, 3, dim=4, pool="mean"), jnp.ones((2, 0, 2))
    params = model.init(KEY)
    x = x if lengths is None else nf.RecurrentInput(x, lengths)
    assert model.apply(params, x).tolist() == [[0.0] * 3] * 2
    slopes = jax.grad(lambda p: model.apply(p, x).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_a_repeat_takes_half_precision():
    model, x = nf.repeat(nf.residual(nf.linear(4, 4)), 2), noise(3, 4)
    params = model.init(KEY)
    with jax.numpy_dtype_promotion("standard"):
        y = model.apply(params, jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.float32
    near(y, model.apply(params, x), 0.05)


# keys of the kind rbg


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_rows_draw_what_each_draws_alone(kind):
    key = jax.random.key(0, impl=kind)
    model = nf.serial(nf.embedding(7, 4), nf.linear(4, 7))
    params = model.init(KEY)
    rows = nf.generate(model, params, [[1, 2], [3, 4]], 4, key=key).tokens
    alone = nf.generate(model, params, [3, 4], 4, key=jax.random.fold_in(key, 1)).tokens
    assert rows[1].tolist() == alone.tolist()
    drop, x = nf.dropout(0.5), jnp.ones(8)
    masks = [drop.apply({}, x, key=jax.random.fold_in(key, i)) for i in range(2)]
    mean, _ = nf.mc_dropout(drop, {}, x, key=key, samples=2)
    near(mean, sum(masks) / 2)


@pytest.mark.parametrize("size", [1e12, 1e17, 1e25, 3e38])
def test_values_that_are_all_the_same_stay_finite(size):
    """Where the mean is rounded, they are 1 or -1 at most."""
    for model in (nf.layer_norm(4), nf.group_norm(1, 4)):
        params, x = model.init(KEY), jnp.full((2, 2, 4), size)
        y, pull = jax.vjp(lambda x, m=model, p=params: m.apply(p, x), x)
        assert float(abs(y).max()) <= 1.001
        assert bool(jnp.isfinite(pull(y)[0]).all())
