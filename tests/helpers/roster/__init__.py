"""One row for every public factory and function: how to call it, on what, and two values a number.

`test_laws.py` runs every law over this table. A new layer is tested by adding a row to MODELS, a plain
function by one to FUNCTIONS. `name:variant` is a further row of the same factory. numbers: two values
for each argument annotated Scalar; the first ones are used where only one is wanted.
"""

import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nnfunc as nf
from helpers.roster import attention as rows_attention
from helpers.roster import augment as rows_augment
from helpers.roster import generation as rows_generation
from helpers.roster import recurrent as rows_recurrent
from helpers.roster import transformer as rows_transformer
from helpers.roster import vision as rows_vision
from helpers.roster import vision_models as rows_vision_models
from helpers.roster.row import CLASS_WEIGHTS, IMAGES, KEY, LABELS, OTHER, SHARES, YES, Row, X, ids, sample


def block() -> nf.Model:
    inside = {"norm": nf.batch_norm(6), "up": nf.linear(6, 6), "act": jnp.tanh, "drop": nf.dropout(0.3)}
    return nf.residual(nf.serial(**inside))


ADAPTED = nf.serial(up=nf.linear(6, 4), norm=nf.batch_norm(4), drop=nf.dropout(0.3), down=nf.linear(4, 3))


def gated(net, x):
    return net.value(x) * jax.nn.sigmoid(net.gate(x)) + net.value(x)


