"""Runs per second of a sweep: one after another, and each execution of running many, timed in turns.

Beside them, where PyTorch is installed, its loop as its tutorials write it, for the same model.
"""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

import nnfunc as nf
from nnfunc.sweeps.strategy import WIDTH, cores

from . import plain
from .timing import in_turns, quartiles, ratio

STEPS = 200
WARM = 4
"""Rounds that do not count."""
TRAINED = 2
"""So many runs stand for all where `nf.train` is called for each."""


class Case(NamedTuple):
    """An MLP of these widths, and its data."""

    name: str
    widths: list[int]
    data: nf.data.Data

    def build(self, h: dict[str, Any]) -> nf.Task:
        return nf.Task(nf.mlp(self.widths), nf.classification(), nf.optimizers.adam(h["lr"]))


def case(name: str) -> Case:
    """ "digits": 64-64-10. "mnist": 784-128-10 on its first 8000 images, 1000 held out."""
    if name == "digits":
        own = nf.data.digits()
        data = nf.data.arrays(own.train, batch_size=64, validation=own.validation)
        return Case(name, [64, 64, 10], data)
    x, labels = nf.data.mnist().train
    x = np.asarray(x, np.float32).reshape(len(x), -1)[:9000] / 255
    split = [(x[a:b], np.asarray(labels[a:b])) for a, b in ((0, 8000), (8000, 9000))]
    return Case(name, [784, 128, 10], nf.data.arrays(split[0], batch_size=64, validation=split[1]))


