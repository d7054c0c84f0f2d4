"""DP-SGD, the Hessian's top eigenvalue, the tangent kernel: plain JAX.    python examples/private_curvature.py

1. DP-SGD: the gradient of each example (`vmap` of `grad`) is clipped, and noise hides each of them in the sum.
2. The largest eigenvalue of the Hessian, from products with vectors (`jvp` of `grad`), against the whole matrix.
3. The empirical tangent kernel (`jacrev`): what it says that a small gradient step changes, against what it changes.
Source: Abadi et al. 2016, arXiv:1607.00133; privacy of full batches: Bun and Steinke 2016, arXiv:1605.02065,
propositions 1.3 and 1.6; Pearlmutter 1994, Neural Computation 6; Jacot et al. 2018, arXiv:1806.07572.
Measured (2 CPU cores, 2026-11-29): 89.7 % at epsilon 3.64; eigenvalues equal to 6 digits; kernel off by 0.05 %.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import nnfunc as nf

MODEL = nf.mlp([64, 8, 10], activation="tanh")
START, UNRAVEL = ravel_pytree(MODEL.init(jax.random.key(0)))  # 602 parameters in one vector


def loss(w, x, labels):
    return nf.losses.cross_entropy(MODEL.apply(UNRAVEL(w), x), labels).mean()


def private_gradient(w, x, labels, key, clip, noise):
    each = jax.vmap(jax.grad(loss), (None, 0, 0))(w, x, labels)  # [examples, parameters]
    each *= jnp.minimum(1, clip / jnp.linalg.norm(each, axis=1, keepdims=True))
    return (each.sum(0) + noise * clip * jax.random.normal(key, w.shape)) / len(x)


def top_eigenvalue(f, w, iterations):
    product = lambda v: jax.jvp(jax.grad(f), (w,), (v,))[1]
    step = lambda _, v: product(v) / jnp.linalg.norm(product(v))
    v = jax.lax.fori_loop(0, iterations, step, jnp.ones_like(w) / len(w) ** 0.5)
    return v @ product(v)


def main(steps=200, clip=0.5, noise=20.0, iterations=200, few=20):
    gradient, ((x, labels), _, test) = jax.jit(private_gradient), jax.tree.map(jnp.asarray, nf.data.digits()[:3])
    descend = lambda w, key: (w - 2.0 * gradient(w, x, labels, key, clip, noise), None)
    w, _ = jax.lax.scan(descend, START, jax.random.split(jax.random.key(1), steps))
    rho, exact = steps / (2 * noise**2), gradient(w, x, labels, jax.random.key(2), 1e9, 0.0)

    f, logits = lambda w: loss(w, x[:few], labels[:few]), lambda w: MODEL.apply(UNRAVEL(w), x[:few]).ravel()
    jacobian = jax.jit(jax.jacrev(logits))(w)  # [few * 10, parameters]
    slope = jax.grad(lambda y: nf.losses.cross_entropy(y.reshape(few, 10), labels[:few]).mean())(logits(w))
    expected, change = -1e-3 * (jacobian @ jacobian.T) @ slope, logits(w - 1e-3 * jax.grad(f)(w)) - logits(w)
    return {
        "accuracy": float(nf.metrics.accuracy(MODEL.apply(UNRAVEL(w), test[0]), test[1]).mean()),
        "epsilon": rho + 2 * (rho * 11.513) ** 0.5,  # at delta = 1e-5, whose -log is 11.513
        "gradient_gap": float(abs(exact - jax.grad(loss)(w, x, labels)).max()),
        "eigenvalue": float(jax.jit(lambda w: top_eigenvalue(f, w, iterations))(w)),
        "eigenvalue_of_matrix": float(jnp.linalg.eigvalsh(jax.jit(jax.hessian(f))(w))[-1]),
        "kernel_gap": float(jnp.linalg.norm(change - expected) / jnp.linalg.norm(expected)),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:21s}{value:.4g}")
