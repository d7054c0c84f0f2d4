"""Runs per second of a sweep against the number of trials: made for a GPU, and runs anywhere."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

import nnfunc as nf

STEPS = 200
TRIALS = tuple(4**power for power in range(7))  # 1 to 4096
ALONE = 4
"""So many trials of each sweep also run alone, to compare their final losses."""


class Curve(NamedTuple):
    """A small model, its data, and the objective."""

    build: Any
    data: nf.data.Data


def mlp() -> Curve:
    """64-64-10 on the digits."""
    return Curve(lambda h: _task(nf.mlp([64, 64, 10]), h), _digits(flat=True))


def cnn() -> Curve:
    """8 and 16 filters of 3x3, each with max pooling, on the digits as images."""

    def build(h):
        model = nf.serial(
            one=nf.conv(1, 8, 3),
            act=jax.nn.relu,
            pool=nf.max_pool(2),
            two=nf.conv(8, 16, 3),
            act_2=jax.nn.relu,
            pool_2=nf.max_pool(2),
            flat=nf.flatten,
            head=nf.linear(64, 10),
        )
        return _task(model, h)

    return Curve(build, _digits(flat=False))


def gpt() -> Curve:
    """Two layers, 32 wide, blocks of 32 out of a text of 64 letters drawn at random."""
    text = np.random.default_rng(0).integers(0, 64, 20_000).astype(np.uint8)
    rows = np.stack([text[i * 33 : i * 33 + 33] for i in range(64)])
    data = nf.data.arrays(
        text,
        batch_size=16,
        window=33,
        classes=64,
        validation=rows,
        transform=lambda tokens: (tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)),
    )

    def build(h):
        model = nf.gpt(64, block_size=32, dim=32, layers=2, heads=2)
        return nf.Task(model, nf.language_modelling(), nf.optimizers.adam(h["lr"]))

    return Curve(build, data)


CURVES = {"mlp": mlp, "cnn": cnn, "gpt": gpt}


def measure(name: str, most: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a whole sweep side by side, for 1, 4, 16, ... trials up to `most`.

    A run is 200 steps with one evaluation at its end; programs are compiled before. Some of the trials then run
    alone. Raises: RuntimeError when a final loss differs by over 5 % from that of the run alone.
    """
    own, rows, key = CURVES[name](), [], jax.random.key(0)
    every: dict[str, Any] = {"steps": STEPS, "log_every": STEPS, "evaluate_every": STEPS}
    for trials in (count for count in TRIALS if count <= most):
        execution = "loop" if trials == 1 else "vmap"
        times, result = [], None
        for turn in range(rounds + 1):
            start = time.perf_counter()
            result = nf.sweep(
                own.build,
                {"lr": nf.log_uniform(1e-4, 1e-2)},
                own.data,
                trials=trials,
                execution=execution,
                key=key,
                **every,
            )
            if turn:
                times.append(time.perf_counter() - start)
        speed = trials / float(np.median(times))
        one = rows[0]["runs_per_second"] if rows else speed
        difference = _difference(own, result, key, every)
        rows.append(
            {"case": name, "trials": trials, "runs_per_second": speed, "times": speed / one, "difference": difference}
        )
    return rows


def _difference(own: Curve, result: Any, key: Any, every: dict[str, Any]) -> float:
    """The largest relative difference of a final loss from that of the run alone, of some trials."""
    differences = []
    for trial in np.unique(np.linspace(0, len(result.hypers) - 1, ALONE).astype(int)):
        key_of_trial = jax.random.fold_in(key, int(trial))
        _, history = nf.train(own.build, result.hypers[trial], own.data, key=key_of_trial, **every)
        alone = history.validation["loss"][-1]
        differences.append(abs(result.scores[trial] / alone - 1))
    if not max(differences) < 0.05:
        raise RuntimeError(
            f"a trial side by side has another final loss than alone: {max(differences):.2%} more or less"
        )
    return float(max(differences))


def show(rows: list[dict[str, Any]], where: str) -> None:
    """The table for docs/benchmarks.md."""
    print(f"Runs of {STEPS} steps, side by side: {where}\n")
    print("| case | trials | runs per second | of one at a time | final losses, relative to runs alone |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        speed, times = row["runs_per_second"], row["times"]
        print(f"| {row['case']} | {row['trials']} | {speed:.1f} | {times:.1f} | {row['difference']:.0e} |")


def _task(model: Any, h: dict[str, Any]) -> nf.Task:
    return nf.Task(model, nf.classification(), nf.optimizers.adam(h["lr"]))


def _digits(*, flat: bool) -> nf.data.Data:
    own = nf.data.digits(layout="flat" if flat else "image")
    return nf.data.arrays(own.train, batch_size=64, validation=own.validation)
