"""The block of a Transformer: attention and a perceptron, each added to its input and normalized."""

from typing import Literal

from nnfunc import check
from nnfunc.base import Array, Layer, Model, PyTree, Scalar
from nnfunc.combinators import wire
from nnfunc.layers.attention.layer import AttentionInput
from nnfunc.layers.attention.masks import zero_nonfinite_padding
from nnfunc.layers.dropout import drop_path as drop_path_layer
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.norm import layer_norm, rms_norm

__all__ = ["transformer_block"]


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
    Shapes: x [..., time, dim] -> y of the same shape; or a dict with x and, all optional, mask, lengths
    and bias for attend, and context, context_mask and context_lengths for cross; then y is the dict
    with the new x, so that blocks can be repeated.
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

    def branch(net, name: str, x: Array, others: dict[str, PyTree]) -> Array:
        inside = net[f"{name}_norm"](x) if order == "pre" else x
        y = net[name](AttentionInput(inside, **others) if others else inside)
        check.same_shape(f"{where}: {name}", branch_output=y, x=x)
        for after in (f"{name}_drop", f"{name}_path"):
            y = net[after](y) if after in children else y
        return x + y if order == "pre" else net[f"{name}_norm"](x + y)

    def flow(net, x):
        given = x if isinstance(x, dict) else {"x": x}
        _known(given, cross is not None)
        own = {name: given[name] for name in ("mask", "lengths", "bias") if name in given}
        y = zero_nonfinite_padding(given["x"], own.get("mask"), own.get("lengths"))
        y = branch(net, "attend", y, own)
        if cross is not None:
            about = {"context": "context", "mask": "context_mask", "lengths": "context_lengths"}
            others = {name: given[its] for name, its in about.items() if its in given}
            y = branch(net, "cross", y, others)
        y = branch(net, "mlp", y, {})
        return {**given, "x": y} if isinstance(x, dict) else y

    return wire(flow, **children)


def make_norm(where: str, norm: str, dim: int, eps: Scalar | None = None, bias: bool = True) -> Model:
    """The norm of a name, with its own eps when none is given."""
    check.choice(where, ("layer", "rms"), norm=norm)
    if norm == "rms":
        return rms_norm(dim) if eps is None else rms_norm(dim, eps=eps)
    return layer_norm(dim, bias=bias) if eps is None else layer_norm(dim, bias=bias, eps=eps)


def padding(x: dict[str, PyTree], mask: str, lengths: str, time: int) -> dict[str, Array]:
    """What attention is to know of a padded sequence: a mask [..., time] or the lengths [...]."""
    known: dict[str, Array] = {}
    if mask in x:
        if x[mask].shape[-1:] != (time,):
            check.fail(
                mask,
                expected=f"it should be [..., {time}], true where there is a token",
                actual=f"shape {x[mask].shape}",
            )
        known["mask"] = x[mask].astype(bool)[..., None, :]
    if lengths in x:
        check.integers(lengths, lengths=x[lengths])
        check.within(lengths, 0, time, lengths=x[lengths])
        known["lengths"] = x[lengths]
    return known


def _known(given: dict[str, PyTree], decoder: bool) -> None:
    names = ["x", "mask", "lengths", "bias"]
    names += ["context", "context_mask", "context_lengths"] if decoder else []
    for name in given:
        if name not in names:
            problem = f"x should hold {', '.join(names)}, got {name!r}"
            check.fail("transformer_block", f"{problem}{check.nearest(name, names)}")
    for name in ("x", "context") if decoder else ("x",):
        if name not in given:
            got = f"got a dict with {sorted(given)}"
            check.fail("transformer_block", f"x should hold {name!r}, {got}.")
