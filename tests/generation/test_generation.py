"""Generation against the whole forward pass, over toy layers with caches of their own."""

import gc
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.generation import decode, draw, prefill
from nnfunc.generation.loop import _LOOPS, get_loop

VOCABULARY = 11


def generate(model, params, prompt, steps, **options):
    """`nf.generate`, with the state that the model begins with."""
    return nf.generate(model, params, prompt, steps, **{"state": nf.as_model(model).init_state(), **options})


def running_sum(dim, decay=0.7):
    """y_t = tanh(sum of decay^(t - s) x_s for s <= t); its cache is that sum and the position."""

    def forward(params, x, ctx):
        start = ctx.state["sum"] if ctx.state else jnp.zeros_like(x[:, 0])

        def step(carry, row):
            carry = decay * carry + row
            return carry, jnp.tanh(carry)

        last, y = jax.lax.scan(step, start, jnp.moveaxis(x, 1, 0))
        return jnp.moveaxis(y, 0, 1), nf.Out({"sum": last} if ctx.cache is not None else {})

    return nf.Model(lambda key: {}, forward=forward, name="running_sum")


def look_back(mask_of):
    """A mean over positions without a cache: mask_of(time) says which each position sees."""

    def apply(params, x):
        mask = mask_of(x.shape[1]).astype(x.dtype)
        return jnp.tanh(jnp.einsum("ts,bsd->btd", mask, x))

    return nf.Model(lambda key: {}, apply, name="look_back")


def language_model(*middle, vocabulary=VOCABULARY, dim=8):
    sharp = nf.initializers.normal(1.0)
    return nf.serial(
        embed=nf.embedding(vocabulary, dim, weight_init=sharp),
        **{f"middle_{i}": layer for i, layer in enumerate(middle)},
        head=nf.linear(dim, vocabulary, weight_init=sharp),
    )


def block(dim=8):
    mix = nf.residual(nf.serial(mix=running_sum(dim), out=nf.linear(dim, dim)))
    return nf.serial(mix=mix, mlp=nf.residual(nf.serial(up=nf.linear(dim, dim), act=jnp.tanh)))


CACHED = {
    "one": lambda: language_model(running_sum(8)),
    "repeat": lambda: language_model(nf.repeat(block(), 3)),
    "remat": lambda: language_model(nf.remat(nf.repeat(nf.remat(block()), 2))),
    "precision": lambda: nf.precision(language_model(nf.repeat(block(), 2)), jnp.float32),
    "dropout": lambda: language_model(nf.dropout(0.5), running_sum(8), nf.dropout(0.5)),
    "norm": lambda: language_model(running_sum(8), nf.batch_norm(8)),
}
WHOLE = {
    "bigram": lambda: language_model(),
    "causal": lambda: language_model(look_back(lambda t: jnp.tril(jnp.ones((t, t))))),
}


@pytest.fixture(scope="module", params=[*CACHED, *WHOLE])
def made(request):
    model = (CACHED | WHOLE)[request.param]()
    return model, model.init(jax.random.key(3))


@pytest.fixture(scope="module")
def small():
    model = CACHED["one"]()
    return model, model.init(jax.random.key(3))


def by_hand(model, params, prompt, steps, rule=jnp.argmax, context=None):
    """The tokens of one prompt, each from a whole pass over what is there so far."""
    tokens = list(prompt)
    width = len(prompt) + steps
    whole = jax.jit(lambda x: model.apply(params, x, state=model.init_state()))  # padded: these models are causal
    for _ in range(steps):
        seen = tokens[-context:] if context else tokens
        x = np.zeros((1, context or width), np.int32)
        x[0, : len(seen)] = seen
        tokens.append(int(rule(whole(x)[0, len(seen) - 1])))
    return tokens


# greedy


