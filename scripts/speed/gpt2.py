"""GPT-2 124M in bfloat16: the time of a train step, and the part of the device's measured matrix rate that it uses."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from nnfunc import flops as count_flops

SMALL = {"layers": 2, "heads": 2, "dim": 64, "block": 32, "batch": 2, "vocabulary": 128}
FULL = {"layers": 12, "heads": 12, "dim": 768, "block": 1024, "batch": 12, "vocabulary": 50304}
"""The shape that nanoGPT's bench.py has; 50304 is the vocabulary padded to a multiple of 64."""
BURST = 20
"""Steps of a round, as in nanoGPT's bench.py."""


def matrix_rate(width: int, rounds: int) -> float:
    """FLOPs a second of a product of two bfloat16 matrices, the best of some rounds."""
    a = jnp.ones((width, width), jnp.bfloat16)
    product = jax.jit(lambda a: jax.lax.fori_loop(0, 10, lambda _, b: (a @ b) / jnp.bfloat16(width), a))
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(product(a))
        seconds.append(time.perf_counter() - start)
    return 10 * 2 * width**3 / min(seconds[1:])


def measure(shape: dict[str, int], rounds: int) -> dict[str, Any]:
    """Seconds of a step, its FLOPs, and the matrix rate of the device."""

    def build(h: dict[str, Any]) -> nf.Task:
        model = nf.gpt(
            shape["vocabulary"],
            block_size=shape["block"],
            layers=shape["layers"],
            heads=shape["heads"],
            dim=shape["dim"],
            bias=False,
            activation="gelu",
        )
        optimizer = nf.optimizers.adamw(h["lr"], b2=0.95, weight_decay=1e-2)
        return nf.Task(nf.precision(model), nf.language_modelling(), optimizer)

    init, step = nf.trainer(build)
    hypers = {"lr": np.float32(1e-4)}
    size = (shape["batch"], shape["block"] + 1)
    ids = np.random.default_rng(0).integers(0, shape["vocabulary"], size).astype(np.int32)
    batch = jax.device_put((ids[:, :-1], ids[:, 1:]))
    run = jax.jit(lambda state, batch: step(hypers, state, batch), donate_argnums=0)
    state = jax.jit(lambda: init(hypers, jax.random.key(0)))()
    flops = count_flops.count(run, jax.eval_shape(lambda: state), batch)
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(BURST):
            state, metrics = run(state, batch)
        if not np.isfinite(float(metrics["loss"])):
            raise RuntimeError("the loss is not finite")
        seconds.append((time.perf_counter() - start) / BURST)
    return {"seconds": seconds[1:], "flops": flops, "rate": matrix_rate(8192 if shape is FULL else 256, rounds)}


def nanogpt(folder: Path, python: str) -> str:
    """The last line of nanoGPT's bench.py, with torch.compile, on tokens that need no download."""
    command = [python, "bench.py", "--real_data=False"]
    output = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.findall(r"time per iteration.*", output)[-1]


def show(result: dict[str, Any], shape: dict[str, int], where: str, other: str | None) -> None:
    """The figures in two lines."""
    low, median, high = np.quantile(result["seconds"], (0.25, 0.5, 0.75))
    tokens = shape["batch"] * shape["block"] / median
    used = result["flops"] / median / result["rate"]
    print(f"GPT {shape}: {where}")
    print(
        f"nnfunc: {1e3 * median:.1f} ms a step ({1e3 * low:.1f}-{1e3 * high:.1f}), {tokens:,.0f} tokens a second, "
        f"{used:.1%} of the matrix rate of {result['rate'] / 1e12:.1f} TFLOP a second"
    )
    if other is not None:
        print(f"nanoGPT, torch.compile: {other} (utilisation of an A100's peak, 312 TFLOP a second)")
    sys.stdout.flush()
