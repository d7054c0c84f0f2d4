"""What the runs of a folder keep of elsewhere: what their data taught them, the run they adapt."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnfunc.config.errors import ConfigError
from nnfunc.data.preprocessing import Preprocessing

__all__ = ["DataRecords"]


@dataclass(frozen=True)
class DataRecords:
    """The records of a run folder, or of a sweep's or comparison's, which has one for each data set.

    changed_data: whether to go on where the files are no longer what they were.
    """

    folder: Path
    per_data_set: bool = False
    changed_data: bool = False

    def load(self, name: str, values: Mapping[str, Any]) -> Preprocessing | None:
        """What was learned by the data set of these arguments, or None. Raises: ValueError."""
        preprocessing = Preprocessing.load(self.folder_of(name, values))
        if preprocessing is None and not (self.per_data_set and (self.folder / "data").is_dir()):
            problem = f"{self.folder} has no record of its data, as runs of older versions"
            hint = "What it learned is read from the data files again; train anew to keep it."
            warnings.warn(f"{problem}. {hint}", stacklevel=2)
        return preprocessing

    def save(self, name: str, values: Mapping[str, Any], preprocessing: Preprocessing) -> None:
        """Keep what the data set of these arguments has learned."""
        preprocessing.save(self.folder_of(name, values))

    def check(self, where: str, then: Preprocessing, now: Preprocessing) -> None:
        """Refuse data that is not what it was, or warn of it. Raises: ConfigError."""
        changes = then.describe_changes(now)
        if not changes:
            return
        problem = f"{where}: data: it is not what the run was trained on: {'; '.join(changes)}."
        if not then.overlaps(now):
            raise ConfigError([f"{problem} Give the data that it was trained on, or train anew."])
        if not self.changed_data:
            hint = "with what the run learned and with its splits"
            raise ConfigError([f"{problem} To go on all the same, {hint}: --changed-data"])
        warnings.warn(problem, stacklevel=2)

    def folder_of(self, name: str, values: Mapping[str, Any]) -> Path:
        """Where the record of a data set is: the same whatever the size and order of its batches."""
        if not self.per_data_set:
            return self.folder
        arguments = sorted((k, v) for k, v in values.items() if k not in ("batch_size", "seed"))
        return self.folder / "data" / _digest((name, arguments))

    def base_of(self, run: str) -> str:
        """The copy of a run whose adapters are trained, or the run itself where there is none."""
        copy = self.base_folder(run)
        return str(copy) if (copy / "config.toml").is_file() else run

    def base_folder(self, run: str) -> Path:
        """Where that copy is, or is to be. run: its folder as the config has it."""
        return self.folder / "base" / _digest(run)


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
