"""From the settings of trials to runs: each is what `nnfunc train` makes of the same values.

A thousand trials are quick. Tables are checked once for each combination of values that are no
traced numbers; the numbers of the others are put into tables that are checked already. Data is loaded
once for each table of it.
"""

from collections.abc import Iterable, Mapping
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
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.training.intervals import Intervals

__all__ = ["SEEDS", "TrialBuilder", "is_seed"]

Tables = dict[str, Any]
SEEDS = ("seed", "data.seed")


class TrialBuilder:
    """Settings -> TrialSpec, for the trials of one sweep over these tables.

    folders: the config's and the current one, to which relative paths belong, or None. records: of the
    sweep's folder, once there is one.
    """

    def __init__(
        self, tables: Tables, where: str, folders: tuple[Path, Path] | None = None, records: DataRecords | None = None
    ):
        self.tables, self.where, self.folders = tables, where, folders
        self.records = records
        self.seed = tables.get("seed", 0)
        data = tables.get("data")
        self.data_seed = data.get("seed", self.seed) if isinstance(data, dict) else self.seed
        self._data_cache: dict[str, Any] = {}
        self._traced: dict[Any, frozenset[str]] = {}
        self._checked: dict[Any, Tables] = {}
        self._builds: dict[Any, Any] = {}

    def trial(self, settings: Mapping[str, Any], place: int) -> TrialSpec:
        """See `Sweep.trial`."""
        where = f"{self.where}: trial {place}"
        config = self._config(settings, where)
        train = config.train
        steps = train["steps"]
        try:
            check.size("train", steps=steps)
            tenth = max(1, steps // 10)
            log, evaluate = (train.get(f"{what}_every", tenth) for what in ("log", "evaluate"))
            intervals = Intervals.from_arguments(steps, log, evaluate, train.get("save_every"))
        except (ValueError, TypeError) as error:
            fail(where, "", to_one_line(error))
        build = self._builds.setdefault(config.build, config.build)
        key = jax.random.key(settings.get("seed", self.seed))
        order = settings.get("data.seed")
        return TrialSpec(dict(settings), build, config.hypers, config.data(), intervals, key, order)

    def config(self, settings: Mapping[str, Any]) -> Config:
        """See `Sweep.config`."""
        tables = self._merged(settings, self.where)
        tables = set_value(tables, ("seed",), settings.get("seed", self.seed))
        if "data.seed" in settings:
            tables = set_value(tables, ("data", "seed"), settings["data.seed"])
        return resolve(tables, where=self.where, folders=self.folders, records=self.records)

    def keep_data(self, records: DataRecords) -> None:
        """Keep what the data sets that are loaded, and those to come, have learned."""
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
        """The problems of the config of `settings`, seeds aside. overridden: the keys from the command line."""
        try:
            tables = self._merged(settings, self.where)
            known = {"folders": self.folders, "records": self.records, "data_cache": self._data_cache}
            resolve(tables, where=self.where, overridden=overridden, **known)
        except ConfigError as error:
            return error.problems
        return []

    def _config(self, settings: Mapping[str, Any], where: str) -> Config:
        """The config of the settings, seeds aside, before the factories check the numbers."""
        unseeded = {path: v for path, v in sorted(settings.items()) if path not in SEEDS}
        plain = {path: v for path, v in unseeded.items() if check.is_plain(v)}
        shape = tuple((path, None if path in plain else repr(v)) for path, v in unseeded.items())

        def mark(traced: frozenset[str]) -> Any:
            return shape, tuple((path, repr(v)) for path, v in plain.items() if path not in traced)

        traced = self._traced.get(shape, frozenset())
        tables = self._checked.get(mark(traced))
        problems = ProblemList(where, self.folders)
        if tables is None:
            tables = fill_defaults(self._merged(settings, where), problems)
            problems.raise_all()
            hypers = Config(tables, where, self._data_cache, self.records).hypers
            traced_keys = frozenset(p for p in plain if hyper_name(tables, parse_key(p)) in hypers)
            traced = self._traced.setdefault(shape, traced_keys)
            self._checked[mark(traced)] = tables
        for path in traced:
            tables = set_value(tables, parse_key(path), plain[path])
        check_learning_rate(tables, tables, problems)
        check_combinations(tables, problems)
        problems.raise_all()
        return Config(tables, where, self._data_cache, self.records)

    def _merged(self, settings: Mapping[str, Any], where: str) -> Tables:
        """The tables with the settings, whole tables first; the seeds stay those of the file."""
        paths = [(parse_key(path), v) for path, v in settings.items() if path not in SEEDS]
        tables = self.tables
        try:
            for path, value in sorted(paths, key=lambda item: len(item[0])):
                tables = set_value(tables, path, value)
        except ValueError as error:
            fail(where, "", to_one_line(error))
        data = tables.get("data")
        if isinstance(data, dict) and is_seed(self.data_seed):
            tables = {**tables, "data": {"seed": self.data_seed} | data}
        return dict(tables)


def is_seed(value: Any) -> bool:
    """Whether a value may be a seed."""
    return type(value) is int and 0 <= value < 2**32
