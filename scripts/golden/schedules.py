"""Golden values of learning-rate schedules, from PyTorch's own schedulers.

python scripts/golden/schedules.py        (needs torch; renews tests/golden/schedules.json)
"""

import json
import warnings
from pathlib import Path

import torch
from torch.optim import lr_scheduler as torch_schedules

STEPS = 60
METRICS = [3, 2, 2, 2.1, 1.99, 1.9, 1.9, 1.9, 1.9, 1.9, 1, 1.2, 1.2, float("nan"), 0.999, 1.2]
METRICS += [1.2, 1.2, 1.2, 1.2, 0.5, 0.4999, 0.49, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, -1, -1.00005]
METRICS += [-1.5] * 13
ABOVE_0 = {"min": [m + 2 for m in METRICS], "max": [4 - m for m in METRICS]}
# for relative thresholds: beside a negative best, PyTorch's takes worse metrics for better ones


def optimizer(rate):
    return torch.optim.SGD([torch.zeros(1, dtype=torch.float64, requires_grad=True)], lr=rate)


def run(name, rate, steps=STEPS, **arguments):
    """The rate at each of the steps."""
    opt = optimizer(rate)
    schedule = getattr(torch_schedules, name)(opt, **arguments)
    rates = []
    for _ in range(steps):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        if len(rates) < steps:
            schedule.step()
    return rates


def run_plateau(metrics, **arguments):
    """The rate after each of the metrics."""
    opt = optimizer(0.5)
    schedule = torch_schedules.ReduceLROnPlateau(opt, eps=0.0, **arguments)
    rates = []
    for metric in metrics:
        schedule.step(metric)
        rates.append(opt.param_groups[0]["lr"])
    return rates


def run_sequential():
    """A warm-up, an exponential fall and a cosine, each from its own step 0."""
    opt = optimizer(0.5)
    parts = [
        torch_schedules.LinearLR(opt, start_factor=0.25, total_iters=8),
        torch_schedules.ExponentialLR(opt, gamma=0.9),
        torch_schedules.CosineAnnealingLR(opt, T_max=30),
    ]
    schedule = torch_schedules.SequentialLR(opt, parts, milestones=[8, 20])
    rates = []
    for _ in range(50):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    return rates


def one_cycle(total, **arguments):
    return run("OneCycleLR", 0.5, steps=total, max_lr=0.5, total_steps=total, **arguments)


def main():
    warnings.simplefilter("error")
    cosine = dict(T_max=60, eta_min=0.01)
    restarts = dict(T_0=7, eta_min=0.01)
    three = dict(div_factor=10.0, final_div_factor=100.0, three_phase=True)
    cyclic = dict(max_lr=0.5, step_size_up=5, step_size_down=8, cycle_momentum=False)
    golden = {
        "torch": torch.__version__,
        "step": run("StepLR", 0.5, step_size=7, gamma=0.3),
        "multistep": run("MultiStepLR", 0.5, milestones=[5, 20, 21], gamma=0.3),
        "exponential": run("ExponentialLR", 0.5, gamma=0.9),
        "polynomial": run("PolynomialLR", 0.5, total_iters=40, power=1.7),
        "linear": run("LinearLR", 0.5, start_factor=0.2, end_factor=0.8, total_iters=40),
        "cosine": run("CosineAnnealingLR", 0.5, **cosine),
        "restarts_1": run("CosineAnnealingWarmRestarts", 0.5, T_mult=1, **restarts),
        "restarts_2": run("CosineAnnealingWarmRestarts", 0.5, T_mult=2, **restarts),
        "restarts_3": run("CosineAnnealingWarmRestarts", 0.5, T_mult=3, **restarts),
        "one_cycle": one_cycle(60),
        "one_cycle_linear": one_cycle(50, pct_start=0.2, anneal_strategy="linear"),
        "one_cycle_three": one_cycle(60, pct_start=0.25, **three),
        "one_cycle_three_linear": one_cycle(50, pct_start=0.4, anneal_strategy="linear", **three),
        "cyclic": run("CyclicLR", 0.1, base_lr=0.1, max_lr=0.5, step_size_up=7, cycle_momentum=False),
        "cyclic_2": run("CyclicLR", 0.1, base_lr=0.1, mode="triangular2", **cyclic),
        "cyclic_exp": run("CyclicLR", 0.1, base_lr=0.1, mode="exp_range", gamma=0.97, **cyclic),
        "warmup_start": run("LinearLR", 0.5, start_factor=0.2, total_iters=12),
        "sequential": run_sequential(),
        "metrics": [None if metric != metric else metric for metric in METRICS],
        "plateau_min_rel": run_plateau(ABOVE_0["min"], factor=0.5, patience=2, threshold=1e-3),
        "plateau_min_abs": run_plateau(
            METRICS, factor=0.7, patience=1, threshold=0.05, threshold_mode="abs", cooldown=3
        ),
        "plateau_max_rel": run_plateau(ABOVE_0["max"], mode="max", factor=0.5, patience=3, cooldown=2, min_lr=0.1),
        "plateau_max_abs": run_plateau(
            METRICS, mode="max", factor=0.2, patience=0, threshold=0.3, threshold_mode="abs", cooldown=1, min_lr=1e-3
        ),
    }
    path = Path(__file__).parents[2] / "tests" / "golden" / "schedules.json"
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in golden.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
