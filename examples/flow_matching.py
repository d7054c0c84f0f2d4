"""Flow matching: a U-Net learns the velocity that turns noise into digits, and an ODE solver draws new ones.

    python examples/flow_matching.py

x_t = (1 - t) noise + t image moves with the velocity image - noise; the network learns its mean at each x_t and t.
The U-Net is one `nf.wire`: a flow calls its children in any order, and skips are ordinary variables. The objective
draws noise and t from its key, and an evaluation draws the same ones every time, so that held-out losses compare.
Measured (2 CPU cores, 2026-11-29): test loss 0.513; pixels' means differ by 0.02 from the data's, deviations by 0.04.
Source: Lipman et al. 2023, arXiv:2210.02747, section 4.1 (conditional optimal transport); Ronneberger et al. 2015,
arXiv:1505.04597 (U-Net).
"""

import jax
import jax.numpy as jnp

import nnfunc as nf


def time_embedding(dim):
    """Sines and cosines of t in [0, 1], and a small network over them."""
    frequencies = jnp.exp2(jnp.arange(dim // 2, dtype=jnp.float32))

    def features(t):
        angles = t[:, None] * frequencies  # [batch, dim / 2]
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)

    return nf.serial(features, hidden=nf.linear(dim, dim), act=jax.nn.silu, out=nf.linear(dim, dim))


def block(in_dim, out_dim, time_dim):
    """Two convolutions with a shift by the time between them, and a shortcut."""

    def flow(net, x, time):
        h = net.conv_1(jax.nn.silu(net.norm_1(x)))
        h = h + net.shift(time)[:, None, None]  # [batch, 1, 1, out_dim]
        h = net.conv_2(jax.nn.silu(net.norm_2(h)))
        return h + (net.shortcut(x) if in_dim != out_dim else x)

    children = {} if in_dim == out_dim else {"shortcut": nf.conv(in_dim, out_dim, 1)}
    return nf.wire(
        flow,
        norm_1=nf.group_norm(4, in_dim),
        conv_1=nf.conv(in_dim, out_dim, 3),
        shift=nf.linear(time_dim, out_dim),
        norm_2=nf.group_norm(4, out_dim),
        conv_2=nf.conv(out_dim, out_dim, 3, weight_init=nf.initializers.zeros),
        **children,
    )


def unet(dim=32):
    """Images [batch, 8, 8, 1] and times [batch] -> velocities [batch, 8, 8, 1]."""

    def flow(net, x, t):
        time = net.time(t)
        high = net.down_1(net.stem(x), time)  # [batch, 8, 8, dim]
        middle = net.down_2(net.pool_1(high), time)  # [batch, 4, 4, 2 * dim]
        low = net.bottom(net.pool_2(middle), time)  # [batch, 2, 2, 2 * dim]
        middle = net.up_2(jnp.concatenate([net.grow_2(low), middle], -1), time)
        high = net.up_1(jnp.concatenate([net.grow_1(middle), high], -1), time)
        return net.head(jax.nn.silu(net.norm(high)))

    return nf.wire(
        flow,
        time=time_embedding(dim),
        stem=nf.conv(1, dim, 3),
        down_1=block(dim, dim, dim),
        pool_1=nf.avg_pool(2),
        down_2=block(dim, 2 * dim, dim),
        pool_2=nf.avg_pool(2),
        bottom=block(2 * dim, 2 * dim, dim),
        grow_2=lambda x: x.repeat(2, axis=1).repeat(2, axis=2),
        up_2=block(4 * dim, 2 * dim, dim),
        grow_1=lambda x: x.repeat(2, axis=1).repeat(2, axis=2),
        up_1=block(3 * dim, dim, dim),
        norm=nf.group_norm(4, dim),
        head=nf.conv(dim, 1, 3),
    )


def velocity_loss(predict, images, key):
    noise_key, time_key = jax.random.split(key)
    noise, t = jax.random.normal(noise_key, images.shape), jax.random.uniform(time_key, images.shape[:1])
    mix = t[:, None, None, None]
    return jnp.mean((predict((1 - mix) * noise + mix * images, t) - (images - noise)) ** 2), {}


def sample(model, params, noise, steps):
    """Heun's method from t = 0 to 1."""

    def step(x, i):
        velocity = lambda x, i: model.apply(params, (x, jnp.full(len(x), i / steps, jnp.float32)))
        first = velocity(x, i)
        second = velocity(x + first / steps, i + 1)
        return x + (first + second) / (2 * steps), None

    return jax.lax.scan(step, noise, jnp.arange(steps, dtype=jnp.float32))[0]


def main(steps=600, dim=16, solver_steps=20):
    train, validation, test = (2 * jnp.asarray(x) - 1 for x, _ in nf.data.digits(layout="image")[:3])
    data = nf.data.arrays(train, batch_size=64, validation=validation)
    model = unet(dim)

    def build(h):
        rate = nf.schedules.warmup_cosine(h["learning_rate"], warmup_steps=steps / 20, total_steps=steps)
        return nf.Task(model, velocity_loss, nf.optimizers.adam(rate), average=nf.averages.ema(0.995))

    h = {"learning_rate": 2e-3}
    state, history = nf.train(build, h, data, steps=steps, key=jax.random.key(0))
    params, _ = nf.training.eval_params(build(h), state)
    noise = jax.random.normal(jax.random.key(1), (256, 8, 8, 1))
    samples = jax.jit(lambda params, noise: sample(model, params, noise, solver_steps))(params, noise)
    return {
        "validation": history.validation["loss"],
        "test": nf.evaluate(build(h), state, test, draws=16)["loss"],
        "mean_difference": float(jnp.abs(samples.mean(0) - train.mean(0)).mean()),
        "std_difference": float(jnp.abs(samples.std(0) - train.std(0)).mean()),
        "samples": samples,
    }


if __name__ == "__main__":
    numbers = main()
    print({name: round(numbers[name], 4) for name in ("test", "mean_difference", "std_difference")})
    for row in numbers["samples"][:6, ..., 0].swapaxes(0, 1):  # eight lines of six digits
        print("  ".join("".join("#" if pixel > 0 else "." for pixel in line) for line in row))
