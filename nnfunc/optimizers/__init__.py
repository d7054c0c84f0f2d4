"""Optimizers: short optax chains in which every number may be traced.

Each is optax's pair, `init(params) -> state` and `update(grads, state, params) -> updates, state`,
and works wherever optax takes one; `optimizer.learning_rate(step)` is its learning rate. learning_rate is a number or
a schedule. All compute, and keep their state, in float32 (float64 where a parameter is float64),
and give updates of the parameters' types.

Gradients are clipped first: clip is the largest norm of all of them together, and inf is off. Gradients whose
norm is beyond the largest number of its type, 3.4e38 in float32, become 0, as in optax.

Weight decay is for matrices: decay_on="matrices" means every leaf whose last name has the word
weight, kernel or embedding in it, and so neither biases nor the scales of norms. Shapes cannot
distinguish them: inside `repeat` a bias has an axis of layers too. Leaves without names, those of
lists, count from two axes on. decay_on takes path patterns too, such as ("**/weight", "head/*"),
"**" for all, () for none, or a function params -> tree of booleans. Or weight_decay itself is a dict
of decays by path pattern, {"head/*": 0.0, "**/weight": 0.1}: the first pattern that fits a leaf
decides, and leaves that none fits do not decay.

Wrappers change the gradients or the updates of another optimizer, of this library or of optax: `clip_value` and
`clip_adaptive` the gradients, `max_norm`, `lookahead` and `groups` the updates. They keep its `learning_rate`.
`stacked` names the leaves whose first axis is the layers of a `repeat`, such as "blocks/**".
"""

from nnfunc.calls import explain_calls
from nnfunc.optimizers import averages as averages
from nnfunc.optimizers.adaptive import adadelta, adagrad, adamax, nadam, radam
from nnfunc.optimizers.clipping import clip_adaptive, clip_value, max_norm
from nnfunc.optimizers.first_order import adam, adamw, lamb, lion, rmsprop, sgd
from nnfunc.optimizers.lookahead import lookahead
from nnfunc.optimizers.muon import muon
from nnfunc.optimizers.optimizer import Optimizer, as_optimizer
from nnfunc.optimizers.param_groups import groups

__all__ = [
    "Optimizer",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "as_optimizer",
    "clip_adaptive",
    "clip_value",
    "groups",
    "lamb",
    "lion",
    "lookahead",
    "max_norm",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
]

explain_calls(__name__)
