"""Whole programs, each a process of its own, in turns: start to first steps, decoding, nanoGPT's recipe."""

import json
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from .peers import turns
from .timing import in_turns, quartiles, ratio

STARTED = ("nnfunc", "linen", "nnx", "equinox", "haiku", "torch")
DECODERS = {
    "nnfunc": turns.Entry("nnfunc", "decoding:ours"),
    "transformers": turns.Entry("transformers", "decoding:transformers", "transformers", "transformers"),
}
NANOGPT = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 "
    "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
"""The options that nanoGPT's README gives for a CPU."""
SHORT = ["train.steps=500", "schedule.warmup_steps=50"]
"""Settings of our config with which it has the loss of nanoGPT in less time."""
ADAMW = [
    'optimizer={ name = "adamw", b2 = 0.99, weight_decay = 0.1, clip = 1.0 }',
    "schedule.peak=3e-3",
    "train.steps=2000",
]
"""Settings of our config with nanoGPT's optimizer and number of steps."""


def startup(entries: dict[str, turns.Entry], python: str, rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of a process to its fourth step of the MLP, with a warm compilation cache."""
    entries = {name: entry for name, entry in entries.items() if name in STARTED}
    entries = {"plain JAX": turns.Entry("plain JAX", "plain_jax:mlp"), **entries}
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.npz"
        turns.save("mlp", file)
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment = turns.child_environment("default") | cache | {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        for turn in range(-1, rounds):
            for name in np.random.default_rng(turn + 1).permutation(list(entries)):
                entry, start = entries[name], time.perf_counter()
                child = turns.Child(entry, "mlp", file, python if entry.package else sys.executable, environment)
                if turn >= 0:
                    seconds[name].append(time.perf_counter() - start)
                child.close()
    return seconds


def decoding(python: str, rounds: int, layers: int) -> dict[str, list[float]]:
    """Seconds to continue prompts greedily. Raises: SystemExit when the tokens differ."""
    seconds: dict[str, list[float]] = {name: [] for name in DECODERS}
    environment = turns.child_environment("default")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        code = f"from pathlib import Path; from speed.peers.decoding import save; save(Path({folder!r}), {layers})"
        subprocess.run([python, "-c", code], check=True, env=environment)
        children = {}
        for name, entry in DECODERS.items():
            own = python if entry.package else sys.executable
            children[name] = turns.Child(entry, "decoding", Path(folder), own, environment)
            stack.callback(children[name].close)
        tokens = {name: child.ready["losses"][0] for name, child in children.items()}
        if len(set(tokens.values())) > 1:
            raise SystemExit(f"the libraries decode other tokens: {tokens}")
        for _, name in in_turns(children, rounds):
            seconds[name].append(1e-3 * children[name].run(1))
    return seconds


def recipe(nanogpt: Path, text: Path, python: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of the whole processes, and their last validation losses. nanogpt: a checkout. text: its text."""
    root = turns.SCRIPTS.parent
    data = nanogpt / "data" / "shakespeare_char"
    (data / "input.txt").write_bytes(text.read_bytes())
    subprocess.run([python, "prepare.py"], cwd=data, check=True, stdout=sys.stderr)
    environment = turns.clean_environment()
    train = [sys.executable, "-m", "nnfunc", "train", "configs/shakespeare_gpt.toml"]
    programs = {
        "nnfunc": (train, root),
        "nnfunc, 500 steps": ([*train, *SHORT], root),
        "nnfunc, AdamW as nanoGPT": ([*train, *ADAMW], root),
        "nanoGPT": ([python, "train.py", "config/train_shakespeare_char.py", *NANOGPT.split()], nanogpt),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    losses: dict[str, float] = {}
    for _, name in in_turns(programs, rounds):
        command, working_folder = programs[name]
        with tempfile.TemporaryDirectory() as folder:  # its cache of compiled programs is empty
            own = environment | {"XDG_CACHE_HOME": folder, "PYTHONPATH": str(root)}
            run = [f"--out_dir={folder}"] if name == "nanoGPT" else ["--run", f"{folder}/run"]
            start = time.perf_counter()
            output = subprocess.check_output([*command, *run], cwd=working_folder, env=own, text=True)
            seconds[name].append(time.perf_counter() - start)
            printed = [float(loss) for loss in re.findall(r"val loss ([\d.]+)", output)]
            losses[name] = printed[-1] if name == "nanoGPT" else last_loss(folder)
    return seconds, losses


def last_loss(folder: str) -> float:
    """The last validation loss of a run."""
    rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["split"] == "validation"][-1]


def show(title: str, seconds: dict[str, list[float]], reference: str) -> None:
    """A table: seconds, and the time relative to the reference."""
    print(f"{title}\n\n| program | s (quartiles) | of {reference} (90 %) |\n| --- | --- | --- |")
    for name, times in seconds.items():
        low, median, high = (1e-3 * t for t in quartiles(times))
        part = ratio(times, seconds[reference])
        print(f"| {name} | {median:.2f} ({low:.2f}-{high:.2f}) | {turns.interval(part)} |")
