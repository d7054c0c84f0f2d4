"""A sweep from a config file and the words of the command line.

    sweep = load_sweep("configs/digits_mlp.toml", ["schedule.peak=log(1e-4, 1e-1)", "seed=0:8"])
    sweep.space["schedule.peak"], sweep.options
    trial = sweep.trial({"schedule.peak": 1e-3, "seed": 7}, 0)

The file is that of a run with a table [sweep]. There the paths of settings say what they are drawn
from (`nnfunc.config.sweep.distributions`), and what is no path is an option, such as trials = 256. A
table in a table means what a dotted key in quotes means. The words of the command line go before the
file's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnfunc.config import Config, ConfigError
from nnfunc.config.data_records import DataRecords
from nnfunc.config.errors import ProblemList, describe, to_one_line
from nnfunc.config.file_paths import make_absolute
from nnfunc.config.key_path import KeyPath, find_type, get_value, hyper_name, parse_value, set_value
from nnfunc.config.schema import FIXED_FACTORIES, OPTIONAL_TABLES, TABLES, ValueType
from nnfunc.config.sweep.check_space import check_space, first_value, test_values
from nnfunc.config.sweep.distributions import SpaceValue, parse_override, parse_values
from nnfunc.config.sweep.entries import Entry, check_unique, override_entries, table_entries
from nnfunc.config.sweep.sweep_options import OPTIONS, check_options
from nnfunc.config.sweep.trials import SEEDS, TrialBuilder, is_seed
from nnfunc.config.toml import read_tables, reject_comparison
from nnfunc.sweeps.space import Distribution
from nnfunc.sweeps.trial import TrialSpec

__all__ = ["SweepConfig", "load_sweep"]

Tables = dict[str, Any]


@dataclass(frozen=True)
class SweepConfig:
    """A sweep that was checked, as `load_sweep` returns it.

    tables: of the config that every trial begins with, without [sweep], paths absolute. space: path ->
    a distribution or a list of options; what is fixed is in tables. Paths are the names of
    `Config.hypers`, where they have one. options: those that were given, such as trials. where: the
    file, as errors call it. folders: the config's and the current one, to which relative paths belong.
    records: what the sweep of a folder learned from its data.
    """

    tables: Tables
    space: dict[str, Any]
    options: dict[str, Any]
    where: str
    folders: tuple[Path, Path] | None = None
    records: DataRecords | None = None

    def trial(self, settings: Mapping[str, Any], place: int) -> TrialSpec:
        """The run of one trial: what `nnfunc train` makes of the same values.

        settings: path -> value, of the space or not. place: which trial, for errors. The run's key is
        that of the seed among the settings, or of the config. The data's order is the config's for
        all, unless data.seed is among them: then that is `TrialSpec.order`, and data stays the same object.
        Numbers that a factory refuses are refused by `build`. A report comes after each tenth of the
        run unless train says otherwise.
        Raises: ConfigError when the settings make no config, or the data cannot be had.
        """
        return self._trials.trial(settings, place)

    def config(self, settings: Mapping[str, Any]) -> Config:
        """The whole config of one trial, with both seeds: `nnfunc train` of its dump is that run.

        Raises: ConfigError when the settings make no config, their numbers included.
        """
        return self._trials.config(settings)

    def keep_data(self, records: DataRecords) -> None:
        """Keep what the data sets of all trials have learned. records: of the sweep's new folder."""
        self._trials.keep_data(records)

    @cached_property
    def _trials(self) -> TrialBuilder:
        return TrialBuilder(self.tables, self.where, self.folders, self.records)


