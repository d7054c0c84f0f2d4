"""Whole train steps of nnfunc against the same models in plain JAX and other libraries, timed in turns.

    python scripts/bench.py                            # every case, with glibc as it is and tuned
    python scripts/bench.py --case gpt --malloc tuned
    python scripts/bench.py --json bench.json          # all figures
    python scripts/bench.py peers                      # against Flax, Equinox, Haiku and PyTorch: extra `bench`
    python scripts/bench.py peers --case gpt --peer linen torch --python .venv-bench/bin/python
    python scripts/bench.py peers --case epoch         # nf.train against loops over an epoch of MNIST
    python scripts/bench.py startup                    # from the start of a process to its fourth step
    python scripts/bench.py decoding                   # nf.generate against transformers' generate
    python scripts/bench.py recipe --nanogpt FOLDER    # the whole process against a checkout of nanoGPT
    python scripts/bench.py --case tiny                # what a dispatch costs beyond hand-written jit
    python scripts/bench.py watching                   # what it costs to look at every layer
    python scripts/bench.py operations                 # where the time of each step goes, from the profiler
    python scripts/bench.py mesh                       # data parallel on two CPU devices against one
    python scripts/bench.py sweeps                     # runs per second of nf.sweep, execution by execution
    python scripts/bench.py curve                      # the same by trials, 1 to 4096: for a GPU
    python scripts/bench.py gpt2 --nanogpt FOLDER      # GPT-2 124M in bfloat16, and nanoGPT's: for a GPU
    python scripts/bench.py bound                      # the products of the LSTM's step, alone
    python scripts/bench.py --freeze                   # renews tests/golden/hlo.json

"tuned" is `nnfunc.malloc.keep_memory`, which programs started from the command line call.

A step is forward, backward and the optimizer's update, one program with the state donated. Beside it
the step of `nf.train` is timed, which also has metrics and a guard against non-finite values.
The plain models (scripts/speed/plain.py) are what a good JAX user writes without tricks. Both start
from the same parameters, and their first losses must agree to 1e-4. Each case has a process of its
own, with one wait for the device a round.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CASES = ("mlp", "cnn", "lstm", "gpt")
PEER_CASES = (*CASES, "epoch")
MORE = ("tiny", "gpt_gpu")
"""Cases that run when they are named; the last is for a GPU."""
CURVES = ("mlp", "cnn", "gpt")
PEERS = ("linen", "nnx", "equinox", "haiku", "torch", "torch_compile")
WHAT = (
    "steps",
    "peers",
    "startup",
    "decoding",
    "recipe",
    "gpt2",
    "watching",
    "operations",
    "mesh",
    "sweeps",
    "curve",
    "bound",
)
MALLOC = "of nnfunc, with `keep_memory` or without; of peers also `all`: every contender with that setting"


def main():
    args = arguments()
    if args.child:
        return child(args)
    if args.freeze:
        from speed import frozen

        return frozen.renew()
    if args.what == "peers":
        return peers(args)
    from speed import table

    settings = (args.malloc,)
    if args.malloc == "both":
        settings = ("default", "tuned") if sys.platform == "linux" else ("default",)
    rows = []
    if args.what == "gpt2":
        return gpt2(args)
    if args.what in ("startup", "decoding", "recipe"):
        return whole_programs(args)
    if args.what == "sweeps":
        return sweeps(args)
    if args.what == "curve":
        return curve(args)
    if args.what == "bound":
        from speed import bound

        return bound.show(bound.measure(args.rounds or 101))
    for case in args.case or CASES:
        for malloc in settings:
            print(f"{case}, malloc {malloc} ...", end=" ", file=sys.stderr, flush=True)
            rows.append(apart(args.what, case, malloc, args.rounds or 101))
            done = rows[-1].get("ratio", {}).get("value", rows[-1].get("share"))
            print(f"{done:.3f}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    if args.what == "watching":
        from speed import watching

        return watching.show(rows)
    if args.what in ("mesh", "operations"):
        from speed import mesh, operations

        return {"mesh": mesh, "operations": operations}[args.what].show(rows)
    report = {"machine": rows[0]["machine"], "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    table.show(report, markdown=args.markdown)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*PEER_CASES, *MORE]
    parser.add_argument("what", nargs="?", choices=WHAT, default="steps")
    parser.add_argument("--case", action="append", choices=known, help="may be given again")
    parser.add_argument("--rounds", type=int, help="101 of about 0.02 s a side; of sweeps 9; of peers 21 of 0.2 s")
    parser.add_argument("--trials", action="append", type=int, help="of sweeps: 8, 32 and 128")
    parser.add_argument("--malloc", choices=("default", "tuned", "both", "all"), default="both", help=MALLOC)
    peer_help = "of peers: those to compare with, all by default; plain: none"
    parser.add_argument("--peer", action="extend", nargs="+", choices=["plain", *PEERS], help=peer_help)
    parser.add_argument("--python", default=sys.executable, help="of peers: the interpreter that has them")
    parser.add_argument(
        "--nanogpt", type=Path, help="of recipe and gpt2: a checkout of nanoGPT, whose data folder is written to"
    )
    parser.add_argument("--small", action="store_true", help="of gpt2: a tiny model, to try the command")
    parser.add_argument("--markdown", action="store_true", help="tables for the docs")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--freeze", action="store_true", help="keep the HLO counts for the tests")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.malloc == "all" and args.what != "peers":
        parser.error("--malloc all is for peers")
    cases = {"peers": PEER_CASES, "curve": CURVES}.get(args.what, (*CASES, *MORE))
    if absent := set(args.case or ()) - set(cases):
        parser.error(f"{args.what} has no case {', '.join(sorted(absent))}")
    return args


def peers(args: argparse.Namespace) -> None:
    """The same steps in other libraries. Exits with 1 when a library fails or calculates something else."""
    from speed.peers import turns

    malloc = "default" if args.malloc == "both" and sys.platform != "linux" else args.malloc
    versions = turns.installed(args.python)
    names = [name for name in dict.fromkeys(args.peer or PEERS) if name != "plain"]
    entries = turns.select(names, malloc, versions)
    used = {entry.package for entry in entries.values()}
    report: dict[str, Any] = {"machine": machine(), "malloc": malloc, "rows": []}
    if versions.get("jax", report["machine"]["jax"]) != report["machine"]["jax"]:
        print(f"The libraries run on jax {versions['jax']}, another version than nnfunc's", file=sys.stderr)
    report["versions"] = {package: version for package, version in versions.items() if package in used}
    for case in args.case or CASES:
        settings = {"rounds": args.rounds or 21, "python": args.python, "malloc": malloc}
        report["rows"].append(turns.measure(case, entries, **settings))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    turns.show(report, markdown=args.markdown)
    if failed := [f"{row['case']}: {name}" for row in report["rows"] for name in row["failed"]]:
        sys.exit(f"failed: {', '.join(failed)}")


def whole_programs(args: argparse.Namespace) -> None:
    """Start-up, decoding or a whole training, against the other libraries."""
    from speed import table, whole_programs
    from speed.peers import turns

    where = table.where(machine())
    if args.what == "decoding":
        seconds = whole_programs.decoding(args.python, args.rounds or 9, layers=12)
        return whole_programs.show(f"Greedy decoding with GPT-2 small: {where}", seconds, "transformers")
    if args.what == "startup":
        entries = turns.select(list(PEERS), "default", turns.installed(args.python))
        seconds = whole_programs.startup(entries, args.python, args.rounds or 9)
        return whole_programs.show(f"From start to the fourth step: {where}", seconds, "plain JAX")
    if args.nanogpt is None:
        sys.exit("recipe needs --nanogpt: a checkout of github.com/karpathy/nanoGPT")
    from nnfunc.data.download import find
    from nnfunc.data.sources.text import KNOWN

    text = find("bench", *KNOWN["tinyshakespeare"])
    seconds, losses = whole_programs.recipe(args.nanogpt, text, args.python, args.rounds or 1)
    whole_programs.show(f"nanoGPT's recipe: {where}; validation losses {losses}", seconds, "nanoGPT")


def gpt2(args: argparse.Namespace) -> None:
    """A train step of GPT-2 124M, and nanoGPT's own measurement where --nanogpt names a checkout."""
    from speed import gpt2, table

    shape = gpt2.SMALL if args.small else gpt2.FULL
    result = gpt2.measure(shape, args.rounds or 5)
    other = None if args.nanogpt is None else gpt2.nanogpt(args.nanogpt, args.python)
    gpt2.show(result, shape, table.where(machine()), other)


