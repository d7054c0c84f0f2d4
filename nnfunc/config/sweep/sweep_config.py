"""The config of a sweep, and the runs of its trials: each is the run of `nnfunc train` with the same values.

A thousand trials take little time. Tables are checked once for each combination of values that are not traced
numbers; traced numbers are then set in the checked tables. Each data set is loaded once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from nnfunc import check
from nnfunc.config import Config, ConfigError, resolve
from nnfunc.config.check_values import check_combinations, check_learning_rate
from nnfunc.config.config_errors import Problem, ProblemList, fail, to_one_line
from nnfunc.config.data_records import DataRecords
from nnfunc.config.key_path import hyper_name, parse_key, set_value
from nnfunc.config.load import fill_defaults
from nnfunc.config.restore import save_base
from nnfunc.sweeps.trial import SEEDS, TrialSpec
from nnfunc.sweeps.trials_mesh import TRIALS_AXIS
from nnfunc.training.intervals import Intervals

Tables = dict[str, Any]


@dataclass
class SweepConfig:
    """The checked config of a sweep, as `load_sweep` returns it.

    tables: of the config that all trials share, without [sweep], with absolute paths.
    space: path -> a distribution or a list of options; the paths are those of `Config.hypers`, where they have one.
    options: those that are set, such as trials.
    where: the file, for errors.
    folders: of the config, and the current one, which relative paths refer to; or None.
    records: what the sweep of a folder learned from its data, once there is one.
    """

    tables: Tables
    space: dict[str, Any]
    options: dict[str, Any]
    where: str
    folders: tuple[Path, Path] | None = None
    records: DataRecords | None = None
    _data_cache: dict[str, Any] = field(default_factory=dict, repr=False)
    _traced: dict[Any, frozenset[str]] = field(default_factory=dict, repr=False)
    _checked: dict[Any, Tables] = field(default_factory=dict, repr=False)
    _builds: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def seed(self) -> Any:
        """The seed of the config; trials with a setting of seed have another."""
        return self.tables.get("seed", 0)

    def trial(self, settings: Mapping[str, Any], trial: int) -> TrialSpec:
        """The run of one trial, the one of `nnfunc train` with the same values.

        settings: path -> value, in the space or not.
        trial: its index, for errors. The key of the run is that of the seed in the settings, or in the config. The
            order of the data is that of the config, unless the settings have data.seed: then that is
            `TrialSpec.order`, and data stays the same object. `build` refuses numbers that a factory refuses. There
            is a report after each tenth of the run, unless the table train sets the intervals.
        Raises: ConfigError when the config of the settings is invalid, or its data cannot be loaded.
        """
        where = f"{self.where}: trial {trial}"
        config = self._config(settings, where)
        train, steps = config.train, config.train["steps"]
        try:
            check.size("train", steps=steps)
            log, evaluate = (train.get(f"{what}_every", max(1, steps // 10)) for what in ("log", "evaluate"))
            intervals = Intervals.from_arguments(steps, log, evaluate, train.get("save_every"))
        except (ValueError, TypeError) as error:
            fail(where, "", to_one_line(error))
        build = self._builds.setdefault(config.build, config.build)
        key = jax.random.key(settings.get("seed", self.seed))
        order = settings.get("data.seed")
        return TrialSpec(dict(settings), build, config.hypers, config.data(), intervals, key, order)

    def config(self, settings: Mapping[str, Any]) -> Config:
        """The whole config of one trial, with both seeds: `nnfunc train` of its dump is that run.

        settings: as for `trial`.
        Raises: ConfigError when the config is invalid, its numbers included.
        """
        tables = self._merged(settings, self.where)
        tables = set_value(tables, ("seed",), settings.get("seed", self.seed))
        if "data.seed" in settings:
            tables = set_value(tables, ("data", "seed"), settings["data.seed"])
        mesh = {name: size for name, size in tables.get("mesh", {}).items() if name != TRIALS_AXIS}
        tables = {name: table for name, table in tables.items() if name not in ("mesh", *([] if mesh else ["shard"]))}
        tables |= {"mesh": mesh} if mesh else {}
        return resolve(tables, where=self.where, folders=self.folders, records=self.records)

    def keep_data(self, records: DataRecords) -> None:
        """Save what the data sets of all trials learn. records: of the new folder of the sweep."""
        self.records = records
        configs = {}
        for tables in self._checked.values():
            config = Config(tables, self.where, self._data_cache)
            configs[records.folder_of(*config.part("data")[1:])] = config
            save_base(config, records)
        for config in configs.values():
            _, name, values = config.part("data")
            records.save(name, values, config.data().preprocessing)

    def problems(self, settings: Mapping[str, Any], overridden: Iterable[str]) -> list[Problem]:
        """The problems of the config of `settings`, without seeds. overridden: the keys from the command line."""
        try:
            tables = self._merged(settings, self.where)
            known = {"folders": self.folders, "records": self.records, "data_cache": self._data_cache}
            resolve(tables, where=self.where, overridden=overridden, **known)
        except ConfigError as error:
            return error.problems
        return []

    def _config(self, settings: Mapping[str, Any], where: str) -> Config:
        """The config of the settings, without seeds, before the factories check the numbers."""
        unseeded = {path: v for path, v in sorted(settings.items()) if path not in SEEDS}
        plain = {path: v for path, v in unseeded.items() if check.is_plain(v)}
        shape = tuple((path, None if path in plain else repr(v)) for path, v in unseeded.items())

        def cache_key(traced: frozenset[str]) -> Any:
            return shape, tuple((path, repr(v)) for path, v in plain.items() if path not in traced)

        traced = self._traced.get(shape, frozenset())
        tables = self._checked.get(cache_key(traced))
        problems = ProblemList(where, self.folders)
        if tables is None:
            tables = fill_defaults(self._merged(settings, where), problems)
            problems.raise_all()
            hypers = Config(tables, where, self._data_cache, self.records).hypers
            traced_keys = frozenset(p for p in plain if hyper_name(tables, parse_key(p)) in hypers)
            traced = self._traced.setdefault(shape, traced_keys)
            self._checked[cache_key(traced)] = tables
        for path in traced:
            tables = set_value(tables, parse_key(path), plain[path])
        check_learning_rate(tables, tables, problems)
        check_combinations(tables, problems)
        problems.raise_all()
        return Config(tables, where, self._data_cache, self.records)

    def _merged(self, settings: Mapping[str, Any], where: str) -> Tables:
        """The tables with the settings, whole tables before their keys. The seeds stay those of the file."""
        paths = [(parse_key(path), v) for path, v in settings.items() if path not in SEEDS]
        tables = self.tables
        try:
            for path, value in sorted(paths, key=lambda item: len(item[0])):
                tables = set_value(tables, path, value)
        except ValueError as error:
            fail(where, "", to_one_line(error))
        data = tables.get("data")
        base = self.tables.get("data")
        data_seed = base.get("seed", self.seed) if isinstance(base, dict) else self.seed
        if isinstance(data, dict) and is_seed(data_seed):
            tables = {**tables, "data": {"seed": data_seed} | data}
        return dict(tables)


def is_seed(value: Any) -> bool:
    """Whether a value is a valid seed. value: of any type."""
    return type(value) is int and 0 <= value < 2**32
