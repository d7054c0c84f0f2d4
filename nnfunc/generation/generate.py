"""`generate`: its arguments and its result. The compiled loop is in `loop`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Key, Layer, Params, PyTree, Scalar, as_model, canonicalize, indexed_keys, resolve_state
from nnfunc.errors import InvalidValueError
from nnfunc.generation.loop import NO_STOP, get_loop, uses_cache, window_size
from nnfunc.generation.prompts import check_vocabulary, read_prompts
from nnfunc.generation.sample_token import check_numbers


class Generated(NamedTuple):
    """The result of `generate`: `tokens[i, :lengths[i]]` is the i-th prompt and its continuation.

    tokens: [..., time + steps] int32, with `pad` after the end of a row.
    lengths: [...] int32, which count the prompt, the new tokens and a stop token.
    """

    tokens: Array
    lengths: Array


def generate(
    model: Layer,
    params: Params,
    prompt: Array | np.ndarray | Sequence[Any],
    steps: int,
    *,
    key: Key | None = None,
    temperature: Scalar | None = None,
    top_k: int | None = None,
    top_p: Scalar | None = None,
    stop: int | None = None,
    lengths: Any = None,
    pad: int | None = None,
    block_size: int | None = None,
    state: PyTree | None = None,
    verify: bool = True,
) -> Generated:
    """Continue prompts by up to `steps` tokens each, sampled one by one from a language model.

    The model maps ids [batch, time] to logits [batch, time, vocab_size] of the next token. The positions that
    all prompts have are computed in one parallel pass, the others in one compiled loop. Another call with
    other numbers, keys, or parameters of the same shapes compiles nothing.

    model, params: of a causal language model.
    prompt: ids [..., time], or a list of prompts, which may differ in length.
    lengths: [...], the length of each prompt in an array; by default time. The result of a row does not depend on
        the other rows.
    steps: the most new tokens of a row, at least 1.
    key: random; without one the most likely token is chosen, and temperature, top_k and top_p are refused. Row i of
        several draws from `fold_in(key, i)`, a prompt without leading axes from key itself.
    temperature, top_k, top_p: as for `nf.generation.draw`; temperature is 1 by default, and 0 gives the most likely
        token.
    stop: an id after which a row ends; the loop ends when all rows have ended.
    pad: the id after the end of a row, by default `stop`, or 0.
    block_size: the number of last tokens that the model gets, for models with a limited number of positions.
    Steps beyond it cannot use the cache, and each of them needs a pass over the block. Where most steps do and such
    a pass is quick, no step uses it: compiling both forms takes longer than it gains.
    state: running statistics, as for `apply`.
    verify: whether to compare steps with the cache to one pass, on two tokens and once for each model. It is
        skipped where params are traced.

    A model without a cache gets the whole padded sequence at every step, which is correct for causal models,
    but slow. Logits that are all NaN give the id -1.
    Returns: Generated(tokens [..., time + steps], lengths [...]), prompts included.
    Raises: TypeError when ids are not integers; ValueError for an empty prompt, ids outside the vocabulary, a
    model without logits for every position, a model that is not causal or needs earlier positions but has no
    cache, or a model with fewer positions than prompt and steps need.

    >>> model = nf.serial(nf.embedding(10, 4), nf.linear(4, 10))
    >>> params = model.init(jax.random.key(0))
    >>> out = nf.generate(model, params, [[1, 2], [3]], 4, key=jax.random.key(1), temperature=0.8)
    >>> out.tokens.shape, out.lengths
    ((2, 6), Array([6, 5], dtype=int32))
    """
    check.size("generate", steps=steps)
    if block_size is not None:
        check.size("generate", block_size=block_size)
    if key is not None:
        check.key("generate", key)
    check_numbers("generate", key, temperature, top_k, top_p)
    ids, prompt_lengths, first = read_prompts(prompt, lengths)
    lead, width = ids.shape[:-1], ids.shape[-1]
    rows = int(np.prod(lead))
    layer, model = model, as_model(model, where="generate")
    state = resolve_state(model, state, "generate")
    loop = get_loop(layer, model)
    facts = loop.facts(params, state)
    total = width + int(steps)
    window = window_size(total, block_size)
    facts = facts._replace(caches=uses_cache(facts, params, rows, first, total, window))
    check_vocabulary(ids, prompt_lengths, facts.vocab_size)
    for name, id_ in {"stop": stop, "pad": pad}.items():
        if id_ is not None and not check.is_traced(id_):
            _check_id(name, id_, facts.vocab_size if name == "stop" else None)
    if verify and not any(map(check.is_traced, jax.tree.leaves((params, state)))):
        loop.verify(params, state, facts, min(window, 2))
    ids, keys = jnp.asarray(canonicalize(ids, "generate")).astype(jnp.int32), None
    if key is not None:
        keys = indexed_keys(key, rows) if lead else key[None]
    fill = pad if pad is not None else stop if stop is not None else 0
    try:
        tokens, ends = loop.run(
            params,
            state,
            ids.reshape(rows, width),
            prompt_lengths.reshape(rows),
            keys,
            jnp.asarray(1.0 if temperature is None else temperature, jnp.float32),
            None if top_p is None else jnp.asarray(top_p, jnp.float32),
            jnp.asarray(NO_STOP if stop is None else stop, jnp.int32),
            jnp.asarray(fill, jnp.int32),
            steps=int(steps),
            first=first,
            top_k=top_k,
            block_size=block_size,
            cached=facts.caches,
        )
    except InvalidValueError as error:  # a single position was valid, so there are too many
        if block_size is None:
            needed = f"generate needs {width + steps - 1} positions for {width} + {steps} tokens"
            hint = f"Here {needed}; with block_size=N the model gets only the last N."
            error.hint = f"{error.hint} {hint}".lstrip()
        raise
    return Generated(tokens.reshape(*lead, -1), ends.reshape(lead))


def _check_id(name: str, value: Any, below: int | None) -> None:
    """Check that a value is an integer, and in [0, below) if below is not None."""
    hint = "Pass the id of one token, such as codec.encode(text)[0]."
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        expected, actual = f"{name} should be an integer", check.describe(value)
        check.fail("generate", expected=expected, actual=actual, hint=hint, exc_type=TypeError)
    if below is not None and not 0 <= value < below:
        check.fail("generate", expected=f"{name} should be in [0, {below})", actual=value, hint=hint)
