"""`generate`: what it takes and gives back. The loop itself is in `loop`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Key, Layer, Params, PyTree, Scalar, as_model, canonicalize, indexed_keys, resolve_state
from nnfunc.errors import InvalidValueError
from nnfunc.generation.loop import NONE, loop_of
from nnfunc.generation.prompts import known, read
from nnfunc.generation.sample_token import check_numbers

__all__ = ["Generated", "generate"]


class Generated(NamedTuple):
    """What `generate` returns: `tokens[i, :lengths[i]]` is the i-th prompt and its continuation.

    tokens [..., time + steps] int32, the rest of a row being `pad`; lengths [...] int32, the prompt
    and a stop token counted.
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
    """The prompts continued by `steps` tokens each, drawn from a language model one by one.

    The model maps ids [batch, time] to logits [batch, time, vocab_size] for the token that follows.
    The positions that all prompts have are one parallel pass, the rest one compiled loop. A further
    call with other numbers, keys, or parameters of the same shapes compiles nothing.

    prompt: ids [..., time], or a list of prompts, which may differ in length. With an array,
    `lengths` [...] may say how much of each row counts. A row is what its prompt alone would give.
    key: without one, the likeliest token is taken every time, and temperature, top_k and top_p are
    refused. Row i of many draws from
    `fold_in(key, i)`, a prompt without leading axes from key itself.
    temperature, top_k, top_p: what `nf.generation.draw` makes of the logits; temperature is 1 by
    default, and 0 the likeliest token.
    stop: a row ends after this id; when all have, the loop ends. pad: fills the rest of a row, by
    default `stop`, or 0.
    block_size: the model sees at most this many last tokens, for models that know no more positions.
    The steps beyond it can use no cache, and each costs a pass over the block.
    state: running statistics, as `apply` takes them.
    verify: once for each model, on two tokens, compare steps with the cache to a whole pass. It is
    left out where params are traced.

    A model without a cache gets a pass over the whole padded sequence at every step, which is right
    for causal models, and slow. Logits that are all NaN give the id -1.
    Returns: Generated(tokens [..., time + steps], lengths [...]), prompts included.
    Raises: TypeError when ids are not integers; ValueError for an empty prompt, ids outside of the
    vocabulary, a model without logits for every position, one that looks ahead or that looks
    back without a cache, or when the model has fewer positions than prompt and steps need.

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
    ids, given, first = read(prompt, lengths)
    lead, width = ids.shape[:-1], ids.shape[-1]
    rows = int(np.prod(lead))
    layer, model = model, as_model(model, where="generate")
    state = resolve_state(model, state, "generate")
    loop = loop_of(layer, model)
    facts = loop.facts(params, state)
    known(ids, given, facts.vocab_size)
    for name, id_ in {"stop": stop, "pad": pad}.items():
        if id_ is not None and not check.is_traced(id_):
            _check_id(name, id_, facts.vocab_size if name == "stop" else None)
    if verify and not any(map(check.is_traced, jax.tree.leaves((params, state)))):
        loop.verify(params, state, facts, min(block_size or 2, width + steps - 1, 2))
    ids, keys = jnp.asarray(canonicalize(ids, "generate")).astype(jnp.int32), None
    if key is not None:
        keys = indexed_keys(key, rows) if lead else key[None]
    fill = pad if pad is not None else stop if stop is not None else 0
    try:
        tokens, ends = loop.run(
            params,
            state,
            ids.reshape(rows, width),
            given.reshape(rows),
            keys,
            jnp.asarray(1.0 if temperature is None else temperature, jnp.float32),
            None if top_p is None else jnp.asarray(top_p, jnp.float32),
            jnp.asarray(NONE if stop is None else stop, jnp.int32),
            jnp.asarray(fill, jnp.int32),
            steps=int(steps),
            first=first,
            top_k=top_k,
            block_size=block_size,
            cached=facts.caches,
        )
    except InvalidValueError as error:  # one position went well, so it is their number
        if block_size is None:
            needed = f"generate feeds {width + steps - 1} positions, of {width} + {steps} tokens"
            advice = f"Here {needed}; with block_size=N it lets the model see the last N only."
            error.hint = f"{error.hint} {advice}".lstrip()
        raise
    return Generated(tokens.reshape(*lead, -1), ends.reshape(lead))


def _check_id(name: str, value: Any, below: int | None) -> None:
    """A single integer, of a token where `below` is the number of them."""
    cure = "Give the id of one token, such as codec.encode(text)[0]."
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        check.fail(
            "generate",
            expected=f"{name} should be an integer",
            actual=check.describe(value),
            hint=cure,
            exc_type=TypeError,
        )
    if below is not None and not 0 <= value < below:
        check.fail("generate", expected=f"{name} should be in [0, {below})", actual=value, hint=cure)