MODELS: dict[str, Row] = {
    # layers
    "linear": Row((6, 3)),
    "linear:plain": Row((6, 3), {"bias": False}),
    "bilinear": Row((6, 4, 3), x=(sample(4, 6), sample(4, 4))),
    "bias": Row((6,), {"bias_init": nf.initializers.normal(1.0)}),
    "scale": Row((6,), numbers={"initial": (0.5, 2.0)}),
    "prelu": Row((), numbers={"initial": (0.25, 0.5)}, any_width=True),
    "prelu:channels": Row((6,), numbers={"initial": (0.25, 0.5)}),
    "prelu:positions": Row(((2, 1, 6),), numbers={"initial": (0.25, 0.5)}, x=sample(4, 2, 3, 6)),
    "dropout": Row(numbers={"rate": (0.25, 0.5)}, any_width=True),
    "dropout:shared": Row((), {"shared": (1,)}, {"rate": (0.4, 1.0)}, any_width=True),
    "drop_path": Row(numbers={"rate": (0.5, 0.25)}, any_width=True),
    "alpha_dropout": Row(numbers={"rate": (0.25, 0.5)}, any_width=True),
    "batch_norm": Row((6,), numbers={"momentum": (0.1, 0.5), "eps": (1e-5, 1e-2)}),
    "batch_norm:paper": Row((6,), {"convention": "paper", "affine": False}, x=IMAGES),
    "batch_norm:biased": Row((6,), {"unbiased": False}, x=IMAGES),
    "layer_norm": Row((6,), numbers={"eps": (1e-5, 1e-2)}),
    "rms_norm": Row((6,), numbers={"eps": (1e-5, 1e-2)}),
    "group_norm": Row((2, 6), {}, {"eps": (1e-5, 1e-2)}, IMAGES, leading_axes=False),
    "group_norm:spatial": Row((2, 6), {"spatial": 2}, x=IMAGES),
    "instance_norm": Row((6,), {}, {"eps": (1e-5, 1e-2)}, IMAGES, leading_axes=False),
    "instance_norm:running": Row((6,), {"running_stats": True}, {"momentum": (0.1, 0.5)}, IMAGES, leading_axes=False),
    "local_response_norm": Row((3,), {}, {"alpha": (0.5, 1.0), "beta": (0.75, 0.5), "k": (1.0, 2.0)}, any_width=True),
    "weight_norm": Row((nf.serial(nf.linear(6, 4), nf.batch_norm(4), nf.dropout(0.3), nf.linear(4, 3)),)),
    "spectral_norm": Row(
        (nf.serial(nf.linear(6, 4), nf.batch_norm(4), nf.dropout(0.3), nf.linear(4, 3)),),
        {"steps": 2},
        {"eps": (1e-12, 5.0)},
        without=("derivatives_are_right",),  # none goes through its vectors: test_layer_options.py
    ),
    "einsum_linear": Row(("td,dhk->thk", (6, 2, 3)), x=sample(3, 4, 6)),
    "embedding": Row((5, 3), x=ids(4, 2, below=5)),
    "embedding:padding": Row(
        (5, 3),
        {"padding_index": 2},
        x=ids(4, 2, below=5),
        without=("derivatives_are_right",),  # none moves the vector of padding: test_layer_options.py
    ),
    "flatten": Row(x=IMAGES, any_width=True, leading_axes=False),
    # combinators
    "serial": Row((nf.linear(6, 4), jax.nn.gelu), {"norm": nf.batch_norm(4), "drop": nf.dropout(0.3)}),
    "parallel": Row((), {"line": nf.linear(6, 3), "bend": jnp.tanh, "norm": nf.batch_norm(6)}),
    "residual": Row((nf.serial(nf.linear(6, 6), nf.dropout(0.3)),)),
    "wire": Row((gated,), {"value": nf.serial(nf.linear(6, 3), nf.dropout(0.3)), "gate": nf.linear(6, 3)}),
    "repeat": Row((block(), 3)),
    "repeat:unrolled": Row((nf.serial(nf.linear(6, 6), nf.dropout(0.3)), 2), {"unroll": 2}),
    "remat_repeats": Row((nf.repeat(nf.serial(nf.linear(6, 6), nf.dropout(0.3)), 2),)),
    "remat": Row((nf.serial(nf.linear(6, 6), nf.batch_norm(6), nf.dropout(0.3)),)),
    "tie": Row(
        (
            nf.serial(up=nf.linear(6, 3, bias=False), down=nf.linear(3, 6, bias=False)),
            {"down/weight": ("up/weight", jnp.transpose)},
        )
    ),
    "precision": Row(
        (nf.serial(nf.linear(6, 4), nf.layer_norm(4)),), smooth=False, tolerance=0.05
    ),  # bfloat16 has eight bits
    "ensemble": Row((nf.serial(nf.linear(6, 2), nf.dropout(0.3)), 2), leading_axes=False),
    "lora": Row(
        (ADAPTED, ADAPTED.init(KEY), "**/weight"),
        {"rank": 2},
        {"alpha": (4.0, 8.0)},
        without=("derivatives_are_right",),  # its base is float32: test_lora.py
    ),
    "patch": Row(
        (nf.serial(up=nf.linear(6, 3), act=jnp.tanh, drop=nf.dropout(0.5)), {"act": sample(4, 3)}),
        leading_axes=False,
        without=("precision_is_a_wrapper", "derivatives_are_right"),  # the given value is float32
    ),
    "tapped": Row((nf.serial(up=nf.linear(6, 3), act=jnp.tanh, norm=nf.batch_norm(3), drop=nf.dropout(0.5)), "act")),
    "as_model": Row((lambda x: x * x,), any_width=True),
    # models
    "mlp": Row(([6, 5, 3],), {"norm": "layer", "activation": "tanh"}, {"dropout": (0.25, 0.5), "gain": (1.0, 0.5)}),
    "table_model": Row(
        (6, (4, 3), 2),
        {"hidden": (5,), "activation": "tanh", "norm": "layer"},
        {"dropout": (0.25, 0.5), "embedding_dropout": (0.25, 0.5)},
        x={"numbers": X, "categories": ids(4, 2, below=3)},
        order=1,
    ),
}
AREAS = (
    rows_vision,
    rows_vision_models,
    rows_recurrent,
    rows_attention,
    rows_augment,
    rows_transformer,
    rows_generation,
)
for area in AREAS:
    MODELS |= area.MODELS

# Activations are layers without parameters. Their laws run on all of them side by side.
ACTIVATIONS: dict[str, Row] = {
    name: Row(any_width=True)
    for name in (
        "identity",
        "sigmoid",
        "tanh",
        "relu",
        "relu6",
        "selu",
        "gelu",
        "gelu_tanh",
        "quick_gelu",
        "silu",
        "swish",
        "mish",
        "log_sigmoid",
        "softsign",
        "tanh_shrink",
        "hard_swish",
        "hard_silu",
        "squared_relu",
        "softmax",
        "softmin",
        "log_softmax",
    )
} | {
    "softplus": Row(numbers={"beta": (1.0, 0.5), "threshold": (np.inf, 0.1)}, any_width=True),
    "hard_sigmoid": Row(numbers={"slope": (1 / 6, 0.4)}, any_width=True),
    "hard_tanh": Row(numbers={"lower": (-1.0, -0.5), "upper": (1.0, 0.7)}, any_width=True),
    "soft_shrink": Row(numbers={"threshold": (0.5, 0.3)}, any_width=True),
    "hard_shrink": Row(numbers={"threshold": (0.5, 0.3)}, any_width=True),
    "threshold": Row(numbers={"threshold": (0.0, 0.3), "value": (0.0, -1.0)}, any_width=True),
    "leaky_relu": Row(numbers={"slope": (0.01, 0.3)}, any_width=True),
    "prelu": Row(numbers={"slope": (0.25, 0.3)}, any_width=True),
    "elu": Row(numbers={"alpha": (1.0, 0.5)}, any_width=True),
    "celu": Row(numbers={"alpha": (1.0, 0.5)}, any_width=True),
    "glu": Row(),
    "bilinear_glu": Row(),
    "reglu": Row(),
    "geglu": Row(),
    "swiglu": Row(),
}

