"""The rules: SGD, Adam, AdamW, RMSprop, Lion and LAMB, each a short chain of gradient transformations."""

import math

import optax

from nnfunc import check
from nnfunc.base import Scalar, Schedule
from nnfunc.optimizers.adaptive_transforms import by_momentum
from nnfunc.optimizers.gradient_transforms import by_adam, by_rms, by_trust_ratio, check_adam, optimizer
from nnfunc.optimizers.optimizer import Optimizer
from nnfunc.optimizers.weight_decay import Decay
from nnfunc.paths import Leaves


def sgd(
    learning_rate: Scalar | Schedule,
    *,
    momentum: Scalar = 0.0,
    dampening: Scalar = 0.0,
    nesterov: bool = False,
    weight_decay: Decay = 0.0,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """Gradient descent, with momentum when that is not 0.

    d = gradient + weight_decay * parameter;  m = momentum * m + d
    parameter -= learning_rate * m, with nesterov: parameter -= learning_rate * (d + momentum * m)
    momentum: in [0, 1), and at 0 both forms are plain gradient descent.
    dampening: in [0, 1]; from the second step on, m = momentum * m + (1 - dampening) * d.
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Raises: ValueError when a number is out of its range.
    Source: PyTorch's SGD; Sutskever et al. 2013, sections 2 and 3.

    >>> optimizer = sgd(0.5)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"].tolist()
    [-0.125]
    """
    check.number("sgd", 0, 1, open_high=True, momentum=momentum)
    check.number("sgd", 0, 1, dampening=dampening)

    def chain(number, decay):
        if not (check.is_plain(dampening) and dampening == 0):
            return decay, by_momentum(number(momentum), number(dampening), nesterov)
        return decay, optax.trace(number(momentum), nesterov=nesterov)

    return optimizer("sgd", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def adam(
    learning_rate: Scalar | Schedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    amsgrad: bool = False,
    weight_decay: Decay = 0.0,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """Steps of about the size of the learning rate: the mean gradient over the root of its mean square.

    d = gradient + weight_decay * parameter
    m = b1 * m + (1 - b1) * d;  v = b2 * v + (1 - b2) * d**2
    parameter -= learning_rate * m / (1 - b1**t) / (sqrt(v / (1 - b2**t)) + eps), t = 1, 2, ...
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Its decay is part of the gradient; `adamw` keeps the two apart.
    b1, b2: in [0, 1).
    eps: at least 0.
    Finite numbers of d beyond 9.2e18 (2**63) count as that: in float32 their squares overflow, which in PyTorch and
    optax stops their entry for ever. 1e-30 is added to v, which shows where eps is below 1e-14: smaller gradients
    than 1e-15 then make smaller steps.
    amsgrad: whether the largest v so far replaces v, so that no step grows because old gradients fade.
    Raises: ValueError when a number is out of its range.
    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; Reddi et al. 2018, arXiv:1904.09237, for amsgrad;
    PyTorch's Adam.

    >>> optimizer = adam(0.5, eps=0.0)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(update, 6) for update in updates["bias"].tolist()]
    [-0.5]
    """
    check_adam("adam", b1, b2, eps)

    def chain(number, decay):
        return decay, by_adam(number(b1), number(b2), number(eps), amsgrad)

    return optimizer("adam", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def adamw(
    learning_rate: Scalar | Schedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    amsgrad: bool = False,
    weight_decay: Decay = 1e-2,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """Adam with weight decay beside it, not in its averages.

    parameter -= learning_rate * (adam's step + weight_decay * parameter)
    b1, b2: in [0, 1).
    weight_decay: 0.01 by default, as in PyTorch (optax has 0.0001).
    eps: at least 0, added to the root.
    learning_rate: a number or a schedule. weight_decay may also be numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    amsgrad: whether the largest v so far replaces v, so that no step grows because old gradients fade.
    Raises: ValueError when a number is out of its range.
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; PyTorch's AdamW.

    >>> optimizer = adamw(0.5, weight_decay=0.25)
    >>> params, grads = {"weight": jnp.array([[1.0]])}, {"weight": jnp.array([[0.0]])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["weight"].tolist()
    [[-0.125]]
    """
    check_adam("adamw", b1, b2, eps)

    def chain(number, decay):
        return by_adam(number(b1), number(b2), number(eps), amsgrad), decay

    return optimizer("adamw", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def rmsprop(
    learning_rate: Scalar | Schedule,
    *,
    decay: Scalar = 0.99,
    eps: Scalar = 1e-8,
    momentum: Scalar = 0.0,
    centered: bool = False,
    weight_decay: Decay = 0.0,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """The gradient over the root of its mean square, with momentum when that is not 0.

    d = gradient + weight_decay * parameter;  v = decay * v + (1 - decay) * d**2
    m = momentum * m + d / (sqrt(v) + eps);  parameter -= learning_rate * m
    centered: v less the square of the mean of d in the root, so that it is d's deviation.
    decay, momentum: in [0, 1).
    eps: at least 0. Very large and very small gradients are as in `adam`.
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Raises: ValueError when a number is out of its range.
    Source: Tieleman and Hinton 2012, lecture 6.5; centered, Graves 2013, arXiv:1308.0850, equation 38; PyTorch's
    RMSprop.

    >>> optimizer = rmsprop(0.5, decay=0.75, eps=0.0)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"].tolist()
    [-1.0]
    """
    check.number("rmsprop", 0, 1, open_high=True, decay=decay, momentum=momentum)
    check.number("rmsprop", 0, eps=eps)

    def chain(number, add_decay):
        return add_decay, by_rms(number(decay), number(eps), centered), optax.trace(number(momentum))

    return optimizer("rmsprop", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def lion(
    learning_rate: Scalar | Schedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    weight_decay: Decay = 0.1,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """Steps of exactly the size of the learning rate: the sign of a mean of the gradients.

    c = b1 * m + (1 - b1) * gradient;  m = b2 * m + (1 - b2) * gradient
    parameter -= learning_rate * (sign(c) + weight_decay * parameter)
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    It wants a learning rate 3 to 10 times smaller than AdamW's, and a weight_decay as many times larger.
    b1, b2: in [0, 1).
    Raises: ValueError when a number is out of its range.
    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2.

    >>> optimizer = lion(0.5)
    >>> params, grads = {"bias": jnp.array([1.0, 1.0])}, {"bias": jnp.array([0.25, -3.0])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"].tolist()
    [-0.5, 0.5]
    """
    check.number("lion", 0, 1, open_high=True, b1=b1, b2=b2)

    def chain(number, decay):
        return optax.scale_by_lion(number(b1), number(b2)), decay

    return optimizer("lion", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def lamb(
    learning_rate: Scalar | Schedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    weight_decay: Decay = 1e-2,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
    stacked: Leaves = (),
) -> Optimizer:
    """AdamW for large batches: each leaf's step is made as long as the leaf, times the learning rate.

    u = adam's step + weight_decay * parameter;  parameter -= learning_rate * |parameter| / |u| * u
    Where one of the two norms is 0, their ratio counts as 1.
    stacked: the leaves whose first axis is the layers of a `repeat`, such as "blocks/**"; there each layer has a
        norm of its own.
    b1, b2: in [0, 1).
    eps: at least 0; 1e-6 is the paper's.
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Very large and very small gradients are as in `adam`.
    Raises: ValueError when a number is out of its range.
    Source: You et al. 2020, arXiv:1904.00962, algorithm 2, with phi(z) = z.

    >>> optimizer = lamb(0.5, weight_decay=0.0)
    >>> params, grads = {"weight": jnp.array([[3.0, 4.0]])}, {"weight": jnp.array([[9.0, 0.0]])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["weight"].tolist()
    [[-2.5, 0.0]]
    """
    check_adam("lamb", b1, b2, eps)

    def chain(number, decay):
        return by_adam(number(b1), number(b2), number(eps)), decay, by_trust_ratio(stacked)

    return optimizer("lamb", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)
