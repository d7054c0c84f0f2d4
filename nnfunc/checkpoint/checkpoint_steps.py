"""The checkpoints of a run: one for each of its last steps, and the best."""

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nnfunc import check
from nnfunc.base import PyTree
from nnfunc.checkpoint.checkpoint_files import check_inside, temporary_path
from nnfunc.checkpoint.save_load import inspect, load, save, save_then
from nnfunc.errors import CheckpointError

BEST = "best"


class LoadedCheckpoint(NamedTuple):
    """The result of `latest_good`.

    step: of the checkpoint.
    tree, metadata: as they were saved.
    warnings: one for each newer checkpoint that is damaged, with the reason.
    """

    step: int
    tree: PyTree
    metadata: dict[str, Any]
    warnings: tuple[str, ...]


def save_step(
    root: str | os.PathLike,
    step: int,
    tree: PyTree,
    *,
    metadata: Mapping[str, Any] | None = None,
    keep: int = 3,
    replaced: Collection[int] = (),
) -> Path:
    """Save the checkpoint of a step as `root/step-<step>`, then remove the oldest ones.

    root: the folder of the checkpoints.
    step: at least 0.
    tree, metadata: as for `save`.
    keep: the number of checkpoints to keep, this one and those before it; at least 1.
    replaced: earlier steps to remove whatever their number. An old checkpoint is removed once the new one is on the
        disk. `best`, and checkpoints of later steps, are not removed.
    Raises: as `save`.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)}).name
    'step-00000020'
    """
    check.size("save_step", 0, step=step)
    check.size("save_step", keep=keep)

    def remove_old() -> None:
        others = [result for result in steps(root) if result <= step and result not in replaced]
        remove(root, [*others[:-keep], *replaced])

    return save_then(_folder(root, step), tree, metadata, remove_old)


def remove(root: str | os.PathLike, removed_steps: Iterable[int]) -> None:
    """Remove the checkpoints of some steps, each atomically.

    root: their folder.
    removed_steps: the steps.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)})
    >>> nf.checkpoint.remove(folder, [20])
    >>> nf.checkpoint.steps(folder)
    []
    """
    for step in removed_steps:
        with contextlib.suppress(OSError):
            temporary = temporary_path(_folder(root, step))
            _folder(root, step).rename(temporary)
            shutil.rmtree(temporary)


def save_best(root: str | os.PathLike, tree: PyTree, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Save the best checkpoint so far as `root/best`, which it replaces.

    root: the folder of the checkpoints.
    tree, metadata: as for `save`.
    Raises: as `save`.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> nf.checkpoint.save_best(folder, {"weight": jnp.ones(2)}).name
    'best'
    """
    return save(Path(root) / BEST, tree, metadata=metadata)


def steps(root: str | os.PathLike) -> list[int]:
    """The steps that have a checkpoint, which may be damaged, in order.

    root: the folder of the checkpoints.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)})
    >>> nf.checkpoint.steps(folder)
    [20]
    """
    root = Path(root)
    names = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    result = (re.fullmatch(r"step-(\d+)", name) for name in names)
    return sorted(int(match[1]) for match in result if match)


def latest_good(root: str | os.PathLike, like: PyTree, *, part: str = "") -> LoadedCheckpoint:
    """The newest undamaged checkpoint of `save_step`, with a warning for each newer one.

    root: the folder of the checkpoints.
    like, part: as for `load`.
    Raises: CheckpointError when there is none; ValueError, as `load`, when the newest undamaged checkpoint is of
    another model.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)})
    >>> nf.checkpoint.latest_good(folder, {"weight": jnp.ones(2)}).step
    20
    """
    refused = []
    for step in reversed(steps(root)):
        folder = _folder(root, step)
        try:
            check_inside(folder, root)
            tree = load(folder, like, part=part)
            return LoadedCheckpoint(step, tree, inspect(folder)["metadata"], tuple(refused))
        except CheckpointError as error:
            refused.append(f"The checkpoint of step {step} cannot be loaded. {error}")
    problem, hint = "it has no checkpoint", f"Start again, or use the weights in {Path(root) / BEST}."
    if refused:
        problem = f"it has no undamaged checkpoint among those of steps {', '.join(map(str, steps(root)))}"
        hint = f"{hint} {refused[0]}"
    check.fail(str(root), f"{problem}.", hint=hint, exc_type=CheckpointError)


def _folder(root: str | os.PathLike, step: int) -> Path:
    return Path(root) / f"step-{step:08d}"
