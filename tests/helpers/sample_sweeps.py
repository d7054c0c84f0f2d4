"""Results of sweeps as they would come out, without training."""

import dataclasses

import numpy as np

from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.result import Result


def make(hypers, scores, *, seeds=1, figure="max accuracy", diverged=(), refused=None, **later):
    """A result whose accuracy rises in a line to the scores; diverged trials end at step 50 of 100."""
    hypers = [dict(h) for h in hypers for _ in range(seeds)]
    figure, refused, stopped = BestMetric.parse(figure), refused or {}, later.get("stopped_at", {})
    scores, at = np.asarray(scores, np.float64), np.arange(10, 101, 10)
    rank = f"validation/{figure.name}"
    curves = {rank: np.outer(scores, at / 100).astype(np.float32)}
    curves["train/loss"] = 2 - np.outer(np.ones(len(scores)), at / 100).astype(np.float32)
    curves["train/gradient_norm"] = np.ones_like(curves["train/loss"])
    for curve in curves.values():
        curve[list(diverged), 5:] = np.nan
        curve[list(refused)] = np.nan
        for trial, step in stopped.items():
            curve[trial, at > step] = np.nan
    ended = np.isin(np.arange(len(scores)), [*diverged, *refused, *stopped])
    kept = np.where(ended, np.nan, scores)
    plan = Plan(len(hypers) // seeds, seeds, 100, ["lr"], {"act": "'<x>' (str) is no number"}, {}, [])
    known = {
        "hypers": hypers,
        "metric": figure,
        "seeds": seeds,
        "plan": plan,
        "seconds": 12.34,
        "steps": {"train": at, "validation": at},
        "curves": curves,
        "scores": kept,
        "diverged": dict.fromkeys(diverged, 50),
        "refused": refused,
        "stopped_at": stopped,
        "ranks_last": set(stopped),
        "seed": [i % seeds for i in range(len(hypers))],
        "lineage": [],
        "complete": True,
        "_outcomes": [],
        "_carries": {},
        "_impl": None,
        "_specs": None,
    }
    names = {field.name for field in dataclasses.fields(Result)}
    result = Result(**{name: value for name, value in known.items() if name in names})
    for name, value in later.items():
        setattr(result, name, value)
    return result


def settings(count, seed=0):
    """Settings whose score hangs on lr strongly, on dropout weakly, and not on batch_order."""
    draw = np.random.default_rng(seed)
    lr, dropout, order = 10 ** draw.uniform(-5, 0, count), *draw.uniform(0, 0.5, (2, count))
    hypers = [
        {"lr": float(a), "batch_order": float(c), "dropout": float(b), "decay": 0.01}
        for a, b, c in zip(lr, dropout, order, strict=True)
    ]
    return hypers, 0.9 - 0.05 * (np.log10(lr) + 2.5) ** 2 - 0.3 * dropout
