"""Train steps of nnfunc, plain JAX and other libraries: each in a process of its own, timed in turns."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnfunc import paths

from ..cases import trained
from ..timing import quartiles, ratio
from .models import CASES, epoch_order

SCRIPTS = Path(__file__).resolve().parents[2]
SECONDS = 0.2  # of a burst
TOLERANCE = 1e-3  # relative, of the first losses
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
"""`nf.keep_memory` as variables of the environment, for `--malloc all`."""


class Entry(NamedTuple):
    """function: module:function in this folder. package: as installed; None for those without a library."""

    title: str
    function: str
    module: str | None = None
    package: str | None = None


ALWAYS = {
    "plain": Entry("plain JAX", "plain_jax:contender"),
    "plain_again": Entry("plain JAX again (noise floor)", "plain_jax:contender"),
}
OURS = {"nnfunc": Entry("nnfunc", "ours:contender"), "nnfunc_tuned": Entry("nnfunc, keep_memory", "ours:tuned")}
PEERS = {
    "linen": Entry("Flax Linen", "linen:contender", "flax", "flax"),
    "nnx": Entry("Flax NNX", "nnx:contender", "flax", "flax"),
    "equinox": Entry("Equinox", "eqx:contender", "equinox", "equinox"),
    "haiku": Entry("Haiku", "dm_haiku:contender", "haiku", "dm-haiku"),
    "torch": Entry("PyTorch, eager", "pytorch:contender", "torch", "torch"),
    "torch_compile": Entry("PyTorch, compiled", "pytorch:compiled", "torch", "torch"),
}
WITH_EPOCHS = ("linen", "torch")
"""The peers that have a loop over an epoch; the others would differ from Linen's in the step alone."""
INSTALLED = """
import importlib.metadata, importlib.util, json, sys
pairs = zip(sys.argv[1::2], sys.argv[2::2])
packages = [package for module, package in pairs if importlib.util.find_spec(module)]
print(json.dumps({package: importlib.metadata.version(package) for package in packages}))
"""


class Child:
    """A process that waits for `run N`. ready: its first answer."""

    def __init__(self, entry: Entry, case: str, file: Path, python: str, environment: dict[str, str]) -> None:
        command = [python, "-m", f"{__package__}.child", entry.function, case, str(file)]
        self.title, pipe = entry.title, subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.ready = self.answer()

    def answer(self) -> Any:
        """The next answer; None from a process that has ended."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def ask(self, *words: Any) -> float:
        """The answer to a command."""
        assert self.process.stdin
        print(*words, file=self.process.stdin, flush=True)
        number = self.answer()
        if number is None:
            raise RuntimeError(f"{self.title} ended while it was timed; its error is above")
        return number

    def run(self, count: int) -> float:
        """Milliseconds of each of so many steps."""
        return self.ask("run", count)

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def installed(python: str) -> dict[str, str]:
    """Package -> version, of jax and the peers that this interpreter can import."""
    pairs = dict.fromkeys([("jax", "jax"), *((entry.module, entry.package) for entry in PEERS.values())])
    words = [str(word) for pair in pairs for word in pair]
    return json.loads(subprocess.check_output([python, "-c", INSTALLED, *words], text=True))


def select(peers: list[str], malloc: str, versions: dict[str, str]) -> dict[str, Entry]:
    """The contenders by name. nnfunc without `keep_memory` is the reference of the losses, so it always runs."""
    tuned = {"nnfunc_tuned": OURS["nnfunc_tuned"]} if malloc in ("tuned", "both") else {}
    entries = {**ALWAYS, "nnfunc": OURS["nnfunc"], **tuned}
    for name in peers:
        entry = PEERS[name]
        if entry.package in versions:
            entries[name] = entry
        else:
            print(f"{entry.title} is left out: {entry.package} is not installed", file=sys.stderr)
    return entries


def save(case: str, file: Path) -> None:
    """The batch, and nnfunc's initial parameters of key 0, by path."""
    model = CASES[case]()
    x, labels = model.batch()
    arrays: dict[str, Any] = {"x": x, "labels": labels} | ({"order": epoch_order(len(x))} if case == "epoch" else {})
    for path, leaf in paths.flatten(trained(model).init().params).items():
        arrays[f"params/{path}"] = np.asarray(leaf)
    np.savez(file, **arrays)


def measure(
    case: str, entries: dict[str, Entry], *, rounds: int, python: str, malloc: str, seconds: float = SECONDS
) -> dict[str, Any]:
    """Milliseconds of a step by contender. Each round has a burst of each, in a random order."""
    model, load = CASES[case](), os.getloadavg()[0]
    if case == "epoch":
        entries = {name: entry for name, entry in entries.items() if name in WITH_EPOCHS or name not in PEERS}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "case.npz"
        save(case, file)
        children, failed = start(case, entries, file, python, malloc, stack)
        counts = {}
        for name, child in children.items():
            first = child.run(2)
            counts[name] = max(1 if case == "epoch" else 2, min(1000, round(1e3 * seconds / first)))
        times: dict[str, list[float]] = {name: [] for name in children}
        draw = np.random.default_rng(0)
        for _ in range(rounds):
            for name in draw.permutation(list(children)):
                times[name].append(1e-3 * children[name].run(counts[name]))
        memory = {name: child.ask("memory") for name, child in children.items()}
    contenders = {
        name: {
            "title": entries[name].title,
            "ms": dict(zip(("low", "median", "high"), quartiles(times[name]), strict=True)),
            "ratio": ratio(times[name], times["plain"]),
            "steps_a_round": counts[name],
            "peak_mb": memory[name],
            "ready_seconds": round(children[name].ready["seconds"], 1),
            "losses": children[name].ready["losses"],
            "times": times[name],
        }
        for name in children
    }
    return {
        "case": case,
        "title": model.title,
        "bar": model.bar,
        "rounds": rounds,
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "contenders": contenders,
        "best": best(times, list(PEERS)),
        "best_on_jax": best(times, [name for name, entry in PEERS.items() if entry.package != "torch"]),
        "failed": failed,
    }