def measure(name: str, trials: int, rounds: int) -> dict[str, Any]:
    """Seconds of a whole `nf.sweep` of so many trials, execution by execution, programs compiled before.

    Each run is 200 steps with one evaluation at its end. Which execution goes first changes from round to
    round. The first rounds, in which programs are compiled and the planner gets to know its executions, do
    not count.
    """
    own, key = case(name), jax.random.key(0)
    build, data = own.build, own.data
    space = {"lr": nf.log_uniform(1e-4, 1e-2)}
    every: dict[str, Any] = {"steps": STEPS, "log_every": STEPS, "evaluate_every": STEPS}
    last: dict[str, nf.sweeps.Result] = {}

    def swept(name: str, **options: Any) -> Callable[[], int]:
        def run() -> int:
            last[name] = nf.sweep(build, space, data, key=key, trials=trials, **every, **options)
            return trials

        return run

    def trained() -> int:
        for i in range(TRAINED):
            own = jax.random.fold_in(key, i)
            nf.train(build, last["one after another"].hypers[i], data, key=own, loop="scan", **every)
        return TRAINED

    half = min(WIDTH, -(-trials // cores()))
    sides = {
        "one after another": swept("one after another", execution="loop"),
        "plain JAX, one after another": plain_loop(own, key, trials),
        "plain JAX, side by side from two threads": plain_threads(own, key, trials),
        "nf.train for each": trained,
        "side by side": swept("side by side", execution="vmap"),
        "threads": swept("threads", execution="threads"),
        "threads, side by side": swept("threads, side by side", execution="threads", chunk=half),
        "auto": swept("auto", execution="auto"),
    }
    if torch := installed():
        sides["PyTorch, one after another"] = lambda: torch_loop(torch, own, TRAINED)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn, name in in_turns(sides, rounds, WARM):
        start = time.perf_counter()
        count = sides[name]()
        if turn >= 0:
            times[name].append((time.perf_counter() - start) / count)
    agree(last)
    one = times["one after another"]
    return {
        "case": own.name,
        "trials": trials,
        "auto": str(last["auto"].plan.groups[0].execution),
        "sides": {
            name: {"ms": quartiles(own), "runs_per_second": 1 / float(np.median(own)), "speed": ratio(one, own)}
            for name, own in times.items()
        },
    }


def plain_loop(own: Case, key: Any, trials: int) -> Callable[[], int]:
    """The same runs in plain JAX, one compiled program called for each."""
    whole = plain.run(own.widths, STEPS, own.data.batch_size)
    train, held = jax.device_put((own.data.arrays, own.data.validation))
    rates = np.geomspace(1e-4, 1e-2, trials, dtype=np.float32)

    def run() -> int:
        ends = [whole(jax.random.fold_in(key, i), rate, train, held) for i, rate in enumerate(rates)]
        if not all(loss < 2 for _, loss in jax.device_get(ends)[-1:]):
            raise RuntimeError("plain JAX does not learn")
        return trials

    return run


def plain_threads(own: Case, key: Any, trials: int) -> Callable[[], int]:
    """The same runs in plain JAX, at most 16 vmapped in a program, which two threads call."""
    whole = jax.jit(jax.vmap(plain.run(own.widths, STEPS, own.data.batch_size), (0, 0, None, None)))
    train, held = jax.device_put((own.data.arrays, own.data.validation))
    rates = np.geomspace(1e-4, 1e-2, trials, dtype=np.float32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(np.arange(trials))
    parts = np.array_split(np.arange(trials), max(2, -(-trials // 16)))

    def run() -> int:
        with ThreadPoolExecutor(2) as pool:
            ends = list(pool.map(lambda part: jax.device_get(whole(keys[part], rates[part], train, held)[1]), parts))
        if not all(np.isfinite(losses).all() for losses in ends):
            raise RuntimeError("plain JAX does not learn")
        return trials

    return run


def agree(results: dict[str, Any]) -> None:
    """Every execution gives the same scores. Raises: RuntimeError when one does not."""
    first, *others = results.values()
    for other in others:
        if not np.allclose(first.scores, other.scores, rtol=0.05, equal_nan=True):
            raise RuntimeError("the executions do not calculate the same")


def installed() -> Any:
    """PyTorch, or None."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return torch


def torch_loop(torch: Any, own: Case, runs: int) -> int:
    """Train so many networks one after another, eagerly, and evaluate each."""
    arrays = [torch.from_numpy(np.array(leaf)) for leaf in jax.tree.leaves(own.data.arrays)]
    held = [torch.from_numpy(np.array(leaf)) for leaf in jax.tree.leaves(own.data.validation)]
    (x, labels), (held_x, held_labels) = arrays, held
    labels, held_labels = labels.long(), held_labels.long()
    loss = torch.nn.CrossEntropyLoss()
    for run in range(runs):
        torch.manual_seed(run)
        layers = []
        for rows, columns in itertools.pairwise(own.widths):
            layers += [torch.nn.Linear(rows, columns), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers[:-1])
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        order = torch.randperm(len(x))
        for step in range(STEPS):
            at = order[[(step * 64 + i) % len(x) for i in range(64)]]
            optimizer.zero_grad()
            loss(model(x[at]), labels[at]).backward()
            optimizer.step()
        with torch.no_grad():
            loss(model(held_x), held_labels).item()
    return runs


def halving(rounds: int) -> dict[str, Any]:
    """Successive halving against running all to the end: 64 trials, 1000 steps, on the digits."""
    own, steps, trials = case("digits"), 1000, 64
    space = {"lr": nf.log_uniform(1e-5, 1.0)}
    sides: dict[str, Any] = {"to the end": None, "halving": nf.sweeps.halving(4)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    best: dict[str, list[int | None]] = {name: [] for name in sides}
    for turn, name in in_turns(sides, rounds, WARM):
        key, start = jax.random.key(max(turn, 0)), time.perf_counter()
        result = nf.sweep(own.build, space, own.data, steps=steps, trials=trials, key=key, search=sides[name])
        if turn >= 0:
            times[name].append(time.perf_counter() - start)
            best[name].append(result.best)
    winners = [a == b for a, b in zip(*best.values(), strict=True)]
    speed = ratio(times["to the end"], times["halving"])
    return {"speed": speed, "same": sum(winners), "of": len(winners)}


def show(rows: list[dict[str, Any]], half: dict[str, Any]) -> None:
    """The tables for docs/benchmarks.md."""
    machine = rows[0]["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}, jax {machine['jax']}, {machine['date']}"
    print(f"Runs of {STEPS} steps: {where}\n")
    print("| case | trials | execution | runs per second | of one after another (90 % interval) |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        for name, side in row["sides"].items():
            speed = "{value:.2f} ({low:.2f}-{high:.2f})".format(**side["speed"])
            how = f"auto: {row['auto'].partition(' (probe')[0]}" if name == "auto" else name
            place = f"{row['case']} | {row['trials']}"
            print(f"| {place} | {how} | {side['runs_per_second']:.1f} | {speed} |")
    speed = "{value:.2f} ({low:.2f}-{high:.2f})".format(**half["speed"])
    what = "Halving, 64 trials of 1000 steps on the digits"
    same = f"the same winner for {half['same']} of {half['of']} keys"
    print(f"\n{what}: {speed} times as fast as all to the end, {same}.")
