"""Folders that look like those of runs, with every kind of row, for what shows runs.

`metrics(...)` makes the rows that a run with `watch_every` writes. The shapes of the curves are invented,
the form of the rows is that of `nnfunc/runs/run_folder.py`.
"""

import json
import math
from pathlib import Path

import numpy as np

BINS = 32
MLP = {
    f"{layer}/{leaf}": None for layer in ("hidden_0/linear", "hidden_1/linear", "head") for leaf in ("weight", "bias")
}
MLP_ACTS = ("hidden_0/act", "hidden_1/act")


def gpt(layers):
    """The paths of parameters and activations of a GPT that repeats one block."""
    leaves = [
        "attend/out/weight",
        "attend/query_key_value/weight",
        "attend_norm/scale",
        "feed/down/weight",
        "feed/up/weight",
        "feed_norm/scale",
    ]
    places = [f"blocks/{i}/{leaf}" for i in range(layers) for leaf in leaves]
    params = [*places, "embed/table", "head/weight", "norm/scale", "positions/table"]
    acts = [f"blocks/{i}/{name}" for i in range(layers) for name in ("attend", "feed/act", "feed")]
    return sorted(params), ["embed", *acts, "norm"]


def histogram(generator, deviation, *, low=None):
    """[low, high, counts] of normal values; low: a smallest value, as relu has."""
    values = generator.normal(0, deviation, 400)
    values = values if low is None else np.maximum(values, low)
    counts, edges = np.histogram(values, BINS)
    return [float(f"{edges[0]:.4g}"), float(f"{edges[-1]:.4g}"), counts.tolist()]


def layer_row(generator, step, seconds, params, acts, progress, sick):
    parameters, activations = {}, {}
    for i, path in enumerate(params):
        size = 0.02 + 0.3 / (1 + i % 5) * math.exp(0.5 * progress)
        gradient = 0.3 * math.exp(-3 * progress) * 10 ** generator.normal(0, 0.15) / (1 + i % 7)
        if sick and i == 0:
            gradient *= 1e-5
        ratio = 1e-3 * 10 ** generator.normal(-0.1, 0.2) * (1 - progress + 0.02)
        parameters[path] = {
            "gradient_norm": gradient,
            "weight_norm": size * 10,
            "update_ratio": ratio * (60 if sick and i == 2 else 1),
            "weight_histogram": histogram(generator, size),
            "gradient_histogram": histogram(generator, gradient / 10),
        }
    for i, path in enumerate(acts):
        deviation = 0.8 + 0.1 * i / len(acts) + 0.4 * progress
        entry = {
            "mean": generator.normal(0, 0.05),
            "deviation": deviation,
            "histogram": histogram(generator, deviation, low=0 if "act" in path else None),
        }
        if "act" in path:
            entry["dead"] = min(0.02 * i / len(acts) + (0.9 * progress if sick and i == 1 else 0), 1)
        activations[path] = entry
    return {"split": "layers", "step": step, "seconds": seconds, "parameters": parameters, "activations": activations}


def metrics(
    steps=1000,
    *,
    done=None,
    log_every=10,
    evaluate_every=50,
    watch_every=50,
    params=tuple(MLP),
    acts=MLP_ACTS,
    text=False,
    sick=False,
    seed=0,
    peak=3e-3,
    final_loss=0.3,
):
    """The rows of a run up to step `done`. sick: with a dead layer, a vanishing gradient, and events."""
    generator = np.random.default_rng(seed)
    first, rows = 4.2 if text else 2.3, []
    for step in range(1, (steps if done is None else done) + 1):
        progress, seconds = step / steps, round(step * 0.012, 3)
        level = final_loss + (first - final_loss) * math.exp(-6 * progress)
        if step % log_every == 0:
            row = {
                "split": "train",
                "step": step,
                "seconds": seconds,
                "loss": level * 10 ** generator.normal(0, 0.01),
                "gradient_norm": 0.8 * math.exp(-progress) * 10 ** generator.normal(0, 0.1),
                "learning_rate": peak * min(step / 50, (1 + math.cos(math.pi * progress)) / 2),
                "examples_per_second": 5300 * (1 + 0.02 * generator.normal()),
                "memory_mb": 412 + 3 * generator.random(),
                "flops_per_second": 3.1e9,
                "utilisation": 0.31 + 0.01 * generator.normal(),
            }
            if text:
                row["tokens_per_second"] = row["examples_per_second"] * 64
            else:
                row["accuracy"] = 1 - 0.4 * level / first
            if sick and step == steps * 3 // 5:
                row["gradient_norm"] = 300.0
                event = {"split": "event", "step": step, "seconds": seconds, "event": "rollback"}
                rows.append(event | {"message": f"loss is nan at step {step}: back to 500, rate/2"})
            rows.append(row)
        if step % watch_every == 0:
            rows.append(layer_row(generator, step, seconds, params, acts, progress, sick))
        if step % evaluate_every == 0:
            row = {"split": "validation", "step": step, "seconds": seconds}
            row["loss"] = level * 1.03 + 0.1 * max(progress - 0.8, 0)
            rows.append(row if text else row | {"accuracy": 1 - 0.45 * level / first})
    return rows


def write_rows(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(folder, rows, *, steps=1000, model="mlp", best="min loss", result=None, name="digits", **settings):
    """A run's folder with a config and the rows, complete when there is a result."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"peak": 3e-3, "dropout": 0.2} | settings
    (folder / "config.toml").write_text(
        f'seed = 0\n[data]\nname = "{name}"\nbatch_size = 64\n'
        f'[model]\nname = "{model}"\nwidths = [64, 128, 10]\ndropout = {settings["dropout"]}\n'
        f'[schedule]\nname = "warmup_cosine"\npeak = {settings["peak"]}\n'
        f'[train]\nsteps = {steps}\nbest = "{best}"\n'
    )
    environment = {"device": "cpu: cpu", "python": "3.11", "versions": {"jax": "0.10.2"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    write_rows(folder, rows)
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


RESULT = {
    "loop": "step",
    "step": 900,
    "first": 0,
    "seconds": 12.1,
    "validation": {"accuracy": 0.9944, "loss": 0.3012},
    "test": {"accuracy": 0.9917, "loss": 0.3123},
}