def test_greedy_equals_whole_passes(made):
    model, params = made
    out = generate(model, params, [3, 1, 4], 8)
    assert out.tokens.shape == (11,)
    assert out.tokens.dtype == out.lengths.dtype == jnp.int32
    assert out.tokens.tolist() == by_hand(model, params, [3, 1, 4], 8)
    assert int(out.lengths) == 11


def test_rows_of_different_lengths_equal_each_prompt_alone(made):
    model, params = made
    prompts = [[3, 1, 4, 1, 5], [9], [2, 6]]
    out = generate(model, params, prompts, 6, pad=-1)
    assert out.tokens.shape == (3, 11)
    assert out.lengths.tolist() == [11, 7, 8]
    for i, prompt in enumerate(prompts):
        assert out.tokens[i, : out.lengths[i]].tolist() == by_hand(model, params, prompt, 6)
        assert set(out.tokens[i, out.lengths[i] :].tolist()) <= {-1}
    padded = np.array([[3, 1, 4, 1, 5], [9, 8, 8, 8, 8], [2, 6, 7, 7, 7]], np.uint8)
    again = generate(model, params, padded, 6, lengths=[5, 1, 2], pad=-1)
    np.testing.assert_array_equal(again.tokens, out.tokens)
    traced = jax.jit(lambda p, n: generate(model, params, p, 6, lengths=n, pad=-1))
    np.testing.assert_array_equal(traced(padded, np.array([5, 1, 2])).tokens, out.tokens)


def test_leading_axes_are_free(small):
    model, params = small
    prompts = np.arange(12).reshape(2, 3, 2) % VOCABULARY
    out = generate(model, params, prompts, 3)
    assert out.tokens.shape == (2, 3, 5)
    assert out.lengths.shape == (2, 3)
    flat = generate(model, params, prompts.reshape(6, 2), 3)
    np.testing.assert_array_equal(out.tokens.reshape(6, 5), flat.tokens)


@pytest.mark.parametrize("name", ["repeat", "causal"])
@pytest.mark.parametrize("context", [1, 3, 40])  # shorter than each prompt, than one, than none
def test_a_context_limits_what_is_seen(name, context, key):
    model = (CACHED | WHOLE)[name]()
    params, prompts = model.init(key), [[3, 1, 4, 1], [9, 2]]
    out = generate(model, params, prompts, 6, block_size=context)
    for i, prompt in enumerate(prompts):
        found = out.tokens[i, : out.lengths[i]].tolist()
        assert found == by_hand(model, params, prompt, 6, context=context)


def test_a_short_block_compiles_one_form_of_the_loop(monkeypatch):
    model = nf.gpt(11, block_size=4, layers=1, heads=2, dim=8)
    params = model.init(jax.random.key(0))

    def tokens_and_loops(steps):
        loop = get_loop(model, model)
        loop.run.clear_cache()
        programs, compiled = [], loop.run
        monkeypatch.setattr(loop, "run", lambda *a, **k: programs.append(compiled.lower(*a, **k)) or compiled(*a, **k))
        out = generate(model, params, [[1, 2]], steps, block_size=4)
        monkeypatch.undo()
        return np.asarray(out.tokens), programs[0].as_text().count("stablehlo.while")

    few, many = tokens_and_loops(3), tokens_and_loops(20)
    monkeypatch.setattr("nnfunc.generation.loop.SMALL_PASS", 0)
    both_forms = tokens_and_loops(20)
    np.testing.assert_array_equal(many[0], both_forms[0])
    np.testing.assert_array_equal(few[0], many[0][:, :5])
    assert few[1] + many[1] == both_forms[1]


def test_state_is_read(key):
    model = CACHED["norm"]()
    params = model.init(key)
    state = jax.tree.map(lambda leaf: leaf + 0.5, model.init_state())
    bound = nf.Model(model.init, lambda p, x: model.apply(p, x, state=state))
    found = generate(model, params, [1, 2], 6, state=state).tokens.tolist()
    assert found == by_hand(bound, params, [1, 2], 6)
    assert found != generate(model, params, [1, 2], 6, state=model.init_state()).tokens.tolist()


