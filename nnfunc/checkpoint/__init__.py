"""Checkpoints with checksums and atomic saves: a damaged checkpoint is never loaded.

A checkpoint is a folder with `tensors-<hash>.safetensors` and `manifest.json`. The manifest has the
name, size and SHA-256 of that file, the path, shape and dtype of each leaf, the versions of the
libraries, the caller's metadata, and the SHA-256 of itself. Loading detects any flipped bit in either file.

A save writes a hidden folder beside its target, syncs it to the disk, and then renames the folder, or, over
an older checkpoint, the manifest. If it is interrupted, the old or the new checkpoint is complete.

Arrays that are cut over several processes are in a folder `arrays-<hash>` of orbax-checkpoint instead, and the
manifest has the sizes and SHA-256 of its files. All processes save them together, and `save` returns before they are
on the disk; `wait` waits for that. They may be loaded by one process, or with another sharding.
"""

from nnfunc.calls import explain_calls
from nnfunc.checkpoint.checkpoint_leaves import leaf_entries, list_differences
from nnfunc.checkpoint.checkpoint_steps import LoadedCheckpoint, latest_good, remove, save_best, save_step, steps
from nnfunc.checkpoint.save_load import consolidate, inspect, load, save, wait
from nnfunc.errors import CheckpointError

__all__ = [
    "CheckpointError",
    "LoadedCheckpoint",
    "consolidate",
    "inspect",
    "latest_good",
    "leaf_entries",
    "list_differences",
    "load",
    "remove",
    "save",
    "save_best",
    "save_step",
    "steps",
    "wait",
]

explain_calls(__name__)
