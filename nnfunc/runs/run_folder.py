"""The folder of a run: what it holds, and who may write there.

config.toml        every setting, defaults included: enough to run it again
environment.json   versions, device and command
data.json          what the run learned from its data: columns, means, classes, a fingerprint
data_rows.npy      which example is in which split: a hash of each, with the split in the low bits
codec.json         of runs on text: how text becomes tokens
base/              of runs of adapters: a copy of the run that they adapt
metrics.jsonl      one line a report: training means, validation metrics
checkpoints/       step-..., the last ones; best, the one with the best validation metric
result.json        the test figures, once the run is complete
curves.png, report.html
lock               while a process trains
merged.json        instead of metrics and result, where `nnfunc merge` made it: of which run and step
trial.json         of a trial that `nnfunc sweep-best --save` saved: its sweep, its index and its last step
tensorboard/, wandb/, wandb.json   where `log = { to = [...] }` asks for them
"""

import json
import os
import platform
import re
import shlex
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from nnfunc import check, documents, malloc, xla_flags

__all__ = [
    "CONFIG_FILES",
    "MERGED",
    "TRIAL",
    "check_folder",
    "create_folder",
    "is_occupied",
    "program_name",
    "read_json",
    "remove_folder",
    "write_environment",
    "write_json",
]

MERGED = "merged.json"
TRIAL = "trial.json"
CONFIG_FILES = {"run": "config.toml", "sweep": "sweep.toml"}
"""What only such a folder holds."""


def create_folder(name: str, folder: Path | None = None) -> Path:
    """A new, empty folder for a run: the given one, or the next free `runs/name-1`, `runs/name-2`.

    name: of the config. folder: to create, or None.

    Raises: FileExistsError when the given folder exists and is not empty.
    """
    if folder is not None:
        if is_occupied(folder):
            hint = f"Choose another with --run, or go on with it: {program_name()} resume {folder}"
            raise FileExistsError(f"The run folder {folder} exists already. {hint}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    root = Path("runs")
    root.mkdir(exist_ok=True)
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    numbers = [int(m[1]) for path in root.iterdir() if (m := pattern.fullmatch(path.name))]
    number = max(numbers, default=0) + 1
    while True:
        try:
            (root / f"{name}-{number}").mkdir()
            return root / f"{name}-{number}"
        except FileExistsError:  # another process took it meanwhile
            number += 1


def is_occupied(folder: Path) -> bool:
    """Whether the path exists and is not an empty folder. folder: the path."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def remove_folder(folder: Path, *, keep: bool = False) -> None:
    """Remove the folder of a run that never began. folder: of the run. keep: only empty it."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not keep:
        folder.rmdir()


def check_folder(folder: Path, what: str = "run") -> Path:
    """The folder, checked to hold a run or a sweep.

    folder: to check. what: "run" or "sweep".

    Raises: FileNotFoundError naming the nearest ones when it does not; ValueError when something in it
    is a link out of it, or neither file nor folder.
    """
    file = CONFIG_FILES[what]
    if (folder / file).is_file():
        problem = documents.find_outside_link(folder)
        if problem:
            check.fail(str(folder), f"{problem}. Put what it should be in its place.")
        return folder
    if what == "run" and (folder / CONFIG_FILES["sweep"]).is_file():
        hint = f"Make a trial of it a run: {program_name()} sweep-best {folder} --save FOLDER"
        raise FileNotFoundError(f"{folder} is a sweep, not a run. {hint}")
    around = {folder.parent, Path(), Path("runs")}
    known = {str(path.parent) for place in around for path in place.glob(f"*/{file}")}
    problem = f"has no {file}, so it is not a {what}" if folder.exists() else "does not exist"
    raise FileNotFoundError(f"{folder} {problem}{check.nearest(str(folder), sorted(known))}")


def program_name() -> str:
    """The name by which the user started this program, for hints."""
    program = Path(sys.argv[0])
    known = shutil.which("nnfunc")
    if program.name != "nnfunc" or not program.exists() or (known and program.samefile(known)):
        return "nnfunc"
    return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)


def write_environment(folder: Path) -> None:
    """Write environment.json: versions, device and command. folder: of the run."""
    names = ("nnfunc", "jax", "jaxlib", "optax", "numpy", "safetensors")
    device = jax.devices()[0]
    write_json(
        folder / "environment.json",
        {
            "command": shlex.join(["nnfunc", *sys.argv[1:]]),
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "device": f"{device.platform}: {device.device_kind}",
            "devices": jax.device_count(),
            "malloc": "kept" if malloc.is_memory_kept() else "default",
            "xla_flags": xla_flags.flags_in_force(),
            "versions": {name: _version(name) for name in names},
        },
    )


def write_json(path: Path, value: Any) -> None:
    """Write a small file atomically. path: of the file. value: as JSON holds it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)


def read_json(path: Path, form: Any = dict) -> Any:
    """The value in a JSON file, None without the file.

    path: of the file. form: of the value, see `documents`.

    Raises: ValueError when it holds anything else.
    """
    return documents.read_json(path, form) if path.exists() else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
