"""A GAN on a ring of eight Gaussians, with a sweep over both learning rates.    python examples/gan.py

Two objectives take turns, each with the model of its name; the discriminator's has a gradient penalty at the data (R1).
Source: Goodfellow et al. 2014, arXiv:1406.2661; Mescheder et al. 2018, arXiv:1801.04406, equation 9.
Measured (2 CPU cores, 2026-11-29): means and covariances 0.96 from those of the data after 200 steps and 0.11
after 2000, where two samples of the data are 0.10 apart; 91 % of the samples within 0.4 of a center, 10 to 12 % each.
"""

import jax
import jax.numpy as jnp

import nnfunc as nf

ANGLES = jnp.linspace(0, 2 * jnp.pi, 8, endpoint=False)
CENTERS = 2 * jnp.stack([jnp.cos(ANGLES), jnp.sin(ANGLES)], axis=-1)


def ring(key, n=128):
    which, noise = jax.random.split(key)
    return CENTERS[jax.random.randint(which, (n,), 0, 8)] + 0.1 * jax.random.normal(noise, (n, 2))


def moment_distance(a, b):
    return jnp.linalg.norm(a.mean(0) - b.mean(0)) + jnp.linalg.norm(jnp.cov(a.T) - jnp.cov(b.T))


def discriminator_loss(predict, real, key):
    fake = predict.generator(jax.random.normal(key, real.shape))
    slope = jax.grad(lambda x: predict.discriminator(x).sum())(real)
    loss = jax.nn.softplus(predict.discriminator(fake)) + jax.nn.softplus(-predict.discriminator(real))
    return loss.mean() + 0.05 * (slope**2).sum(-1).mean(), {}


def generator_loss(predict, real, key):
    fake = predict.generator(jax.random.normal(key, real.shape))
    return jax.nn.softplus(-predict.discriminator(fake)).mean(), {"distance": moment_distance(fake, real)}


def build(h):
    models = {"discriminator": nf.mlp([2, 64, 64, 1]), "generator": nf.mlp([2, 64, 64, 2])}
    rates = {name: nf.schedules.cosine(h[name], h["steps"]) for name in models}
    optimizers = {name: nf.optimizers.adam(rate, b1=0.5) for name, rate in rates.items()}
    return nf.Task(models, {"discriminator": discriminator_loss, "generator": generator_loss}, optimizers)


def main(steps=2000, rates=(3e-4, 1e-3, 3e-3)):
    data = nf.data.generated(ring, validation=ring(jax.random.key(1), 4000))
    space = {"generator": [*rates], "discriminator": [*rates], "steps": steps}
    options = {"method": "grid", "best": "min generator_distance", "eval_batch_size": 4000}
    result = nf.sweep(build, space, data, steps=steps, key=jax.random.key(0), **options)
    h, state, curves = result.trial(result.best)
    noise = jax.random.normal(jax.random.key(2), (4000, 2))
    fake = build(h).model["generator"].apply(state.params["generator"], noise)
    modes = (jnp.linalg.norm(fake[:, None] - CENTERS, axis=-1) < 0.4).mean(0)  # the fraction of samples at each center
    floor = moment_distance(ring(jax.random.key(3), 4000), data.validation)
    return {"sweep": result, "distances": curves["validation/generator_distance"], "floor": floor, "modes": modes}


if __name__ == "__main__":
    print(main())
