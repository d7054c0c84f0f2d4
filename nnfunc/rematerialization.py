"""Values that are computed again in the backward pass instead of stored: activations, and gathered parameters."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import jax

from nnfunc import check, paths
from nnfunc.base import Context, Layer, Model, Out, Params, PyTree, Remat, as_model, runs_eagerly
from nnfunc.sums import without_sums
from nnfunc.taps import SAVED, absolute, call_watched

RematPolicyName = Literal["dots", "dots_with_no_batch_dims", "everything", "nothing"]

RematPolicy = RematPolicyName | Sequence[str] | Callable[..., Any] | None
"""Which values `remat` stores."""

_POLICIES: dict[str, Callable[..., Any]] = {
    "dots": without_sums(jax.checkpoint_policies.checkpoint_dots),
    "dots_with_no_batch_dims": without_sums(jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims),
    "everything": jax.checkpoint_policies.everything_saveable,
    "nothing": jax.checkpoint_policies.nothing_saveable,
}


def _parse_policy(where: str, policy: RematPolicy) -> Remat:
    """The policy as one of `jax.checkpoint`; patterns are relative."""
    if policy is None or callable(policy):
        return Remat(policy, None if policy is None else ())
    if isinstance(policy, str):
        check.choice(where, _POLICIES, policy=policy)
        return Remat(_POLICIES[policy], None)
    return Remat(jax.checkpoint_policies.save_only_these_names(SAVED), paths.as_patterns(policy, where=where))


def absolute_names(ctx: Context, remat: Remat) -> Remat:
    return remat._replace(names=remat.names and absolute(ctx, remat.names))


def recomputed(forward: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """The forward, recomputed in the backward pass."""

    def run(params: Params, x: PyTree, ctx: Context) -> tuple[PyTree, Out]:
        ctx = replace(ctx, names=ctx.names if remat.names is None else remat.names)
        try:
            return jax.checkpoint(forward, policy=remat.policy)(params, x, ctx)
        except (TypeError, AttributeError, IndexError) as error:
            if not runs_eagerly(error, params, x, ctx):
                raise
        return forward(params, x, ctx)  # for a layer that reads its values, as to print them

    return run


_MOVES = {"sharding_constraint", "convert_element_type", "concatenate", "reshape", "transpose", "broadcast_in_dim"}
"""The primitives that only move or convert values: weights after them are as large as before."""


def gathering(layer: Model | Callable[..., Any], ctx: Context) -> Callable[..., tuple[PyTree, Out]]:
    """The forward of a layer, with its parameters gathered from all devices, again in the backward pass.

    So none of them is stored whole. Layers with parts leave it to these, so that `remat` inside is what it was.
    layer: a model, or a function (params, x, ctx) -> (y, Out) that casts and reads its parameters.
    ctx: of the call.
    """
    is_model = isinstance(layer, Model)
    forward, parts, full = (layer.forward, layer.parts, layer.full_precision) if is_model else (layer, {}, False)
    partition = ctx.partition
    if partition is None or not partition.gathers or parts:
        return forward

    def run(params: Params, x: PyTree, ctx: Context) -> tuple[PyTree, Out]:
        return forward(partition.gather(params, ctx, full), x, ctx)

    if ctx.remat is not None and "*" in ctx.path:
        return run  # the whole block is recomputed, and with it what it gathers
    save = lambda primitive, *_, **__: primitive.name not in _MOVES
    return jax.checkpoint(run, policy=save, prevent_cse="*" not in ctx.path)


def remat(body: Layer, *, policy: RematPolicy = None) -> Model:
    """The body, recomputed in the backward pass instead of stored: less memory, more time.

    body: the layer.
    policy: which values to store all the same. None, the default: only the inputs. A list of path patterns
        (`nf.paths`) of values inside of the body, as `nf.capture` takes them. "dots": the results of matrix
        products; "dots_with_no_batch_dims": of those without a batch of matrices, so not the scores of attention;
        "everything"; "nothing". Or one of `jax.checkpoint_policies`, in which every value inside has the name of
        its layer: `save_only_these_names("attend")`.
    Raises: ValueError when a pattern matches no value of the body, naming the nearest, or there is no such policy.

    >>> block = nf.remat(nf.serial(nf.linear(4, 8), jax.nn.relu))
    >>> block.apply(block.init(jax.random.key(0)), jnp.ones((2, 4))).shape
    (2, 8)
    """
    body, parsed = as_model(body, where="remat"), _parse_policy("remat", policy)

    def forward(params, x, ctx):
        run = recomputed(body.forward, absolute_names(ctx, parsed))
        return call_watched("remat", parsed.names, run, params, x, ctx)[:2] if parsed.names else run(params, x, ctx)

    return body.replace(forward=forward)


def remat_repeats(model: Layer, *, policy: RematPolicy = None) -> Model:
    """The model, with the blocks of every `repeat` inside recomputed in the backward pass.

    It stores the values between blocks, and of those inside them the ones that the policy chooses.
    In a config: `task = { remat = true }`, `"dots"` or `["blocks/*/attend"]`.

    model: a layer with a `repeat` inside.
    policy: as in `remat`, None by default; the patterns are of values of the model, such as `blocks/*/attend`.
    Raises: ValueError when there is no repeat inside, a pattern matches no value, or there is no such policy.

    >>> deep = nf.remat_repeats(nf.repeat(nf.residual(nf.linear(4, 4)), 100))
    >>> deep.apply(deep.init(jax.random.key(0)), jnp.ones((2, 4))).shape
    (2, 4)
    """
    model, parsed = as_model(model, where="remat_repeats"), _parse_policy("remat_repeats", policy)

    def forward(params, x, ctx):
        ctx = replace(ctx, remat=absolute_names(ctx, parsed))
        y, out, watch = call_watched("remat_repeats", parsed.names or (), model.forward, params, x, ctx)
        if not watch.repeats:
            hint = "Wrap the parts that take much memory: nf.remat(body)."
            check.fail("remat_repeats", expected="the model should have a repeat inside", actual="none", hint=hint)
        return y, out

    return model.replace(forward=forward)
