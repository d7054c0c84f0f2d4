"""The block of a Transformer: attention and a perceptron, each added to its input and normalized."""

from typing import Any, Literal, NamedTuple

from nnfunc import check
from nnfunc.base import Array, Layer, Model, Scalar
from nnfunc.combinators import wire
from nnfunc.layers.attention.layer import AttentionInput
from nnfunc.layers.attention.masks import zero_nonfinite_padding
from nnfunc.layers.dropout import drop_path as drop_path_layer
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.norm import layer_norm, rms_norm

__all__ = ["TransformerInput", "transformer_block"]


class TransformerInput(NamedTuple):
    """The x of `nf.transformer_block` with the padding of its sequences, and the context of a decoder.

    x: [..., time, dim]. mask, lengths, bias: those of the self-attention, as in `nf.AttentionInput`.
    context: the sequence that cross-attention reads, [..., source, context_dim], for a block with `cross`.
    context_mask: booleans [..., time, source], True where a position may attend to it. context_lengths:
    integers [...], the number of positions of each context that count.
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


def transformer_block(
    dim: int,
    attend: Layer,
    mlp: Layer,
    *,
    cross: Layer | None = None,
    order: Literal["pre", "post"] = "pre",
    norm: Literal["layer", "rms"] = "layer",
    eps: Scalar | None = None,
    bias: bool = True,
    dropout: Scalar | None = None,
    drop_path: Scalar | None = None,
) -> Model:
    """Attention, then cross-attention in a decoder, then a perceptron, each as a branch:

    order "pre": `x = x + branch(norm(x))`, as in GPT-2 and Llama; a stack of them is followed by a
    norm. "post": `x = norm(x + branch(x))`, as in the paper and BERT; a stack of them needs warm-up.

    attend, cross, mlp: any layers; usually `nf.attention`, the same with a context_dim, and
    `nf.feed_forward` or `nf.mixture_of_experts`. norm: "layer" (eps 1e-5 by default; with a bias if `bias`) or
    "rms" (eps 1e-6). dropout: of each branch's result; drop_path: of whole branches; rates in [0, 1].
    Paths: `attend`, `attend_norm`, `cross`, `cross_norm`, `mlp`, `mlp_norm`.
    Shapes: x [..., time, dim] -> y of the same shape; or an `nf.TransformerInput` with masks, lengths
    and a context; then y is that with the new x, so that blocks can be repeated.
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
    check.choice(where, ("pre", "post"), order=order)
    branches = {"attend": attend} | ({} if cross is None else {"cross": cross}) | {"mlp": mlp}
    children: dict[str, Layer] = {}
    for name, layer in branches.items():
        children |= {f"{name}_norm": make_norm(where, norm, dim, eps, bias), name: layer}
        if dropout is not None:
            children[f"{name}_drop"] = dropout_layer(dropout)
        if drop_path is not None:
            children[f"{name}_path"] = drop_path_layer(drop_path)

    def branch(net, name: str, x: Array, **others: Any) -> Array:
        inside = net[f"{name}_norm"](x) if order == "pre" else x
        y = net[name](AttentionInput(inside, **others) if any(v is not None for v in others.values()) else inside)
        check.same_shape(f"{where}: {name}", branch_output=y, x=x)
        for after in (f"{name}_drop", f"{name}_path"):
            y = net[after](y) if after in children else y
        return x + y if order == "pre" else net[f"{name}_norm"](x + y)

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
        y = branch(net, "attend", y, mask=inputs.mask, lengths=inputs.lengths, bias=inputs.bias)
        if cross is not None:
            y = branch(net, "cross", y, **context)
        y = branch(net, "mlp", y)
        return inputs._replace(x=y) if isinstance(x, TransformerInput) else y

    return wire(flow, **children)


def make_norm(where: str, norm: str, dim: int, eps: Scalar | None = None, bias: bool = True) -> Model:
    """The norm layer of a name, with the default eps of that layer when eps is None."""
    check.choice(where, ("layer", "rms"), norm=norm)
    if norm == "rms":
        return rms_norm(dim) if eps is None else rms_norm(dim, eps=eps)
    return layer_norm(dim, bias=bias) if eps is None else layer_norm(dim, bias=bias, eps=eps)


def attention_padding(where: str, mask: Array | None, lengths: Array | None, time: int) -> dict[str, Array | None]:
    """mask and lengths of a padded sequence as attention takes them. where: what precedes the two names in errors.

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
