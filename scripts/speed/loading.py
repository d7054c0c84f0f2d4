"""How fast published weights load: python -m scripts.speed.loading [--gigabytes 1] [--dtype float32]

Writes a Llama in float16 with that many bytes into a temporary folder, reads the file once, so that it is in the disk
cache, and loads it several times, by one thread and by all of them in turn. `docs/benchmarks.md` has the results.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import nnfunc as nf
from nnfunc.interop import load_leaves

LAYER = 102e6  # bytes of a layer of the model below


def write(folder, gigabytes):
    layers = max(1, round((gigabytes * 1e9 - 262e6) / LAYER))  # 262 MB are the table of tokens and the head
    model = nf.llama(32000, dim=2048, layers=layers, heads=16, hidden=5632)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    noise = (0.02 * np.random.default_rng(0).standard_normal(2**24, np.float32)).astype(np.float16)
    params = jax.tree.map(lambda leaf: np.resize(noise, leaf.shape), shapes)
    return nf.to_pretrained(model, params, Path(folder) / "model")


def load(folder, dtype, threads):
    """(seconds of wall time, seconds of CPU time, bytes of the parameters)."""
    load_leaves.THREADS = threads
    wall, cpu = time.perf_counter(), time.process_time()
    params = jax.block_until_ready(nf.pretrained(folder, dtype=dtype).params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return time.perf_counter() - wall, time.process_time() - cpu, size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    dtype, every = arguments.dtype and jnp.dtype(arguments.dtype), load_leaves.THREADS
    with tempfile.TemporaryDirectory() as temporary:
        folder = write(temporary, arguments.gigabytes)
        size = len((folder / "model.safetensors").read_bytes())
        times = {threads: [] for threads in (1, every)}
        for _ in range(arguments.repeats):
            for threads, results in times.items():
                results.append(load(folder, dtype, threads))
    for threads, results in times.items():
        wall, cpu = (min(column) for column in list(zip(*results, strict=True))[:2])
        row = {
            "threads": threads,
            "GB": size / 1e9,
            "GB/s": size / wall / 1e9,
            "CPU s": cpu,
            "load": os.getloadavg()[0],
        }
        print(json.dumps({name: round(value, 3) for name, value in row.items()}))
