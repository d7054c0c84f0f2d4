"""A graph network with a codebook: message passing in `nf.wire`, codes kept as state.    python examples/graph_vq.py

A node has one of four types, seen through two noisy numbers, and hears three random nodes; its label counts those of
its type. The nearest of 16 codes replaces its features. Codes follow means: state that `init_state(key)` begins.
Source: van den Oord et al. 2017, arXiv:1711.00937, appendix A.1; Gilmer et al. 2017, arXiv:1704.01212, section 2.
Measured (2 CPU cores, 2026-11-29): 99.6 % of the labels, where the most frequent one is 43.5 %; 4 codes used.
"""

import jax
import jax.numpy as jnp

import nnfunc as nf


def codebook(size, dim):
    def forward(params, x, ctx):
        codes = ctx.state["sum"] / jnp.maximum(ctx.state["count"], 1e-30)[:, None]
        hits = jax.nn.one_hot(((x[:, None] - codes) ** 2).sum(-1).argmin(-1), size)
        straight = x + jax.lax.stop_gradient(hits @ codes - x)  # the gradient of the code is that of x
        out = {"code": straight, "index": hits.argmax(-1), "commitment": nf.losses.mse(x, hits @ codes).mean()}
        new = {"count": hits.sum(0), "sum": hits.T @ x}
        new = jax.tree.map(lambda old, one: 0.99 * old + 0.01 * one, ctx.state, new)
        return out, nf.Out(state=new if ctx.train else ctx.state)

    init_state = lambda key: {"count": jnp.ones(size), "sum": jax.random.normal(key, (size, dim))}
    return nf.Model(lambda key: {}, forward=forward, init_state=init_state)


def flow(net, graph):
    nodes, senders = graph  # [nodes, 2], [nodes, 3]
    out, receivers = net.codes(net.encode(nodes)), jnp.repeat(jnp.arange(len(nodes)), 3)
    ends = jnp.concatenate([out["code"][senders.ravel()], out["code"][receivers]], axis=-1)
    received = jax.ops.segment_sum(net.message(ends), receivers, len(nodes))
    return {**out, "logits": net.update(jnp.concatenate([out["code"], received], axis=-1))}


def random_graph(key, n=512):
    keys = jax.random.split(key, 3)
    types, senders = jax.random.randint(keys[0], (n,), 0, 4), jax.random.randint(keys[1], (n, 3), 0, n)
    nodes = jnp.stack([types % 2, types // 2], axis=-1).astype(float) + 0.15 * jax.random.normal(keys[2], (n, 2))
    return (nodes, senders), (types[senders] == types[:, None]).sum(-1)


def build(h):
    loss = lambda out, labels: nf.losses.cross_entropy(out["logits"], labels).mean() + 0.25 * out["commitment"]
    shape = {"encode": [2, 32, 8], "message": [16, 32, 16], "update": [24, 64, 4]}
    model = nf.wire(flow, codes=codebook(16, 8), **{name: nf.mlp(widths) for name, widths in shape.items()})
    return nf.Task(model, lambda predict, batch: (loss(predict(batch[0]), batch[1]), {}), nf.optimizers.adam(h["rate"]))


def main(steps=1500):
    h, (graph, labels) = {"rate": 3e-3}, random_graph(jax.random.key(1), 4096)
    state, _ = nf.train(build, h, nf.data.generated(random_graph), steps=steps, key=jax.random.key(0))
    out = build(h).model.apply(state.params, graph, state=state.model_state)
    accuracy, frequent = nf.metrics.accuracy(out["logits"], labels).mean(), jnp.bincount(labels).max() / len(labels)
    return {"accuracy": float(accuracy), "frequent": float(frequent), "codes": len(jnp.unique(out["index"]))}


if __name__ == "__main__":
    print(main())