@pytest.mark.parametrize("name", CACHED)
def test_prefill_and_decode_equal_a_whole_pass(name, key):
    model = CACHED[name]()
    params = model.init(key)
    x = jnp.arange(18).reshape(2, 9) % VOCABULARY
    whole = model.apply(params, x, state=model.init_state())

    @jax.jit
    def pieces(params, x):
        y, state = prefill(model, params, x[:, :4], 9, state=model.init_state())
        two, state = decode(model, params, x[:, 4:6], state, 9)

        def step(state, ids):
            y, state = decode(model, params, ids[:, None], state, 9)
            return state, y[:, 0]

        _, rest = jax.lax.scan(step, state, x[:, 6:].T)
        return jnp.concatenate([y, two, jnp.moveaxis(rest, 0, 1)], axis=1)

    np.testing.assert_allclose(pieces(params, x), whole, atol=1e-5, rtol=1e-5)


def test_half_precision(key):
    model = nf.precision(language_model(nf.repeat(block(), 2)), jnp.bfloat16)
    params = model.init(key)
    assert generate(model, params, [1, 2], 5).lengths == 7


REAL = {
    "gpt": lambda: nf.gpt(11, block_size=9, layers=2, heads=2, dim=8, dropout=0.1),
    "llama": lambda: nf.llama(11, dim=16, layers=2, heads=4, kv_heads=2, hidden=12),
    "window": lambda: nf.llama(11, dim=8, layers=2, heads=2, kv_heads=1, hidden=12, window=3),
    "remat": lambda: nf.remat(nf.gpt(11, block_size=9, layers=1, heads=2, dim=8)),
    "lstm": lambda: nf.rnn_lm(11, dim=8, layers=2, dropout=0.1),
    "gru": lambda: nf.rnn_lm(11, dim=8, cell="gru", tied=True),
    "bfloat16": lambda: nf.precision(nf.llama(11, dim=8, layers=2, heads=2, hidden=12)),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "gpt")) for name in REAL])
def test_models_step_by_step_equal_a_whole_pass(name, key):
    model = REAL[name]()
    params = jax.tree.map(lambda leaf: 8 * leaf, model.init(key))  # such that positions matter
    x = jnp.arange(18).reshape(2, 9) * 5 % 11
    whole = model.apply(params, x, state=model.init_state())

    @jax.jit
    def steps(params, x):
        y, state = prefill(model, params, x[:, :3], 9, state=model.init_state())
        logits = jnp.zeros(whole.shape, whole.dtype).at[:, :3].set(y)

        def step(carry):
            t, logits, state = carry
            ids = jax.lax.dynamic_slice_in_dim(x, t, 1, axis=1)
            y, state = decode(model, params, ids, state, 9)
            return t + 1, jax.lax.dynamic_update_slice_in_dim(logits, y, t, axis=1), state

        return jax.lax.while_loop(lambda carry: carry[0] < 9, step, (3, logits, state))[1]

    loose = 0.05 * float(jnp.abs(whole).max()) if name == "bfloat16" else 1e-5
    np.testing.assert_allclose(steps(params, x), whole, atol=loose, rtol=loose)
    if name != "bfloat16":  # whose ties may fall either way
        out = generate(model, params, [[3, 1, 4], [5]], 6)
        for i, prompt in enumerate([[3, 1, 4], [5]]):
            found = out.tokens[i, : out.lengths[i]].tolist()
            assert found == by_hand(model, params, prompt, 6)


# stopping


