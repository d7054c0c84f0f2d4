"""Records in a run's folder: the preprocessing of its data, such as means, and the run that it begins with."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnfunc.config.config_errors import fail
from nnfunc.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class DataRecords:
    """The data records of a run, a sweep or a comparison.

    folder: of the run.
    per_data_set: whether the folder has a record for each of several data sets, as for sweeps and comparisons.
    changed_data: whether to accept data files that have changed.
    needs_start: whether the parameters of step 0 may be needed; if not, the table start has no effect, as
        checkpoints have its result.
    """

    folder: Path
    per_data_set: bool = False
    changed_data: bool = False
    needs_start: bool = True

    def load(self, name: str, values: Mapping[str, Any]) -> Preprocessing | None:
        """The record of a data set, or None.

        name: of the data set's factory.
        values: the arguments of the factory.
        Raises: ValueError for a damaged record.
        """
        preprocessing = Preprocessing.load(self.folder_of(name, values))
        if preprocessing is None and not (self.per_data_set and (self.folder / "data").is_dir()):
            problem = f"{self.folder} has no record of its data: an older version wrote it"
            hint = "The data files are read instead; train again to save a record."
            warnings.warn(f"{problem}. {hint}", stacklevel=2)
        return preprocessing

    def save(self, name: str, values: Mapping[str, Any], preprocessing: Preprocessing) -> None:
        """Save the record `preprocessing` of a data set; name, values: as for `load`."""
        preprocessing.save(self.folder_of(name, values))

    def check(self, where: str, recorded: Preprocessing, current: Preprocessing) -> None:
        """Refuse or warn about data that has changed since it was recorded.

        where: the name of the config in errors.
        recorded, current: the record and the data as it is now.
        Raises: ConfigError.
        """
        changes = recorded.describe_changes(current)
        if not changes:
            return
        problem = f"differs from the data that the run was trained on: {'; '.join(changes)}"
        if not recorded.overlaps(current):
            fail(where, "data", problem, hint="Use the data that it was trained on, or train again.")
        if not self.changed_data:
            hint = "To continue anyway, with the run's statistics and splits: --changed-data"
            fail(where, "data", problem, hint=hint)
        warnings.warn(f"{where}: data: {problem}.", stacklevel=2)

    def folder_of(self, name: str, values: Mapping[str, Any]) -> Path:
        """The folder of the record of a data set, whatever its batch size and order. name, values: as for `load`."""
        if not self.per_data_set:
            return self.folder
        arguments = sorted((k, v) for k, v in values.items() if k not in ("batch_size", "seed"))
        return self.folder / "data" / _digest((name, arguments))

    def base_of(self, run: str, checkpoint: str = "best") -> str:
        """The folder of the saved copy of `run`, or `run` itself without one. checkpoint: the one that is used."""
        copy = self.base_folder(run, checkpoint)
        return str(copy) if (copy / "config.toml").is_file() else run

    def base_folder(self, run: str, checkpoint: str = "best") -> Path:
        """The folder for the copy of a run. run: its folder as written in the config. checkpoint: the one to copy."""
        return self.folder / "base" / _digest(run if checkpoint == "best" else (run, checkpoint))


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
