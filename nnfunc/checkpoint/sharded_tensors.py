"""The arrays of a checkpoint that are cut over several processes: orbax-checkpoint writes and reads their parts.

It needs the extra distributed. A save copies the arrays to the host and returns; a thread writes them.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.checkpoint.checkpoint_files import refuse


class _Save(threading.Thread):
    """A save that goes on. finish: writes the arrays, and ends the checkpoint in process 0."""

    def __init__(self, finish: Callable[[], None]):
        super().__init__(name="nnfunc checkpoint")
        self.finish, self.error = finish, None

    def run(self) -> None:
        try:
            self.finish()
        except Exception as error:
            self.error = error


_saves: list[_Save] = []


def is_installed() -> bool:
    """Whether orbax-checkpoint is there."""
    try:
        check.package("checkpoint", "orbax.checkpoint", "nnfunc[distributed]")
    except ImportError:
        return False
    return True


def is_cut(leaf: Any) -> bool:
    """Whether an array lies in parts on the devices of several processes."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated


def write(folder: Path, arrays: Mapping[str, Any], then: Callable[[], None]) -> None:
    """Begin to write arrays to a new folder; all processes call it with the same ones, and it returns early.

    folder: absolute, the same in all processes.
    arrays: by path, on the devices, or on the host where all have them.
    then: called in process 0 when all arrays are on the disk. `wait` raises its errors.
    """
    orbax = check.package("save", "orbax.checkpoint", "nnfunc[distributed]")
    saver = orbax.AsyncCheckpointer(orbax.PyTreeCheckpointHandler())
    saver.save(folder, args=orbax.args.PyTreeSave(dict(arrays)))

    def finish() -> None:
        saver.wait_until_finished()
        saver.close()
        if jax.process_index() == 0:
            then()

    _saves.append(_Save(finish))
    _saves[-1].start()


def wait() -> None:
    """Wait for the save that goes on, if one does. Raises: its error."""
    while _saves:
        save = _saves.pop()
        save.join()
        if save.error is not None:
            raise save.error


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """{path in the folder: {"bytes": ..., "sha256": ...}} of all files in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _checksum(path) for path in files}


def read(folder: Path, files: Mapping[str, Mapping[str, Any]], likes: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of the paths of `likes`, after the files are checked.

    folder: that `write` wrote.
    files: its `checksums`.
    likes: an array on a mesh gives the shardings of the result, whatever those of the run that saved it; another
        leaf becomes a NumPy array.
    Raises: CheckpointError when a file is damaged or missing, in every process.
    """
    orbax = check.package("load", "orbax.checkpoint", "nnfunc[distributed]")
    shardings = {path: _mesh_sharding(leaf) for path, leaf in likes.items()}
    together = any(sharding is not None and not sharding.is_fully_addressable for sharding in shardings.values())
    _check_files(folder, files, together)
    arguments = {
        path: orbax.RestoreArgs(restore_type=np.ndarray)
        if sharding is None
        else orbax.ArrayRestoreArgs(sharding=sharding)
        for path, sharding in shardings.items()
    }
    index = jax.process_index()
    alone = {} if together else {"primary_host": index, "active_processes": {index}}
    options = orbax.options.MultiprocessingOptions(**alone)
    handler = orbax.PyTreeCheckpointHandler(multiprocessing_options=options)
    with orbax.Checkpointer(handler, multiprocessing_options=options) as loader:
        item = {path: 0 for path in likes}
        args = orbax.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True)
        return loader.restore(folder.absolute(), args=args)


def _mesh_sharding(leaf: Any) -> Any:
    sharding = getattr(leaf, "sharding", None)
    is_key = jax.numpy.issubdtype(getattr(leaf, "dtype", np.uint8), jax.dtypes.prng_key)
    return sharding if isinstance(sharding, jax.sharding.NamedSharding) and not is_key else None


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], together: bool) -> None:
    """Refuse a damaged file. together: whether all processes load; each then checks its part of the files."""
    from jax.experimental import multihost_utils

    names = sorted(files)
    processes, index = (jax.process_count(), jax.process_index()) if together else (1, 0)
    bad = next(
        (i for i in range(index, len(names), processes) if not _is_sound(folder / names[i], files[names[i]])), -1
    )
    if together:
        bad = int(np.max(multihost_utils.process_allgather(np.int32(bad))))
    if bad >= 0:
        refuse(folder / names[bad], "its content does not match its checksum, or it is missing")


def _is_sound(file: Path, expected: Mapping[str, Any]) -> bool:
    try:
        return file.stat().st_size == expected["bytes"] and _checksum(file) == expected
    except OSError:
        return False


def _checksum(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}
