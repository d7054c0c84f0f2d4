"""A train step divided over two CPU devices against the same step on one, timed in turns."""

import os
import time
from typing import Any

import jax
import numpy as np

import nnfunc as nf
from nnfunc.distributed.collectives import collective_bytes, collectives

from .cases import RATE, Case
from .timing import in_turns, quartiles, ratio

DEVICES = 2


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Times and processor times of a step of `nf.train` on one device and on two, whose first losses agree to 1e-4.

    A round is as many steps of each side as take about 50 ms, with one wait at their end.
    """
    hypers, sides, times, processor = {"lr": np.float32(RATE)}, {}, {}, {}
    for devices in (1, DEVICES):
        mesh = nf.mesh(data=devices)
        init, step = nf.trainer(case.build, mesh=mesh)
        program = jax.jit(lambda state, batch, step=step: step(hypers, state, batch), donate_argnums=0)
        batch = jax.device_put(case.batch(), jax.NamedSharding(mesh, jax.P("data")))
        state = jax.jit(lambda init=init: init(hypers, jax.random.key(0)))()
        compiled = program.lower(state, batch).compile()
        state, metrics = compiled(state, batch)
        sides[devices] = [compiled, state, batch, float(metrics["loss"])]
        times[devices], processor[devices] = [], []
    losses = [side[3] for side in sides.values()]
    if not np.allclose(losses[0], losses[1], rtol=1e-4):
        raise RuntimeError(f"the sides do not calculate the same: {losses}")

    def run(devices, count):
        compiled, state, batch, _ = sides[devices]
        start, used = time.perf_counter(), time.process_time()
        for _ in range(count):
            state, _ = compiled(state, batch)
        sides[devices][1] = jax.block_until_ready(state)
        return (time.perf_counter() - start) / count, (time.process_time() - used) / count

    counts = {devices: max(1, min(200, round(0.05 / run(devices, 3)[0]))) for devices in sides}
    load = os.getloadavg()[0]
    for _, devices in in_turns(sides, rounds):
        wall, used = run(devices, counts[devices])
        times[devices].append(wall)
        processor[devices].append(used)
    exchanged = sum(collective_bytes(collectives(sides[DEVICES][0])).values())
    return {
        "title": case.title,
        "ms": {devices: quartiles(values) for devices, values in times.items()},
        "ratio": ratio(times[DEVICES], times[1]),
        "processor": ratio(processor[DEVICES], processor[1]),
        "exchanged": exchanged,
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The table for docs/benchmarks.md."""
    machine = rows[0]["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}, jax {machine['jax']}, {machine['date']}"
    print(f"Data parallel on {DEVICES} CPU devices against one: {where}\n")
    print("| case | malloc | one device ms | two devices ms | ratio (90 %) | of processor time | MB exchanged | load |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        one, two = ("{1:.2f} ({0:.2f}-{2:.2f})".format(*row["ms"][key]) for key in ("1", str(DEVICES)))
        times, used = row["ratio"], row["processor"]
        interval = f"{times['value']:.2f} ({times['low']:.2f}-{times['high']:.2f})"
        print(
            f"| {row['case']} | {row['malloc']} | {one} | {two} | {interval} | {used['value']:.2f} "
            f"| {row['exchanged'] / 1e6:.2f} | {row['load'][0]}-{row['load'][1]} |"
        )
