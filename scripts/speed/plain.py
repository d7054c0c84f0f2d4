"""The models of the comparison as a good JAX user writes them, without tricks: the yardstick.

Nothing of nnfunc is used here. Each is a function (params, x) -> logits, and `step` is the train step
that the documentation of JAX and optax shows. Parameters are nested dicts, and lists over the layers.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax


def dense(p, x):
    return x @ p["weight"] + p["bias"]


def mlp(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(dense(layer, x))
    return dense(params[-1], x)


def conv(p, x):
    axes = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, p["weight"], (1, 1), "SAME", dimension_numbers=axes)
    return y + p["bias"]


def max_pool(x):
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def cnn(params, x):
    for layer in params["convs"]:
        x = max_pool(jax.nn.relu(conv(layer, x)))
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(dense(params["hidden"], x))
    return dense(params["head"], x)


def batch_norm(p, statistics, x):
    """In training: (y, the new running statistics), as in PyTorch."""
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    n = x.size // x.shape[-1]
    batch = {"mean": mean, "var": var * n / (n - 1)}
    running = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, statistics, batch)
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"] + p["bias"], running


def cnn_with_norm(params, statistics, x):
    running = []
    for layer, old in zip(params["stages"], statistics, strict=True):
        x, new = batch_norm(layer["norm"], old, conv(layer["conv"], x))
        running.append(new)
        x = max_pool(jax.nn.relu(x))
    return dense(params["head"], x.reshape(x.shape[0], -1)), running


def initial_statistics(params):
    norms = [layer["norm"]["bias"] for layer in params["stages"]]
    return [{"mean": jnp.zeros_like(bias), "var": jnp.ones_like(bias)} for bias in norms]


def lstm_cell(p, carry, x):
    h, c = carry
    gates = x @ p["input"] + h @ p["hidden"] + p["bias"]
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def lstm(params, x):
    zeros = jnp.zeros((x.shape[0], params["cell"]["hidden"].shape[0]), x.dtype)
    cell = partial(lstm_cell, params["cell"])
    (h, _), _ = jax.lax.scan(cell, (zeros, zeros), x.swapaxes(0, 1))
    return dense(params["head"], h)


def layer_norm(p, x):
    mean = x.mean(axis=-1, keepdims=True)
    var = x.var(axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def attention(p, x, heads):
    """Causal self-attention, queries, keys and values from one product, as nanoGPT has it."""
    batch, time, dim = x.shape
    q, k, v = jnp.split(dense(p["qkv"], x), 3, axis=-1)
    q, k, v = (t.reshape(batch, time, heads, dim // heads) for t in (q, k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(dim // heads)
    mask = jnp.tril(jnp.ones((time, time), bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    return dense(p["out"], y.reshape(batch, time, dim))


def block(p, x, heads):
    x = x + attention(p["attention"], layer_norm(p["norm_1"], x), heads)
    h = jax.nn.gelu(dense(p["up"], layer_norm(p["norm_2"], x)), approximate=False)
    return x + dense(p["down"], h)


def gpt(heads, params, ids):
    """The vocabulary's table is the output layer too, as in GPT-2."""
    x = params["tokens"][ids] + params["positions"][: ids.shape[1]]
    for layer in params["blocks"]:
        x = block(layer, x, heads)
    return layer_norm(params["norm"], x) @ params["tokens"].T


def step(model, optimizer):
    """(state, batch) -> (state, loss), jitted, with the state (params, opt_state) donated."""

    def loss_of(params, x, labels):
        logits = model(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, batch):
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_of)(params, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return train_step


def step_with_statistics(model, optimizer):
    """The same with the running statistics of batch norm: the state is (params, opt_state, statistics)."""

    def loss_of(params, statistics, x, labels):
        logits, running = model(params, statistics, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), running

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, batch):
        params, opt_state, statistics = state
        (loss, running), grads = jax.value_and_grad(loss_of, has_aux=True)(params, statistics, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, running), loss

    return train_step


def run(widths, steps, batch_size):
    """(key, rate, train, held) -> (params, loss on held), jitted: a whole run of an MLP under Adam.

    Every epoch in an order of its own; a learning rate is an argument, so one program serves all.
    """

    def loss_of(params, x, labels):
        logits = mlp(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def whole(key, rate, train, held):
        x, labels = train
        optimizer = optax.adam(rate)
        keys = jax.random.split(key, len(widths))
        params = [
            {"weight": jax.nn.initializers.he_normal()(k, (n, m)), "bias": jnp.zeros(m)}
            for k, n, m in zip(keys, widths, widths[1:], strict=False)
        ]
        a_epoch = len(x) // batch_size
        shuffles = jax.random.split(keys[-1], -(-steps // a_epoch))
        order = jax.vmap(lambda k: jax.random.permutation(k, len(x)))(shuffles)
        order = order[:, : a_epoch * batch_size].reshape(-1, batch_size)[:steps]

        def step(state, at):
            params, opt_state = state
            grads = jax.grad(loss_of)(params, x[at], labels[at])
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), order)
        return params, loss_of(params, *held)

    return whole