def sweeps(args: argparse.Namespace) -> None:
    """Measure sweeps, in this process: its programs are small and the malloc does not matter."""
    from speed import sweeps

    rows = []
    wanted = [("digits", trials) for trials in args.trials or (8, 32, 128)]
    wanted += [] if args.trials else [("mnist", 32)]
    for name, trials in wanted:
        print(f"{name}, {trials} trials ...", end=" ", file=sys.stderr, flush=True)
        rows.append(sweeps.measure(name, trials, args.rounds or 9) | {"machine": machine()})
        speed = rows[-1]["sides"]["auto"]["speed"]["value"]
        print(f"{speed:.2f}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    half = sweeps.halving(args.rounds or 5)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "halving": half}, indent=1) + "\n")
    sweeps.show(rows, half)


def curve(args: argparse.Namespace) -> None:
    """Runs per second by trials, up to the most that --trials names."""
    from speed import curve

    own, most = machine(), max(args.trials or [4096])
    rows = []
    for name in [case for case in args.case or curve.CURVES if case in curve.CURVES]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += curve.measure(name, most, args.rounds or 3)
    curve.show(rows, f"{own['device']}, jax {own['jax']}, {own['date']}")


def apart(what: str, case: str, malloc: str, rounds: int) -> dict[str, Any]:
    """The figures of one case, measured by a fresh process with the setting of malloc."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        own = {"--case": case, "--malloc": malloc, "--rounds": str(rounds), "--child": str(file)}
        command = [sys.executable, __file__, what, *(word for pair in own.items() for word in pair)]
        done = subprocess.run(command, env=environment)
        if done.returncode:
            sys.exit(f"the case {case} failed; its error is above")
        return json.loads(file.read_text()) | {"case": case, "malloc": malloc}


def child(args: argparse.Namespace) -> None:
    from nnfunc.malloc import keep_memory

    if args.malloc == "tuned" and not keep_memory():
        sys.exit("--malloc tuned needs Linux with glibc: see nnfunc/malloc.py")
    from speed import cases, mesh, operations, timing, watching

    if args.what == "mesh":
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", mesh.DEVICES)
    measure = {"watching": watching.measure, "mesh": mesh.measure, "operations": operations.measure}.get(
        args.what, timing.measure
    )
    figures = measure(cases.CASES[args.case[0]](), args.rounds)
    args.child.write_text(json.dumps(figures | {"machine": machine()}))


def machine() -> dict[str, Any]:
    import jax

    cpu = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
    count = getattr(os, "sched_getaffinity", None)
    return {
        "device": jax.devices()[0].device_kind,
        "cpu": cpu,
        "cores": len(count(0)) if count else os.cpu_count(),
        "jax": jax.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