def test_a_row_ends_after_the_stop_token(small):
    model, params = small
    prompts = [[3, 1, 4], [9], [2, 6]]
    free = generate(model, params, prompts, 8)
    stop = int(free.tokens[0, 5])  # the third that is generated
    out = generate(model, params, prompts, 8, stop=stop)
    for i, prompt in enumerate(prompts):
        new = free.tokens[i, len(prompt) : len(prompt) + 8].tolist()
        new = new[: new.index(stop) + 1] if stop in new else new
        assert out.tokens[i, : out.lengths[i]].tolist() == prompt + new
        assert set(out.tokens[i, out.lengths[i] :].tolist()) <= {stop}
    assert int(out.lengths[0]) == 6 or stop in free.tokens[0, 3:5].tolist()
    in_prompt = generate(model, params, [stop, 4], 3, stop=stop, pad=0)
    assert int(in_prompt.lengths) >= 3  # the prompt's own does not stop it


def test_the_loop_ends_when_all_rows_have(key):
    calls = []

    def count(x):
        jax.debug.callback(lambda: calls.append(1))
        return x

    model = language_model(count, running_sum(8))
    params = model.init(key)
    first = int(generate(model, params, [5], 1, verify=False).tokens[1])
    jax.effects_barrier()
    calls.clear()
    out = generate(model, params, [5], 50, stop=first, verify=False)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert out.tokens.tolist() == [5, *[first] * 50]
    assert int(out.lengths) == 2
    assert len(calls) == 2  # the prompt, and the stop token itself


# randomness


def test_without_a_key_there_is_no_randomness(small):
    model, params = small
    greedy = generate(model, params, [1, 2], 20).tokens
    np.testing.assert_array_equal(generate(model, params, [1, 2], 20).tokens, greedy)
    np.testing.assert_array_equal(generate(model, params, [1, 2], 20, temperature=0).tokens, greedy)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.9}, {"temperature": 0, "top_k": 2}]
)
def test_numbers_for_drawing_need_a_key(small, settings):
    words = rf"{' and '.join(settings)} should be used with a random key.*most likely"
    refused(f"generate: {words}", *small, [1, 2], 3, **settings)
    with pytest.raises(ValueError, match=f"draw: {words}"):
        draw(jnp.zeros(3), **settings)


def test_settings_that_leave_the_likeliest(small, key):
    model, params = small
    greedy = generate(model, params, [1, 2], 20).tokens
    for settings in ({"temperature": 0.0}, {"temperature": 1e-30}, {"top_p": 0.0}, {"top_k": 1}):
        out = generate(model, params, [1, 2], 20, key=key, **settings)
        np.testing.assert_array_equal(out.tokens, greedy)


def test_settings_that_change_nothing(small, key):
    model, params = small
    plain = generate(model, params, [1, 2], 20, key=key).tokens
    for settings in ({"top_p": 1.0}, {"top_k": VOCABULARY}, {"top_k": 10**6}, {"temperature": 1}):
        out = generate(model, params, [1, 2], 20, key=key, **settings)
        np.testing.assert_array_equal(out.tokens, plain)
    assert plain.tolist() != generate(model, params, [1, 2], 20).tokens.tolist()


def test_keys_belong_to_rows_and_positions(small, key):
    model, params = small
    prompts = [[1, 2, 3], [4, 5], [4, 5]]
    out = generate(model, params, prompts, 20, key=key)
    for i, prompt in enumerate(prompts):
        alone = generate(model, params, prompt, 20, key=jax.random.fold_in(key, i)).tokens
        assert out.tokens[i, : out.lengths[i]].tolist() == alone.tolist()
    assert out.tokens[1, :22].tolist() != out.tokens[2, :22].tolist()
    one = generate(model, params, [1, 2], 20, key=key).tokens
    longer = generate(model, params, one[:3], 20, key=key).tokens
    np.testing.assert_array_equal(one, longer[:22])  # the same from where it goes on


def test_keys_of_the_old_kind(small):
    old = generate(*small, [[1, 2], [3, 4]], 2, key=jax.random.PRNGKey(0))
    new = generate(*small, [[1, 2], [3, 4]], 2, key=jax.random.key(0))
    np.testing.assert_array_equal(old.tokens, new.tokens)