def clean_environment() -> dict[str, str]:
    """The variables of this process without settings of malloc, and with bytecode written, as installs have it."""
    left_out = ("MALLOC_", "GLIBC_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)}


def child_environment(malloc: str) -> dict[str, str]:
    """The variables of the contenders' processes."""
    environment = clean_environment()
    folders = [str(SCRIPTS), str(SCRIPTS.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # else a pool of processes stays
    # By default PyTorch's threads spin while they wait. Beside other programs its steps took 4 to 50 times as long.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return environment | (KEEP_MEMORY if malloc == "all" else {})


def start(
    case: str, entries: dict[str, Entry], file: Path, python: str, malloc: str, stack: ExitStack
) -> tuple[dict[str, Child], dict[str, str]]:
    """Children that are ready, and why others failed. The losses of all have to be those of nnfunc."""
    environment = child_environment(malloc)
    children, failed = {}, {}
    for name in sorted(entries, key=lambda name: name != "nnfunc"):  # the reference first
        entry = entries[name]
        print(f"{case}: {entry.title} ...", file=sys.stderr, flush=True)
        child = Child(entry, case, file, python if entry.package else sys.executable, environment)
        stack.callback(child.close)
        ready = child.ready
        if ready is None:
            failed[name] = "it ended with an error, which is above"
        elif "unavailable" in ready:
            print(f"{entry.title} is left out: {ready['unavailable']}", file=sys.stderr)
        elif children and not np.allclose(ready["losses"], reference(children), rtol=TOLERANCE, atol=0):
            failed[name] = f"its first losses are {ready['losses']}, and those of nnfunc {reference(children)}"
        else:
            children[name] = child
        if name in failed:
            print(f"{entry.title} failed: {failed[name]}", file=sys.stderr)
            if name in ("nnfunc", "plain"):
                raise SystemExit(f"{case}: without {entry.title} nothing can be compared")
    return {name: children[name] for name in entries if name in children}, failed


def reference(children: dict[str, Child]) -> list[float]:
    return children["nnfunc"].ready["losses"]


def best(times: dict[str, list[float]], names: list[str]) -> dict[str, Any] | None:
    """The peer with the lowest median, and nnfunc's time relative to it."""
    peers = {name: float(np.median(times[name])) for name in names if name in times}
    if not peers:
        return None
    name = min(peers, key=peers.__getitem__)
    return {"name": name, "ratios": {ours: ratio(times[ours], times[name]) for ours in OURS if ours in times}}


def show(report: dict[str, Any], *, markdown: bool) -> None:
    """A table by case, and a line on the best peer."""
    from .. import table

    machine, versions = report["machine"], report["versions"]
    head = ("contender", "ms (quartiles)", "of plain JAX (90 %)", "ready s", "peak MB")
    libraries = ", ".join(f"{package} {version}" for package, version in versions.items())
    print(f"{table.where(machine)}, {libraries}" if libraries else table.where(machine))
    for row in report["rows"]:
        malloc = ", keep_memory for all" if report["malloc"] == "all" else ""
        title = f"{row['title']}{malloc}: {row['rounds']} rounds, load {row['load'][0]:.1f}-{row['load'][1]:.1f}"
        print()
        table.write(title, head, [line(side) for side in row["contenders"].values()], markdown=markdown)
        print("\n" * markdown + verdict(row))


def line(side: dict[str, Any]) -> list[str]:
    ms = "{median:.2f} ({low:.2f}-{high:.2f})".format(**side["ms"])
    return [side["title"], ms, interval(side["ratio"]), f"{side['ready_seconds']:.1f}", f"{side['peak_mb']:.0f}"]


def interval(ratio: dict[str, float]) -> str:
    return "{value:.2f} ({low:.2f}-{high:.2f})".format(**ratio)


def verdict(row: dict[str, Any]) -> str:
    """`Best peer: PyTorch, eager. nnfunc: 0.91 (0.90-0.93) of it, bar 0.90: missed.`, and the best on JAX."""
    best, on_jax, bar = row["best"], row["best_on_jax"], row["bar"]
    if best is None:
        return "No peer ran."
    text = f"Best peer: {PEERS[best['name']].title}."
    for name, value in best["ratios"].items():
        met = "met" if value["value"] <= bar else "missed"
        text += f" {OURS[name].title}: {interval(value)} of it, bar {bar:.2f}: {met}."
    if on_jax in (None, best):
        return text
    ratios = "; ".join(f"{OURS[name].title}: {interval(value)} of it" for name, value in on_jax["ratios"].items())
    return f"{text} Best on JAX: {PEERS[on_jax['name']].title}. {ratios}."
