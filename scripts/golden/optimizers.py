"""Golden parameters after 20 steps of PyTorch's optimizers, in float64.

python scripts/golden/optimizers.py        (needs torch; renews tests/golden/optimizers.json)

The problem, which tests/optimizers/test_optimizers.py has too: fit tanh(x @ weight + bias) to y, mean square.
"""

import json
from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)  # of what an optimizer stores besides tensors, such as NAdam's product
STEPS = 20
CASES = {
    "sgd": ("SGD", dict(lr=0.5)),
    "sgd_momentum": ("SGD", dict(lr=0.1, momentum=0.8, weight_decay=0.1)),
    "sgd_nesterov": ("SGD", dict(lr=0.1, momentum=0.8, nesterov=True)),
    "adam": ("Adam", dict(lr=0.05, betas=(0.8, 0.95), eps=1e-3)),
    "adam_decay": ("Adam", dict(lr=0.05, weight_decay=0.1)),
    "adamw": ("AdamW", dict(lr=0.05)),
    "adamw_decay": ("AdamW", dict(lr=0.05, betas=(0.7, 0.9), weight_decay=0.3)),
    "rmsprop": ("RMSprop", dict(lr=0.02)),
    "rmsprop_all": ("RMSprop", dict(lr=0.02, alpha=0.9, eps=1e-4, momentum=0.7, centered=True, weight_decay=0.1)),
    "adamw_clip": ("AdamW", dict(lr=0.05), 0.05),
    "sgd_dampening": ("SGD", dict(lr=0.1, momentum=0.8, dampening=0.4, weight_decay=0.1)),
    "adam_amsgrad": ("Adam", dict(lr=0.05, betas=(0.8, 0.7), amsgrad=True)),
    "adamw_amsgrad": ("AdamW", dict(lr=0.05, betas=(0.8, 0.7), weight_decay=0.3, amsgrad=True)),
    "adagrad": ("Adagrad", dict(lr=0.2)),
    "adagrad_all": ("Adagrad", dict(lr=0.2, initial_accumulator_value=0.3, eps=1e-3, weight_decay=0.1)),
    "adadelta": ("Adadelta", dict(lr=1.0)),
    "adadelta_all": ("Adadelta", dict(lr=0.7, rho=0.8, eps=1e-3, weight_decay=0.1)),
    "adamax": ("Adamax", dict(lr=0.05)),
    "adamax_all": ("Adamax", dict(lr=0.05, betas=(0.7, 0.8), eps=1e-3, weight_decay=0.1)),
    "nadam": ("NAdam", dict(lr=0.05)),
    "nadam_all": ("NAdam", dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3, momentum_decay=0.1, weight_decay=0.1)),
    "radam": ("RAdam", dict(lr=0.05)),
    "radam_all": ("RAdam", dict(lr=0.05, betas=(0.7, 0.8), eps=1e-3, weight_decay=0.1)),
    "sgd_clip": ("SGD", dict(lr=0.5, momentum=0.5), 0.05),
}


def problem():
    """Inputs, targets and first parameters, made from sines so that no generator is needed."""
    x = np.sin(np.arange(18.0)).reshape(6, 3)
    y = np.cos(3 * np.arange(12.0)).reshape(6, 2)
    weight = np.sin(5 * np.arange(6.0)).reshape(3, 2)
    return x, y, weight, np.array([0.5, -0.5])


def run(name, arguments, clip=None):
    x, y, weight, bias = (torch.tensor(value) for value in problem())
    params = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = getattr(torch.optim, name)(params, **arguments)
    for _ in range(STEPS):
        optimizer.zero_grad()
        ((torch.tanh(x @ weight + bias) - y) ** 2).mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(params, clip)
        optimizer.step()
    return {"weight": weight.tolist(), "bias": bias.tolist()}


def main():
    golden = {name: run(*case) for name, case in CASES.items()}
    path = Path(__file__).parents[2] / "tests" / "golden" / "optimizers.json"
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in golden.items()]
    head = f'"torch": {json.dumps(torch.__version__)}'
    path.write_text("{\n" + ",\n".join([head, *lines]) + "\n}\n")


if __name__ == "__main__":
    main()