LOGITS = np.log(np.array([0.05, 0.4, 0.15, 0.3, 0.1]))


quick_draw = jax.jit(draw, static_argnames="top_k")


def frequencies(logits, n=20000, **settings):
    many = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (n, len(logits)))
    found = quick_draw(many, jax.random.key(5), **settings)
    return np.bincount(np.asarray(found), minlength=len(logits)) / n


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [0.05, 0.4, 0.15, 0.3, 0.1]),
        ({"temperature": 0.5}, np.array([25, 1600, 225, 900, 100]) / 2850),
        ({"temperature": np.inf}, [0.2, 0.2, 0.2, 0.2, 0.2]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [0, 40 / 85, 15 / 85, 30 / 85, 0]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [0, 4 / 7, 0, 3 / 7, 0]),  # 0.4 + 0.3 of 0.85 are 0.82
        ({"temperature": 0.5, "top_p": 0.87}, [0, 16 / 25, 0, 9 / 25, 0]),  # 2500 / 2850 = 0.877
    ],
)
def test_draw_has_the_frequencies(settings, expected):
    np.testing.assert_allclose(frequencies(LOGITS, **settings), expected, atol=0.012)


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 0.0}])
def test_draw_and_numbers_that_are_none(settings, key):
    nan, inf = np.nan, np.inf

    def drawn(*logits, key=key):
        row = [*logits, *[nan] * (4 - len(logits))]
        row = jnp.asarray(row, jnp.float32)
        return int(draw(row) if key is None else quick_draw(row, key, **settings))

    assert drawn(nan, 1.0, nan) == 1
    assert drawn(nan, nan, nan) == -1
    assert drawn(nan, nan, key=None) == -1
    assert drawn(-inf, 3.0, -inf, nan) == 1
    assert drawn(0.0, inf, 1e38) == 1
    assert drawn(0.0, inf, nan, key=None) == 1
    assert drawn(-inf, -inf) in (0, 1)
    assert drawn(-3e38, 3e38) == 1


def test_draw_and_ties():
    assert set(np.flatnonzero(frequencies(np.zeros(6), top_k=2))) == {0, 1}
    assert set(np.flatnonzero(frequencies(np.zeros(6), top_p=0.34))) == {0, 1, 2}
    assert set(np.flatnonzero(frequencies(np.zeros(6), top_p=0.0))) == {0}
    assert set(np.flatnonzero(frequencies(np.zeros(6), top_p=1.0))) == set(range(6))
    assert set(np.flatnonzero(frequencies(np.zeros(4), top_p=0.5))) == {0, 1}  # exactly a half
    assert int(draw(jnp.array([1.0, 2.0, 2.0]))) == 1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, "float64"])
def test_draw_takes_every_float(dtype, key):
    with jax.enable_x64(dtype == "float64"):
        logits = jnp.asarray(LOGITS, dtype)
        for settings in ({}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 2}):
            assert draw(logits, key, **settings).dtype == jnp.int32
        assert int(draw(logits)) == 1


def test_double_precision(key):
    with jax.enable_x64(True):
        model = language_model(running_sum(8))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.init(key))
        out = generate(model, params, np.array([1, 2]), 5, key=key, temperature=0.5, top_p=0.9)
        assert out.tokens.dtype == jnp.int32
        assert generate(model, params, [1, 2], 5).tokens.tolist() == by_hand(model, params, [1, 2], 5)


# transformations and compilation


def counted(build):
    """A model and the list that grows by one each time it is traced."""
    traces = []

    def count(x):
        traces.append(x.shape)
        return x

    return build(count), traces


