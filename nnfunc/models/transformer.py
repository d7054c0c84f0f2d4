"""The block of a Transformer: attention and a perceptron, each added to its input and normalized; its inputs."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Initializer, Layer, Model, Scalar
from nnfunc.combinators import wire
from nnfunc.layers.attention.layer import AttentionInput
from nnfunc.layers.attention.masks import zero_nonfinite_padding
from nnfunc.layers.dropout import drop_path as drop_path_layer
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.linear import linear
from nnfunc.layers.norm import layer_norm, rms_norm

__all__ = ["TokenInput", "TransformerInput", "transformer_block"]


class TokenInput(NamedTuple):
    """The ids of `nf.gpt` and `nf.llama` with their padding and positions, for batches of unequal sequences.

    ids: integers [..., time] in [0, vocab_size).
    mask: [..., time], True or 1 where there is a token, wherever the padding is.
    lengths: integers [...], the number of tokens of each sequence, padded at its end; one of the two is enough.
    positions: integers [..., time], the position of each token; None, the default, counts from 0, padding included.
        For padding at the start: `jnp.maximum(mask.cumsum(-1) - 1, 0)`.
    While a sequence is generated there is no mask: `nf.generate` takes prompts of different lengths.
    A pytree like any tuple, so `jax.vmap` and `jax.jit` take it as it is.

    >>> model = nf.gpt(65, block_size=8, layers=1, heads=2, dim=4)
    >>> x = nf.TokenInput(jnp.array([[1, 2, 3], [4, 0, 0]]), lengths=jnp.array([3, 1]))
    >>> model.apply(model.init(jax.random.key(0)), x).shape
    (2, 3, 65)
    """

    ids: Array
    mask: Array | None = None
    lengths: Array | None = None
    positions: Array | None = None


class TransformerInput(NamedTuple):
    """The x of `nf.transformer_block` with the padding of its sequences, and the context of a decoder.

    x: [..., time, dim].
    mask, lengths, bias: those of the self-attention, as in `nf.AttentionInput`.
    context: the sequence that cross-attention reads, [..., source, context_dim], for a block with `cross`.
    context_mask: booleans [..., time, source], True where a position may attend to it.
    context_lengths: integers [...], the number of positions of each context that count.
    positions: those of x, integers [..., time], as in `nf.AttentionInput`.
    A pytree like any tuple, so `jax.vmap`, `jax.jit` and `nf.repeat` take it as it is.

    >>> block = nf.transformer_block(4, nf.attention(4, 2), nf.feed_forward(4, 8))
    >>> x = nf.TransformerInput(jnp.ones((2, 3, 4)), lengths=jnp.array([3, 1]))
    >>> block.apply(block.init(jax.random.key(0)), x).x.shape
    (2, 3, 4)
    """

    x: Array
    mask: Array | None = None
    lengths: Array | None = None
    bias: Array | None = None
    context: Array | None = None
    context_mask: Array | None = None
    context_lengths: Array | None = None
    positions: Array | None = None


def transformer_block(
    dim: int,
    attend: Layer,
    mlp: Layer,
    *,
    cross: Layer | None = None,
    order: Literal["pre", "post", "both"] = "pre",
    norm: Literal["layer", "rms"] = "layer",
    eps: Scalar | None = None,
    bias: bool = True,
    dropout: Scalar | None = None,
    drop_path: Scalar | None = None,
) -> Model:
    """Attention, then cross-attention in a decoder, then a perceptron, each as a branch:

    order: where the norms are.
    "pre": `x = x + branch(norm(x))`, as in GPT-2 and Llama; a stack of them is followed by a norm. "post": `x =
    norm(x + branch(x))`, as in the paper and BERT; a stack of them needs warm-up. "both": `x = x +
    norm(branch(norm(x)))`, with two norms for each branch, as in Gemma 2; else as "pre".

    attend, cross, mlp: any layers; usually `nf.attention`, the same with a context_dim, and `nf.feed_forward` or
        `nf.mixture_of_experts`.
    norm: "layer" (eps 1e-5 by default; with a bias if `bias`) or "rms" (eps 1e-6).
    dropout: of each branch's result.
    drop_path: of whole branches; rates in [0, 1].
    Paths: `attend`, `attend_norm`, `cross`, `cross_norm`, `mlp`, `mlp_norm`; with "both" `attend_post_norm`, ...
    Shapes: x [..., time, dim] -> y of the same shape; or an `nf.TransformerInput` with masks, lengths and a
    context; then y is that with the new x, so that blocks can be repeated.
    Raises: ValueError when x has no context for `cross`, or a context without it; TypeError for a dict.
    Source: Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745, for the order.

    >>> block = nf.transformer_block(8, nf.attention(8, 2, causal=True), nf.feed_forward(8, 32))
    >>> stack = nf.serial(blocks=nf.repeat(block, 4), norm=nf.layer_norm(8))
    >>> params = stack.init(jax.random.key(0))
    >>> stack.apply(params, jnp.ones((2, 5, 8))).shape, params["blocks"]["mlp"]["up"]["weight"].shape
    ((2, 5, 8), (4, 8, 32))
    """
    where = "transformer_block"
    check.size(where, dim=dim)
    check.choice(where, ("pre", "post", "both"), order=order)
    branches = {"attend": attend} | ({} if cross is None else {"cross": cross}) | {"mlp": mlp}
    children: dict[str, Layer] = {}
    for name, layer in branches.items():
        children |= {f"{name}_norm": make_norm(where, norm, dim, eps, bias), name: layer}
        if order == "both":
            children[f"{name}_post_norm"] = make_norm(where, norm, dim, eps, bias)
        if dropout is not None:
            children[f"{name}_drop"] = dropout_layer(dropout)
        if drop_path is not None:
            children[f"{name}_path"] = drop_path_layer(drop_path)

    def branch(net, name: str, x: Array, **others: Any) -> Array:
        inside = net[f"{name}_norm"](x) if order != "post" else x
        y = net[name](AttentionInput(inside, **others) if any(v is not None for v in others.values()) else inside)
        check.same_shape(f"{where}: {name}", branch_output=y, x=x)
        for after in (f"{name}_post_norm", f"{name}_drop", f"{name}_path"):
            y = net[after](y) if after in children else y
        return x + y if order != "post" else net[f"{name}_norm"](x + y)

    def flow(net, x):
        inputs = check.model_input(where, x, TransformerInput)
        if cross is not None and inputs.context is None:
            hint = "Write nf.TransformerInput(x, context=...)."
            check.fail(where, expected="x should have a context for the layer cross", actual="none", hint=hint)
        context = {"context": inputs.context, "mask": inputs.context_mask, "lengths": inputs.context_lengths}
        if cross is None and any(part is not None for part in context.values()):
            expected = "x should have no context, because the block has no layer cross"
            check.fail(where, expected=expected, actual="one")
        y = zero_nonfinite_padding(inputs.x, inputs.mask, inputs.lengths)
        y = branch(
            net, "attend", y, mask=inputs.mask, lengths=inputs.lengths, bias=inputs.bias, positions=inputs.positions
        )
        if cross is not None:
            y = branch(net, "cross", y, **context)
        y = branch(net, "mlp", y)
        return inputs._replace(x=y) if isinstance(x, TransformerInput) else y

    return wire(flow, **children)


Select = Callable[[Array, TokenInput], Array]
DecoderOutput = Literal["tokens", "hidden", "classes", "token_classes"]


def decoder_head(
    where: str, output: DecoderOutput, dim: int, vocab_size: int, classes: int, weight_init: Initializer
) -> dict[str, Layer]:
    """The layer `head` of a decoder, none for its hidden states. output, classes: those of `nf.gpt`."""
    check.choice(where, ("tokens", "hidden", "classes", "token_classes"), output=output)
    check.size(where, classes=classes)
    if output == "hidden":
        return {}
    size = vocab_size if output == "tokens" else classes
    return {"head": linear(dim, size, bias=output == "token_classes", weight_init=weight_init)}


def token_model(where: str, *, select: Select | None = None, **layers: Layer) -> Model:
    """A decoder: `serial(**layers)` of ids or of an `nf.TokenInput`; `positions` and `blocks` get its other parts.

    select: (states, x) -> the state that `head` reads, by default that of every token.
    """

    def flow(net, x):
        inputs = check.model_input(where, x, TokenInput)
        ids, positions = inputs.ids, inputs.positions
        check.integers(where, ids=ids)
        if positions is not None:
            check.integers(where, positions=positions)
            check.same_shape(where, positions=positions, ids=ids)
        masks = attention_padding("", inputs.mask, inputs.lengths, ids.shape[-1])
        y = ids
        for name in layers:
            if name == "positions" and positions is not None:
                y = net[name]((y, positions))
            elif name == "blocks" and any(part is not None for part in inputs[1:]):
                y = net[name](TransformerInput(y, **masks, positions=positions)).x
            elif name == "head" and select is not None:
                y = net[name](select(y, inputs))
            else:
                y = net[name](y)
        return y

    model = wire(flow, **layers)

    def forward(params, x, ctx):
        if ctx.cache is not None and isinstance(x, TokenInput) and (x.mask is not None or x.lengths is not None):
            expected, hint = "a sequence that is generated should have no padding", "See nf.generate, lengths=."
            check.fail(where, expected=expected, actual="a mask or lengths", hint=hint)
        return model.forward(params, x, ctx)

    return model.replace(forward=forward, name=where)


def last_token(padding: int | None) -> Select:
    """The state of the last token before the padding. padding: its id, where x has no mask and no lengths."""

    def select(y: Array, x: TokenInput) -> Array:
        mask = real_tokens(x, padding)
        if mask is None:
            return y[..., -1, :]
        return state_at(y, jnp.argmax(jnp.where(mask, jnp.arange(1, mask.shape[-1] + 1), 0), axis=-1))

    return select


def real_tokens(x: TokenInput, padding: int | None) -> Array | None:
    """Where x has no padding, booleans [..., time]; None for everywhere."""
    mask = None if x.mask is None else x.mask.astype(bool)
    if x.lengths is not None:
        inside = jnp.arange(x.ids.shape[-1]) < x.lengths[..., None]
        mask = inside if mask is None else mask & inside
    return x.ids != padding if mask is None and padding is not None else mask


def state_at(y: Array, index: Array) -> Array:
    """The state of one token of each sequence: [..., time, dim] -> [..., dim]. index: integers [...]."""
    return jnp.take_along_axis(y, jnp.broadcast_to(index, y.shape[:-2])[..., None, None], axis=-2)[..., 0, :]


def make_norm(where: str, norm: str, dim: int, eps: Scalar | None = None, bias: bool = True) -> Model:
    """The norm layer of a name, with the default eps of that layer when eps is None."""
    check.choice(where, ("layer", "rms"), norm=norm)
    if norm == "rms":
        return rms_norm(dim) if eps is None else rms_norm(dim, eps=eps)
    return layer_norm(dim, bias=bias) if eps is None else layer_norm(dim, bias=bias, eps=eps)


def attention_padding(where: str, mask: Array | None, lengths: Array | None, time: int) -> dict[str, Array | None]:
    """mask and lengths of a padded sequence as attention takes them.

    where: what precedes the two names in errors.

    Shapes: mask [..., time], true where there is a token, -> [..., 1, time] booleans; lengths [...].
    """
    if mask is not None:
        if mask.shape[-1:] != (time,):
            expected = f"it should be [..., {time}], true where there is a token"
            check.fail(f"{where}mask", expected=expected, actual=f"shape {mask.shape}")
        mask = mask.astype(bool)[..., None, :]
    if lengths is not None:
        check.integers(f"{where}lengths", lengths=lengths)
        check.within(f"{where}lengths", 0, time, lengths=lengths)
    return {"mask": mask, "lengths": lengths}