SIGNS = np.sign(OTHER).astype(np.int32)
DIRECT = {"args": (KEY, (4, 3)), "numbers": {"gain": (1.0, 0.5)}}


def drawn(init):
    return init(KEY, (4, 3))


def curve(schedule):
    return schedule(jnp.arange(14))


def plateau_run(schedule):
    def update(state, metric):
        state = schedule.update(state, metric)
        return state, state.value

    metrics = jnp.asarray([3.0, 2.0, 2.0, 1.9995, 2.0, 1.0, 1.5, 1.5, 1.5, 1.5, 1.5])
    return jax.lax.scan(update, schedule.init(), metrics)


def streamed(prediction, target):
    def values(metric):
        state = metric.update(metric.init(), prediction, target)
        state = metric.update(state, prediction[:3], target[:3], mask=jnp.array([True, False, True]))
        return metric.compute(state)

    return values


def stepped(optimizer):
    """Three steps of descent; the rate, too, where the optimizer tells it."""
    params = {"weight": jnp.asarray(sample(3, 2)), "bias": jnp.asarray(sample(2))}
    state = optimizer.init(params)
    for i in range(3):
        grads = jax.tree.map(lambda leaf, i=i: jnp.sin(leaf + i), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, optimizer.learning_rate(2) if optimizer.learning_rate else 0.0


ADAM = nf.optimizers.adam(0.1)  # a pytree of functions, of which the laws rebuild the bare pair


def averaged(average):
    """What is read after each of four steps; the count among the params is not averaged."""
    path = {"weight": jnp.asarray(sample(4, 3)), "count": jnp.arange(4)}

    def step(state, at):
        state = average.update(state, *at)
        return state, average.read(state, at[0])

    start = average.init(jax.tree.map(lambda leaf: leaf[0], path))
    return jax.lax.scan(step, start, (path, jnp.arange(4)))[1]


def judged(target):
    return lambda objective: objective(jnp.sin, (X, target))


def one_logit(target):
    return lambda objective: objective(lambda x: jnp.sin(x[:, :1]), (X, target))


def shifted_views(key, batch):
    return batch[0] + 0.1 * jax.random.normal(key, batch[0].shape), batch[1]


def judged_with_key(target):
    return lambda objective: objective(jnp.sin, (X, target), key=KEY)


def small_task(hypers):
    return nf.Task(nf.serial(nf.linear(6, 6), block()), nf.classification(), nf.optimizers.sgd(0.1))


def one_step(pair):
    return jax.jit(lambda: pair.step({}, pair.init({}, KEY), (X, LABELS))[1])()


COUNTS = LABELS[:, None] + 0 * YES.astype(np.int32)

FUNCTIONS: dict[str, Row] = {
    # initializers
    "initializers.zeros": Row((KEY, (4, 3))),
    "initializers.ones": Row((KEY, (4, 3))),
    "initializers.constant": Row(numbers={"value": (0.5, 2.0)}, then=drawn),
    "initializers.normal": Row(numbers={"std": (0.5, 2.0), "mean": (0.0, 1.5)}, then=drawn),
    "initializers.truncated_normal": Row(
        (),
        {"corrected": True},
        {"std": (0.5, 2.0), "lower": (-2.0, -1.0), "upper": (2.0, 1.0), "mean": (0.0, 1.5)},
        then=drawn,
    ),
    "initializers.truncated_normal:plain": Row(numbers={"std": (0.5, 2.0)}, then=drawn),
    "initializers.uniform": Row(numbers={"lower": (-1.0, 0.0), "upper": (1.0, 2.0)}, then=drawn),
    **{
        f"initializers.{name}": Row(**DIRECT)
        for name in (
            "xavier_normal",
            "xavier_uniform",
            "glorot_normal",
            "glorot_uniform",
            "he_normal",
            "he_uniform",
            "kaiming_normal",
            "kaiming_uniform",
            "lecun_normal",
            "lecun_uniform",
            "orthogonal",
        )
    },
    "initializers.variance_scaling": Row(numbers={"scale": (1.0, 2.0)}, then=drawn),
    "initializers.variance_scaling:cut": Row(
        (), {"distribution": "truncated_normal", "mode": "fan_avg"}, {"scale": (1.0, 2.0)}, then=drawn
    ),
    "initializers.scaled": Row((nf.initializers.he_normal,), numbers={"gain": (1.0, 0.5)}, then=drawn),
    "initializers.init_for": Row(("leaky_relu",), numbers={"slope": (0.01, 0.5)}, then=drawn),
    # schedules
    "schedules.constant": Row(numbers={"value": (0.5, 2.0)}, then=curve),
    "schedules.as_schedule": Row(numbers={"value": (0.5, 2.0)}, then=curve),
    "schedules.linear": Row(numbers={"start": (1.0, 0.5), "final": (0.0, 0.1), "total_steps": (9, 0)}, then=curve),
    "schedules.polynomial": Row(
        numbers={"start": (1.0, 0.5), "total_steps": (9, 6), "power": (2.0, 0.5), "final": (0.0, 0.1)}, then=curve
    ),
    "schedules.exponential": Row(numbers={"start": (1.0, 0.5), "factor": (0.9, 1.0), "every": (1, 3)}, then=curve),
    "schedules.step": Row(numbers={"start": (1.0, 0.5), "factor": (0.5, 1.0), "every": (4, 3)}, then=curve),
    "schedules.multistep": Row(
        numbers={"start": (1.0, 0.5), "milestones": ((3, 7), (2, 9)), "factor": (0.5, 1.0)}, then=curve
    ),
    "schedules.cosine": Row(numbers={"start": (1.0, 0.5), "total_steps": (9, 0), "final": (0.0, 0.1)}, then=curve),
    "schedules.cosine_restarts": Row(
        numbers={"start": (1.0, 0.5), "period": (3, 4), "multiplier": (2.0, 1.0), "final": (0.0, 0.1)}, then=curve
    ),
    **{
        f"schedules.cyclic:{mode}": Row(
            (),
            {"mode": mode},
            {"start": (0.1, 0.2), "peak": (1.0, 2.0), "rise_steps": (3, 2), "fall_steps": (4, 2)}
            | ({"factor": (0.9, 1.0)} if mode == "exp_range" else {}),
            then=curve,
        )
        for mode in ("triangular", "triangular2", "exp_range")
    },
    "schedules.join": Row(
        ([nf.schedules.linear(1.0, 5), nf.schedules.cosine(0.5, 4), 0.25],),
        numbers={"boundaries": ((3, 7), (2, 9))},
        then=curve,
    ),
    "schedules.inverse_sqrt": Row(numbers={"peak": (1.0, 0.5), "warmup_steps": (4, 0)}, then=curve),
    "schedules.warmup": Row(numbers={"then": (0.5, 1.0), "warmup_steps": (4, 3), "start": (0.1, 0.2)}, then=curve),
    "schedules.warmup:cosine": Row((nf.schedules.cosine(1.0, 8),), numbers={"warmup_steps": (4, 0)}, then=curve),
    **{
        f"schedules.{name}": Row(
            numbers={"peak": (1.0, 2.0), "warmup_steps": (3, 0), "total_steps": (12, 9), "final": (0.0, 0.1)},
            then=curve,
        )
        for name in ("warmup_cosine", "warmup_linear")
    },
    **{
        f"schedules.{name}:start": Row((1.0, 3, 12), more, {"start": (0.0, 0.1)}, then=curve)
        for name, more in (("warmup_cosine", {}), ("warmup_linear", {}), ("warmup_stable_decay", {"decay_steps": 4}))
    },
    **{
        f"schedules.warmup_stable_decay:{shape}": Row(
            (),
            {"shape": shape},
            {
                "peak": (1.0, 2.0),
                "warmup_steps": (3, 0),
                "decay_steps": (4, 0),
                "total_steps": (12, 9),
                "final": (0.0, 0.1),
            },
            then=curve,
        )
        for shape in ("linear", "cosine", "sqrt")
    },
    **{
        f"schedules.one_cycle:{anneal}_{three}": Row(
            (),
            {"anneal": anneal, "three_phase": three},
            {
                "peak": (1.0, 2.0),
                "total_steps": (12, 9),
                "rise": (0.3, 0.45),
                "start_factor": (25.0, 10.0),
                "final_factor": (1e4, 100.0),
            },
            then=curve,
        )
        for anneal, three in (("cosine", False), ("linear", True))
    },
    "schedules.by_epoch": Row(
        (nf.schedules.exponential(1.0, factor=0.5),), numbers={"steps_per_epoch": (3, 4)}, then=curve
    ),
    "reduce_on_plateau": Row(
        numbers={
            "factor": (0.5, 1.0),
            "patience": (1, 2),
            "cooldown": (0, 1),
            "threshold": (1e-4, 0.0),
            "floor": (0.0, 0.4),
        },
        then=plateau_run,
    ),
    "schedules.plateau": Row(
        numbers={
            "start": (1.0, 0.5),
            "factor": (0.5, 1.0),
            "patience": (1, 2),
            "cooldown": (0, 1),
            "threshold": (1e-4, 0.0),
            "floor": (0.0, 0.4),
        },
        then=plateau_run,
    ),
    # losses: x and targets as they are given to the function, differentiated by every float
    "losses.cross_entropy": Row(
        (X, LABELS), {"weight": CLASS_WEIGHTS, "ignore_index": 1}, {"label_smoothing": (0.0, 0.3)}, differentiate=True
    ),
    "losses.cross_entropy_dense": Row(
        (X, SHARES), {"weight": CLASS_WEIGHTS}, {"label_smoothing": (0.0, 0.3)}, differentiate=True
    ),
    "losses.focal": Row((X, LABELS), numbers={"gamma": (2.0, 0.0), "alpha": (0.25, 1.0)}, differentiate=True),
    "losses.binary_cross_entropy": Row((SHARES, YES), numbers={"label_smoothing": (0.1, 0.0)}, differentiate=True),
    "losses.binary_cross_entropy_with_logits": Row(
        (X, YES), numbers={"label_smoothing": (0.1, 0.0), "pos_weight": (1.0, 3.0)}, differentiate=True
    ),
    "losses.binary_cross_entropy_with_logits:labels": Row(
        (X, YES), numbers={"pos_weight": ((0.5, 1.0, 2.0, 0.0, 3.0, 1.5), 6 * (1.0,))}, differentiate=True
    ),
    "losses.binary_focal": Row((X, YES), numbers={"gamma": (2.0, 0.0), "alpha": (0.25, 1.0)}, differentiate=True),
    "losses.mse": Row((X, OTHER), differentiate=True),
    "losses.mae": Row((X, OTHER), differentiate=True),
    "losses.huber": Row((X, OTHER), numbers={"delta": (1.0, 0.3)}, differentiate=True),
    "losses.smooth_l1": Row((X, OTHER), numbers={"beta": (1.0, 0.3)}, differentiate=True),
    "losses.kl_divergence": Row((X, SHARES), differentiate=True),
    "losses.kl_divergence:terms": Row((X, SHARES), {"per_class": True}, differentiate=True),
    "losses.hinge": Row((X, SIGNS), numbers={"margin": (1.0, 0.3)}, differentiate=True),
    "losses.cosine_distance": Row((X, OTHER), numbers={"eps": (1e-8, 2.0)}, differentiate=True),
    "losses.triplet": Row(
        (X, OTHER, OTHER[::-1]),
        {"swap": True},
        {"margin": (1.0, 0.3), "p": (2.0, 1.5), "eps": (0.0, 0.1)},
        differentiate=True,
    ),
    "losses.poisson_nll": Row(
        (X, LABELS[:, None] + 0 * YES.astype(np.int32)), {"full": True}, {"eps": (1e-8, 0.1)}, differentiate=True
    ),
    "losses.poisson_nll:rate": Row(
        (SHARES, LABELS[:, None] + 0 * YES.astype(np.int32)),
        {"full": "stirling", "log_input": False},
        {"eps": (1e-8, 0.1)},
        differentiate=True,
    ),
    "losses.nll": Row((np.log(SHARES), LABELS), {"weight": CLASS_WEIGHTS, "ignore_index": 1}, differentiate=True),
    "losses.ctc": Row(
        (sample(2, 5, 4), 1 + ids(2, 2, below=3)),
        {"logit_lengths": np.array([5, 3]), "label_lengths": np.array([2, 1])},
        differentiate=True,
    ),
    "losses.soft_margin": Row((X, SIGNS), differentiate=True),
    "losses.hinge_embedding": Row((X, SIGNS), numbers={"margin": (1.0, 0.3)}, differentiate=True),
    "losses.margin_ranking": Row((X, OTHER, SIGNS), numbers={"margin": (0.4, 0.0)}, differentiate=True),
    "losses.multiclass_margin": Row(
        (X, LABELS),
        {"weight": CLASS_WEIGHTS, "ignore_index": 1},
        {"p": (2.0, 1.5), "margin": (1.0, 0.3)},
        differentiate=True,
    ),
    "losses.multilabel_margin": Row((X, YES), numbers={"margin": (1.0, 0.3)}, differentiate=True),
    "losses.cosine_embedding": Row((X, OTHER, SIGNS[:, 0]), numbers={"margin": (0.0, -0.3)}, differentiate=True),
    "losses.gaussian_nll": Row(((X, SHARES), OTHER), {"full": True}, {"floor": (1e-6, 0.2)}, differentiate=True),
    "losses.pinball": Row((X, OTHER), numbers={"quantile": (0.5, 0.1)}, differentiate=True),
    "losses.pinball:quantiles": Row((X, OTHER), {"quantile": np.linspace(0, 1, 6)}, differentiate=True),
    "losses.masked_mean": Row((X, OTHER > 0), differentiate=True),
    # metrics of one example each, and streaming ones over two batches
    "metrics.accuracy": Row((X, LABELS)),
    "metrics.top_k_accuracy": Row((X, LABELS), {"k": 2}),
    "metrics.binary_accuracy": Row((X, YES)),
    "metrics.mean": Row((nf.losses.mse,), then=streamed(X, OTHER)),
    "metrics.r2": Row(then=streamed(X, OTHER)),
    "metrics.top_k": Row((2,), then=streamed(X, LABELS)),
    "metrics.perplexity": Row((), {"ignore_index": 1}, then=streamed(X, LABELS)),
    "metrics.calibration": Row((5,), then=streamed(X, LABELS)),
    **{f"metrics.{name}": Row((6,), then=streamed(X, LABELS)) for name in ("confusion", "f1", "precision", "recall")},
    "metrics.collect": Row((), {"r2": nf.metrics.r2(), "mse": nf.metrics.mean(nf.losses.mse)}, then=streamed(X, OTHER)),
    # optimizers: three steps
    "optimizers.sgd": Row(
        (),
        {"nesterov": True},
        {
            "learning_rate": (0.1, 0.2),
            "momentum": (0.9, 0.0),
            "dampening": (0.0, 0.3),
            "weight_decay": (0.0, 0.1),
            "clip": (np.inf, 0.5),
        },
        then=stepped,
    ),
    "optimizers.rmsprop": Row(
        (),
        {"centered": True},
        {
            "learning_rate": (0.1, 0.2),
            "decay": (0.99, 0.9),
            "eps": (1e-8, 1e-2),
            "momentum": (0.0, 0.9),
            "weight_decay": (0.0, 0.1),
            "clip": (np.inf, 0.5),
        },
        then=stepped,
    ),
    **{
        f"optimizers.{name}": Row(
            numbers={
                "learning_rate": (0.1, 0.2),
                "b1": (0.9, 0.5),
                "b2": (0.99, 0.9),
                "eps": (1e-8, 1e-2),
                "weight_decay": (0.0, 0.1),
                "clip": (np.inf, 0.5),
            },
            then=stepped,
        )
        for name in ("adam", "adamax", "adamw", "lamb", "radam")
    },
    "optimizers.adam:amsgrad": Row((0.1,), {"amsgrad": True}, {"b2": (0.99, 0.5)}, then=stepped),
    "optimizers.adamw:amsgrad": Row((0.1,), {"amsgrad": True}, {"b2": (0.99, 0.5)}, then=stepped),
    "optimizers.nadam": Row(
        numbers={
            "learning_rate": (0.1, 0.2),
            "b1": (0.9, 0.5),
            "b2": (0.99, 0.9),
            "eps": (1e-8, 1e-2),
            "momentum_decay": (4e-3, 0.1),
            "weight_decay": (0.0, 0.1),
            "clip": (np.inf, 0.5),
        },
        then=stepped,
    ),
    "optimizers.adagrad": Row(
        numbers={
            "learning_rate": (0.1, 0.2),
            "initial_accumulator": (0.0, 0.1),
            "eps": (1e-10, 1e-2),
            "weight_decay": (0.0, 0.1),
            "clip": (np.inf, 0.5),
        },
        then=stepped,
    ),
    "optimizers.adadelta": Row(
        numbers={
            "learning_rate": (1.0, 0.2),
            "decay": (0.9, 0.5),
            "eps": (1e-6, 1e-2),
            "weight_decay": (0.0, 0.1),
            "clip": (np.inf, 0.5),
        },
        then=stepped,
    ),
    "optimizers.lion": Row(
        numbers={
            "learning_rate": (0.1, 0.2),
            "b1": (0.9, 0.5),
            "b2": (0.99, 0.9),
            "weight_decay": (0.0, 0.1),
            "clip": (np.inf, 0.5),
        },
        then=stepped,
    ),
    "optimizers.muon": Row(
        numbers={
            "learning_rate": (0.1, 0.2),
            "momentum": (0.9, 0.0),
            "rms": (0.2, 1.0),
            "b1": (0.9, 0.5),
            "b2": (0.99, 0.9),
            "eps": (1e-8, 1e-2),
            "weight_decay": (0.0, 0.1),
            "clip": (np.inf, 0.5),
        },
        then=stepped,
    ),
    # wrappers of optimizers
    "optimizers.clip_value": Row((ADAM,), numbers={"limit": (0.3, np.inf)}, then=stepped),
    "optimizers.clip_adaptive": Row((ADAM,), numbers={"limit": (0.1, np.inf), "eps": (1e-3, 5.0)}, then=stepped),
    "optimizers.max_norm": Row((ADAM,), numbers={"limit": (0.5, np.inf)}, then=stepped),
    "optimizers.lookahead": Row((ADAM,), numbers={"every": (2, 3), "slow_rate": (0.5, 0.9)}, then=stepped),
    "optimizers.groups": Row((ADAM,), {"rates": {"weight": 0.5}, "freeze": {"bias": 1}}, then=stepped),
    "optimizers.groups:frozen": Row((ADAM,), {"freeze": ("bias",)}, then=stepped),
    # averages of parameters
    "averages.ema": Row(numbers={"decay": (0.9, 0.5), "start": (1, 0), "warmup": (1, 10)}, then=averaged),
    "averages.swa": Row(numbers={"start": (1, 0), "every": (1, 2)}, then=averaged),
    "optimizers.as_optimizer": Row((optax.sgd(0.1),), numbers={"learning_rate": (0.1, 0.2)}, then=stepped),
    # training, and looking inside
    "classification": Row(numbers={"label_smoothing": (0.0, 0.3)}, then=judged(LABELS)),
    "classification:focal": Row((), {"weight": CLASS_WEIGHTS}, {"label_smoothing": (0.0, 0.1)}, then=judged(LABELS)),
    "classification:gamma": Row(numbers={"gamma": (2.0, 0.0)}, then=judged(LABELS)),
    "regression": Row(("huber",), numbers={"delta": (1.0, 0.3)}, then=judged(OTHER)),
    "regression:quantile": Row(("quantile",), then=judged(OTHER[:, :2])),  # traced: test_named_objectives.py
    "focal": Row(numbers={"gamma": (2.0, 0.0)}, then=judged(LABELS)),
    "tagging": Row(
        (), {"weight": CLASS_WEIGHTS}, {"label_smoothing": (0.0, 0.3)}, then=judged(np.where(LABELS == 1, -100, LABELS))
    ),
    "binary": Row(numbers={"pos_weight": (1.0, 3.0), "label_smoothing": (0.1, 0.0)}, then=one_logit(YES[:, 0])),
    "binary:focal": Row(
        (), {"label_smoothing": 0.0}, {"gamma": (2.0, 0.0), "pos_weight": (1.0, 3.0)}, then=one_logit(YES[:, 0])
    ),
    "multilabel": Row(numbers={"pos_weight": (1.0, 3.0), "label_smoothing": (0.1, 0.0)}, then=judged(YES)),
    "multilabel:weights": Row(
        numbers={"pos_weight": (tuple(1 + 0.1 * i for i in range(6)), 6 * (2.0,))}, then=judged(YES)
    ),
    "gaussian": Row(numbers={"floor": (1e-6, 0.2)}, then=judged(OTHER[:, :3])),
    "poisson": Row(then=judged(COUNTS)),
    "contrastive": Row((shifted_views,), numbers={"temperature": (0.1, 0.5)}, then=judged_with_key(LABELS)),
    "distillation": Row(
        (jnp.cos,),
        numbers={"temperature": (2.0, 1.0), "alpha": (0.5, 1.0), "label_smoothing": (0.0, 0.3)},
        then=judged(LABELS),
    ),
    "language_modelling": Row(numbers={"label_smoothing": (0.0, 0.3)}, then=judged(LABELS)),
    "trainer": Row((small_task,), then=one_step),
    "capture": Row((nf.serial(act=jnp.tanh), "act"), then=lambda captured: captured({}, X)),
    "merge_lora": Row(
        (
            nf.lora(ADAPTED, ADAPTED.init(KEY), "up/weight", rank=1),
            {"up": {"weight": {"down": sample(6, 1), "up": sample(1, 4)}}},
        )
    ),
    "mc_dropout": Row((nf.serial(nf.dropout(0.5)), {}, X), {"key": KEY, "samples": 3}),
    "schedules.plateau:max": Row(
        (), {"mode": "max", "threshold_mode": "absolute"}, {"patience": (1, 2)}, then=plateau_run
    ),
}

NOT_FACTORIES: dict[str, str] = {
    "AttentionInput": "the arguments of attention: a NamedTuple, test_attention.py",
    "BertInput": "the arguments of bert: a NamedTuple, test_transformer.py",
    "RecurrentInput": "the arguments of recurrent layers: a NamedTuple, test_recurrent.py",
    "Seq2SeqInput": "the arguments of seq2seq: a NamedTuple, test_transformer.py",
    "TokenInput": "the arguments of gpt and llama: a NamedTuple, test_transformer.py",
    "TransformerInput": "the arguments of transformer_block: a NamedTuple, test_transformer.py",
    "Context": "what a layer may read: a dataclass",
    "Model": "the pair itself; every row makes one",
    "Nudge": "a value of patch: a NamedTuple, test_taps.py",
    "Out": "what a layer may report: a NamedTuple",
    "Task": "a NamedTuple; the rows of `trainer` make them",
    "evaluate": "loops over a data set outside of jit: test_training.py",
    "starting_from": "gives a report beside the parameters: test_starting.py, jit, vmap and grad included",
    "export": "writes a file: test_export.py",
    "load_exported": "reads a file: test_export.py",
    "load_run": "reads a run's folder: test_cli.py",
    "lora_from_peft": "reads files: test_peft_adapters.py",
    "lora_to_peft": "writes files: test_peft_adapters.py",
    "Pretrained": "the result of pretrained: test_published_weights.py",
    "pretrained": "reads files: test_published_weights.py",
    "to_pretrained": "writes files: test_published_weights.py",
    "train": "loops over dispatches outside of jit: test_training.py",
    "sweep": "loops over packs of members outside of jit: test_sweeps.py",
    "sweep_plan": "gives words, not arrays: test_sweeps.py",
    "ensemble_from": "takes a whole sweep: test_sweep_ensemble.py",
    "uniform": "what plain values are drawn from: test_sweep_spaces.py",
    "log_uniform": "what plain values are drawn from: test_sweep_spaces.py",
    "int_uniform": "what plain values are drawn from: test_sweep_spaces.py",
    "choice": "what plain values are drawn from: test_sweep_spaces.py",
    "summary": "gives text, not arrays: test_summary.py",
    "activations.by_name": "looks up one of the rows: test_activations.py",
    "averages.Average": "three functions; the rows of ema and swa make them",
    "averages.EmaState": "a NamedTuple of arrays",
    "averages.SwaState": "a NamedTuple of arrays",
    "optimizers.Optimizer": "optax's pair with a rate; the rows of the optimizers make them",
    "metrics.Metric": "three functions; the rows of the streaming metrics make them",
    "schedules.Plateau": "a NamedTuple; the rows of `plateau` make them",
    "schedules.PlateauState": "a NamedTuple of arrays",
}

for area in AREAS:
    FUNCTIONS |= area.FUNCTIONS
    NOT_FACTORIES |= area.NOT_FACTORIES

NAMESPACES = ("activations", "augment", "averages", "initializers", "losses", "metrics", "optimizers", "schedules")


def public() -> dict[str, Any]:
    """Every public callable by its name as users write it after `nf.`."""
    found = {name: getattr(nf, name) for name in nf.__all__ if callable(getattr(nf, name))}
    for space in NAMESPACES:
        module = getattr(nf, space)
        found |= {f"{space}.{name}": getattr(module, name) for name in module.__all__}
    return {name: value for name, value in found.items() if callable(value)}


def factory(name: str) -> Callable[..., Any]:
    """What a row of this name calls."""
    value: Any = nf
    for part in name.partition(":")[0].split("."):
        value = getattr(value, part)
    return value


def rows() -> Iterator[tuple[str, Row]]:
    """All rows, by the name of the public function that they call."""
    yield from MODELS.items()
    yield from ((f"activations.{name}", row) for name, row in ACTIVATIONS.items())
    yield from FUNCTIONS.items()


def scalars(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments that are annotated as numbers that may be traced."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [parameter.name for parameter in parameters if _scalar(parameter.annotation)]


def _scalar(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return {float, jax.Array} <= set(get_args(annotation))
    return get_origin(annotation) is tuple and any(map(_scalar, get_args(annotation)))