def test_it_compiles_once(key):
    model, traces = counted(lambda count: language_model(count, running_sum(8)))
    params = model.init(key)
    generate(model, params, [[1, 2], [3, 4]], 5, key=key, top_p=0.9, stop=3)
    traces.clear()
    for i in range(3):
        generate(
            model,
            jax.tree.map(lambda leaf, i=i: leaf * i, params),
            [[i, 2], [3, i]],
            5,
            key=jax.random.key(i),
            temperature=[0, 0.5, np.inf][i],
            top_p=[0.1, 1, 1.0][i],
            stop=i,
            pad=i,
        )
    init, apply = model
    generate((init, apply), params, np.ones((2, 2), np.int64), 5, key=key, top_p=0.3)
    assert traces == []
    generate(model, params, [[1, 2], [3, 4]], 6, key=key, top_p=0.9, stop=3)
    assert len(traces) == 2  # the prompt, and a step


def test_a_bare_pair_compiles_once(key):
    model = language_model(running_sum(8))
    traces = []

    def apply(params, x):
        traces.append(x.shape)
        return jax.nn.one_hot(x, VOCABULARY) * params

    generate((model.init, apply), 2.0, [1, 2], 3)
    traces.clear()
    pair = (model.init, apply)  # as a caller writes it anew
    generate(pair, 3.0, [2, 1], 3)
    assert traces == []
    before = len(_LOOPS)
    del apply, pair
    gc.collect()
    assert len(_LOOPS) < before


def test_a_model_that_is_gone_leaves_nothing(key):
    model = language_model(running_sum(8))
    generate(model, model.init(key), [1], 2)
    gone = weakref.ref(model.forward)
    before = len(_LOOPS)
    del model
    gc.collect()
    assert gone() is None
    assert len(_LOOPS) < before


def test_vmap_over_params_and_numbers_equals_one_by_one(key):
    model = language_model(running_sum(8))
    members = jax.vmap(model.init)(jax.random.split(key, 3))
    heat, share = jnp.array([0.0, 0.7, 2.0]), jnp.array([0.5, 0.9, 1.0])

    def run(params, temperature, top_p):
        return generate(model, params, [[1, 2], [3]], 6, key=key, temperature=temperature, top_p=top_p, stop=2)

    together = jax.jit(jax.vmap(run))(members, heat, share)
    for i in range(3):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], members)
        alone = run(own, float(heat[i]), float(share[i]))
        np.testing.assert_array_equal(together.tokens[i], alone.tokens)
        np.testing.assert_array_equal(together.lengths[i], alone.lengths)


def test_a_model_made_of_traced_numbers(key):
    params = language_model(running_sum(8)).init(key)

    def run(decay):
        return generate(language_model(running_sum(8, decay)), params, [1, 2], 6).tokens

    with jax.checking_leaks():
        together = jax.vmap(run)(jnp.array([0.1, 0.9]))
    np.testing.assert_array_equal(together[0], run(0.1))
    np.testing.assert_array_equal(together[1], run(0.9))


# what is refused


def refused(words, *args, kind=ValueError, **settings):
    with pytest.raises(kind, match=words):
        generate(*args, **settings)


def test_prompts_that_are_none(small):
    for prompt, kind, words in [
        ([], ValueError, r"prompt should have at least one id.*got shape \(0,\)"),
        (np.zeros((2, 0), np.int32), ValueError, r"got shape \(2, 0\)"),
        ([[1], []], ValueError, "every prompt should have 1 to 1 ids, got lengths from 0 to 1"),
        (3, ValueError, r"got shape \(\)"),
        ([1.0, 2.0], TypeError, "prompt should hold integers, got float64"),
        ([True], TypeError, "prompt should hold integers, got bool"),
        ("abc", TypeError, "prompt should be ids, got 'abc'. Encode the text first."),
        ([[[1, 2]], [[3]]], ValueError, r"one row of ids, got shapes \(1, 2\), \(1, 1\)"),
        ([1, VOCABULARY], ValueError, r"ids in \[0, 11\), the model's vocabulary, got 11"),
        ([[1], [2, -1]], ValueError, "got -1"),
    ]:
        refused(words, *small, prompt, 3, kind=kind)


