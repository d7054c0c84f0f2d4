"""The folder of a run.

config.toml        every setting, defaults included: enough to run it again
environment.json   versions, device and command
data.json          the preprocessing fitted to the data: columns, means, classes, a fingerprint
data_rows.npy      the split of each example: a hash of the example, with the split in the low bits
codec.json         of runs on text: how text becomes tokens
base/              of runs with adapters or a table start: a copy of the run that they begin with
start.json         of runs with a table start: the paths of what was taken over, and of the rest
metrics.jsonl      one JSON table a line: training means, validation metrics, layer statistics, events
checkpoints/       step-..., the latest ones; best, the one with the best validation metric
result.json        the test metrics, once the run is complete
threshold.json     of runs with task.threshold: the probability from which on an answer is yes, and its metric
curves.png, report.html
lock               while a process trains
merged.json        of a folder that `nnfunc merge` wrote, without metrics and result: the source run and step
trial.json         of a trial that `nnfunc sweep-best --save` saved: its sweep, its index and its last step
tensorboard/, wandb/, wandb.json   if the config has `log = { to = [...] }`
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

IMPORTED = "imported.json"
MERGED = "merged.json"
START = "start.json"
THRESHOLD = "threshold.json"
TRIAL = "trial.json"
CONFIG_FILES = {"run": "config.toml", "sweep": "sweep.toml"}
"""The file that makes a folder a run or a sweep."""


def create_folder(name: str, folder: Path | None = None) -> Path:
    """Create an empty folder for a run: `folder`, or the next free one of `runs/name-1`, `runs/name-2`, ...

    name: of the config.
    folder: to create, or None.
    Raises: FileExistsError when `folder` exists and is not empty.
    """
    if folder is not None:
        if is_occupied(folder):
            hint = f"Choose another with --run, or continue it: {program_name()} resume {folder}"
            check.fail("", f"The run folder {folder} exists already.", hint=hint, exc_type=FileExistsError)
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
        except FileExistsError:  # another process has just created it
            number += 1


def is_occupied(folder: Path) -> bool:
    """Whether the path exists and is not an empty folder. folder: the path."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def remove_folder(folder: Path, *, keep: bool = False) -> None:
    """Remove the folder of a run that did not start. folder: of the run. keep: only empty the folder."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not keep:
        folder.rmdir()


def check_folder(folder: Path, what: str = "run") -> Path:
    """The folder, if it is that of a run or a sweep.

    folder: to check.
    what: "run" or "sweep".
    Raises: FileNotFoundError, with the most similar folders, when it is not; ValueError when it contains a link to
    the outside, or something that is neither a file nor a folder.
    """
    file = CONFIG_FILES[what]
    if (folder / file).is_file():
        problem = documents.find_outside_link(folder)
        if problem:
            check.fail(str(folder), f"{problem}.", hint="Replace it by a regular file or folder.")
        return folder
    if what == "run" and (folder / CONFIG_FILES["sweep"]).is_file():
        hint = f"Save one of its trials as a run: {program_name()} sweep-best {folder} --save FOLDER"
        check.fail("", f"{folder} is a sweep, not a run.", hint=hint, exc_type=FileNotFoundError)
    parents = {folder.parent, Path(), Path("runs")}
    known = {str(path.parent) for parent in parents for path in parent.glob(f"*/{file}")}
    problem = f"has no {file}, so it is not a {what}" if folder.exists() else "does not exist"
    near = check.nearest(str(folder), sorted(known))
    check.fail("", f"{folder} {problem}{near}", exc_type=FileNotFoundError)


def program_name() -> str:
    """The name by which the user started this program, for commands in hints."""
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
            "malloc": "kept" if malloc.is_keeping_memory() else "default",
            "xla_flags": xla_flags.flags_in_force(),
            "versions": {name: _version(name) for name in names},
        },
    )


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. path: of the file. value: anything that JSON can hold."""
    documents.write_file(path, f"{json.dumps(value, indent=2)}\n".encode())


def read_json(path: Path, form: Any = dict) -> Any:
    """The value in a JSON file; None if there is no file.

    path: of the file.
    form: of the value, see `documents`.
    Raises: ValueError when the value has another form.
    """
    return documents.read_json(path, form) if path.exists() else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