def load_sweep(
    path: str | Path,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    folders: tuple[Path, Path] | None = None,
    records: DataRecords | None = None,
) -> SweepConfig:
    """The checked sweep of a TOML file, after words such as "schedule.peak=log(1e-4, 1e-1)".

    words: what to draw from, in the place of what the file says, or plain `key=value`, which changes
    the config as in `nnfunc train`. options: such as trials, before the file's; None is not given.
    Every option of the space is tried, and both ends of a distribution. folders, records: of a sweep
    that began before, as in `Sweep`.
    Raises: ConfigError with every mistake, each with the nearest valid key or name.
    """
    mistakes = ProblemList(str(path), folders or (Path(path).absolute().parent, Path.cwd()))
    tables = read_tables(path)
    reject_comparison(path, tables)
    table = tables.pop("sweep", {})
    if not isinstance(table, dict):
        wanted = 'a table, such as sweep = { "schedule.peak" = { log = [1e-4, 1e-1] } }'
        raise ConfigError([f"{path}: sweep: should be {wanted}, got {describe(table)}."])
    own = {name: value for name, value in table.items() if name in OPTIONS}
    entries = check_unique(table_entries(table, (), tables, mistakes), mistakes)
    entries |= check_unique(override_entries(overrides, mistakes), mistakes)
    mistakes.overridden |= {".".join(map(str, e.path)) for e in entries.values() if e.is_override}
    tables, space = _meant(entries, tables, mistakes)
    tables |= {name: make_absolute(name, tables[name], mistakes) for name in tables}
    known = check_options(own, options or {}, mistakes)
    if not space and not mistakes.lines:
        cure = 'Say what to draw: "schedule.peak=log(1e-4, 1e-1)" or seed=0:8, or a table [sweep]'
        mistakes.lines.append(f"{path}: there is nothing to sweep. {cure} in the file.")
    sweep = SweepConfig(tables, space, known, str(path), mistakes.folders, records)
    mistakes.lines += check_space(
        {p: v for p, v in space.items() if not _is_seeds(p, v, mistakes)},
        lambda settings: sweep._trials.problems(settings, mistakes.overridden),
    )
    if mistakes.lines:
        raise ConfigError(dict.fromkeys(mistakes.lines))
    return sweep


def _meant(
    entries: dict[KeyPath, Entry], tables: Tables, mistakes: ProblemList
) -> tuple[Tables, dict[str, SpaceValue]]:
    """The tables with what is fixed, and the space. Whole tables come before what is in them."""
    sample, found = tables, {}
    for place in sorted(entries, key=len):
        entry = entries[place]
        try:
            kind = find_type(sample, place)
            values = (parse_override if entry.is_override else parse_values)(entry.value, kind)
            if isinstance(values, Distribution) and values.options is None and _whole(kind):
                raise ValueError("is an integer: draw it from int(1, 4), or give a list")
            value = parse_value(entry.value) if entry.is_override else entry.value
            if values is None and any(place[: len(whole)] == whole for whole in found):
                values = [value]  # it goes over whatever the table is that is drawn
            sample = set_value(sample, place, value if values is None else first_value(values))
            if values is None:
                tables = set_value(tables, place, value)
            else:
                found[place] = values
        except ValueError as error:
            problem = to_one_line(error).removesuffix(".")
            mistakes.lines.append(entry.mistake(problem, mistakes.file))
    for place in [place for place in found if _absent(place, sample)]:
        problem = f"there is no table {place[0]}; write {TABLES[str(place[0])]}"
        mistakes.lines.append(entries[place].mistake(problem, mistakes.file))
        del found[place]
    return tables, {hyper_name(sample, place): found[place] for place in entries if place in found}


def _whole(kind: ValueType | None) -> bool:
    return kind is not None and kind.singular == "an integer"


def _absent(place: KeyPath, tables: Tables) -> bool:
    """Whether a setting is of a table that may be left out, is, and cannot be made of it alone."""
    table = place[0]
    needed = table in OPTIONAL_TABLES and table not in FIXED_FACTORIES and table != "augment"
    return needed and get_value(tables, (table, "name")) is None


def _is_seeds(path: str, values: SpaceValue, mistakes: ProblemList) -> bool:
    """Whether these are seeds, which no factory needs to look at; wrong ones are noted."""
    if path not in SEEDS:
        return False
    wrong = [value for value in test_values(values) if not is_seed(value)]
    if wrong:
        mistakes.add(path, f"should be an integer from 0 to 2**32 - 1, got {describe(wrong[0])}.")
    return True