def test_settings_that_are_refused(small, key):
    for settings, kind, words in [
        ({"temperature": -1.0}, ValueError, "temperature should be at least 0, got -1.0"),
        ({"temperature": np.nan}, ValueError, "temperature"),
        ({"top_p": 1.5}, ValueError, r"top_p should be in \[0, 1\], got 1.5"),
        ({"top_k": 0}, ValueError, "top_k should be at least 1, got 0"),
        ({"top_k": 2.0}, TypeError, "top_k should be an integer"),
        ({"block_size": 0}, ValueError, "block_size should be at least 1"),
        ({"lengths": [3]}, ValueError, r"lengths should have shape \(2,\), got shape \(1,\)"),
        ({"lengths": [3, 1]}, ValueError, "1 to 2 ids, got lengths from 1 to 3"),
        ({"lengths": [1.0, 1.0]}, TypeError, "lengths should hold integers"),
        ({"key": 3}, TypeError, "key should be one random key"),
    ]:
        refused(words, *small, np.ones((2, 2), np.int32), 3, kind=kind, **settings)
    refused("steps should be at least 1, got 0", *small, [1], 0)
    refused("lengths should be left out with a list", *small, [[1], [2]], 3, lengths=[1, 1])


def test_models_that_give_no_logits(key):
    for model, words in [
        (nf.serial(nf.embedding(5, 4), lambda x: x.mean(1)), r"got float32\[1, 4\] for ids \[1, 1\]"),
        (nf.serial(lambda x: x[..., None]), r"got int32\[1, 1, 1\]"),
        (nf.serial(nf.embedding(5, 4), lambda x: (x, x)), r"\[1, 1, 4\]"),
    ]:
        refused("the model should give floats .batch, time, vocab_size.", model, model.init(key), [1], 2)
        refused(words, model, model.init(key), [1], 2)


def everything(time):
    return jnp.ones((time, time)) / time


def test_a_model_that_looks_ahead_is_refused(key):
    model = language_model(look_back(everything))
    refused("should be causal: .* may need causal=True", model, model.init(key), [1], 2)
    assert generate(model, model.init(key), [1], 2, verify=False).lengths == 3
    assert generate(model, model.init(key), [1], 1).lengths == 2  # nothing is fed but one prompt


def test_a_layer_that_looks_back_without_a_cache_is_refused(key):
    before = look_back(lambda t: jnp.tril(jnp.ones((t, t))))
    model = language_model(running_sum(8), before)
    refused("the same logits step by step, .*no cache in its state", model, model.init(key), [1], 2)


def test_a_cache_that_changes_its_shape_is_refused(key):
    def forward(params, x, ctx):
        seen = ctx.state.get("seen", x[:, :0]) if ctx.state else x[:, :0]
        return x, nf.Out({"seen": jnp.concatenate([seen, x], axis=1)})

    model = language_model(nf.Model(lambda key: {}, forward=forward))
    refused("state at middle_0/seen should have the same shape", model, model.init(key), [1], 2)


def test_too_many_positions_are_told_at_trace_time(key):
    model = language_model(nf.learned_positions(6, 8), running_sum(8))
    params = model.init(key)
    generate(model, params, [1, 2], 5)  # the seventh token is not fed
    words = "should be at most 6, got 7.* generate needs 7 positions for 2 . 5 tokens"
    refused(words.replace("5", "6"), model, params, [1, 2], 6)
    out = generate(model, params, [1, 2], 12, block_size=6)
    assert out.tokens.tolist() == by_hand(model, params, [1, 2], 12, context=6)


def test_prefill_says_how_much_room_there_is(small):
    model, params = small
    with pytest.raises(ValueError, match=re.escape("at most cache=2 positions, got shape (1, 3)")):
        prefill(model, params, jnp.ones((1, 3), jnp.int32), 2)
