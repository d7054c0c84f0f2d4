"""The command `nnfunc consolidate`: the checkpoints of a run over several processes as single files."""

from pathlib import Path

from nnfunc import checkpoint
from nnfunc.commands.interrupts import explain_full_disk
from nnfunc.runs import run_folder
from nnfunc.runs.lock import FolderLock


def consolidate(folder: Path) -> int:
    """Write each checkpoint whose arrays are cut over processes as one safetensors file; return how many there were.

    One process holds all arrays of a checkpoint at a time. The run can be resumed after it as before.
    folder: of the run.
    Raises: CheckpointError when a checkpoint is damaged; BlockingIOError while the run is trained.
    """
    root = run_folder.check_folder(folder) / "checkpoints"
    names = ["best", *(f"step-{step:08d}" for step in checkpoint.steps(root))]
    with explain_full_disk(folder, "Consolidate again."), FolderLock(folder):
        count = sum(checkpoint.consolidate(root / name) for name in names if (root / name).is_dir())
    print(f"consolidated {count} of {len(names)} checkpoints of {folder}")
    return count
