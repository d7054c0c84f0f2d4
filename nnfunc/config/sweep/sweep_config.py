"""What a sweep was begun with, read, and what it takes to run it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jax

from nnfunc import check, documents
from nnfunc.base import Key
from nnfunc.check import counted
from nnfunc.config import Config, ConfigError
from nnfunc.config.data_records import DataRecords
from nnfunc.config.sweep.load_sweep import SweepConfig, load_sweep
from nnfunc.config.sweep.search_methods import check_search, parse_search
from nnfunc.data.dataset import Data
from nnfunc.runs import run_folder
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.checkpoints import Store
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.result import Result
from nnfunc.sweeps.space import Distribution
from nnfunc.sweeps.sweep import build_draws, conduct
from nnfunc.sweeps.trial import TrialSpec

__all__ = ["Study", "is_sweep", "read_study", "save_study"]

CONFIG_FILE, ARGUMENTS_FILE = run_folder.CONFIG_FILES["sweep"], "sweep.json"


RESULT = {
    "complete": bool,
    "runs": range(1, 2**31),
    "seeds": range(1, 2**31),
    "search": str,
    "best": (range(2**31), None),
    "settings": dict,
    "seed": (int, None),
    "metric": str,
    "score": (float, None),
    "mean": (float, None),
    "seconds": float,
}
"""What the result.json of a sweep holds; see `documents`."""


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / CONFIG_FILE).is_file()


def save_study(
    folder: Path, text: bytes, study: "Study", message: Sequence[str], options: Mapping[str, Any] | None
) -> None:
    """Write into a new folder what `read` needs; sweep.toml comes last, so all is there or nothing."""
    known = {name: value for name, value in (options or {}).items() if value is not None}
    table = {"words": list(message), "options": known, "name": study.name}
    folders = [str(path) for path in study.sweep.folders or ()]
    run_folder.write_json(folder / ARGUMENTS_FILE, table | {"folders": folders})
    run_folder.write_environment(folder)
    study.sweep.keep_data(DataRecords(folder.absolute(), per_data_set=True))
    (folder / f"{CONFIG_FILE}.tmp").write_bytes(text)
    (folder / f"{CONFIG_FILE}.tmp").replace(folder / CONFIG_FILE)


def read_study(folder: Path, *, changed_data: bool = False) -> "Study":
    """The sweep of a folder. Raises: FileNotFoundError naming the nearest ones where it is none.

    changed_data: whether its data files may hold something else than then.
    """
    form = {"words": [str], "options": dict, "name": str, "folders?": [str]}
    values = documents.read_json(run_folder.check_folder(folder, "sweep") / ARGUMENTS_FILE, form)
    records = DataRecords(folder.absolute(), per_data_set=True, changed_data=changed_data)
    paths = [Path(path) for path in values.get("folders", ())]
    known = {"folders": (paths[0], paths[1])} if len(paths) == 2 else {}
    sweep = load_sweep(folder / CONFIG_FILE, values["words"], values["options"], records=records, **known)
    return Study(sweep, values["name"])


class Study:
    """A sweep that was read, and what it takes to run it."""

    def __init__(self, own: SweepConfig, name: str):
        self.sweep, self.name = own, name
        options = dict(own.options)
        self.search_name, self.search = parse_search(options.pop("search", None))
        space, self.seeds = dict(own.space), [own.tables.get("seed", 0)]
        if "seeds" in options:
            if "seed" in space:
                expected = "a sweep should have either seeds or settings of seed"
                raise ConfigError([f"{own.where}: {expected}, got both. Leave one of them out."])
            self.seeds = [self.seeds[0] + run for run in range(options.pop("seeds"))]
        elif "seed" in space:
            self.seeds = _options(space.pop("seed"), own.where)
        self.metric = BestMetric.parse(options.pop("best", own.tables["train"].get("best", "min loss")))
        self.execution, self.chunk = options.pop("execution", "auto"), options.pop("chunk", None)
        trials, method = options.pop("trials", None), options.pop("method", None)
        listed = all(isinstance(values, list | range) for values in space.values())
        if method is None:
            method = "grid" if listed and trials is None else "random"
        self.key: Key = jax.random.key(own.tables.get("seed", 0))
        self.signals: list[int] = []  # signals
        try:
            check_search(self.search_name, len(space), trials, len(self.seeds))
            if not space:
                space, method, trials = _seeds_alone(trials, len(self.seeds)), "list", None
            elif trials is None and method != "grid":
                _trials_missing(space)
            draws = build_draws(space, method, trials, self.key, None, len(self.seeds))
            self.draws = replace(draws, distinct=method in ("random", "sobol", "latin"))
        except ValueError as error:
            raise ConfigError([f"{own.where}: {error}"]) from error

    def trial(self, settings: dict[str, Any], place: int, run: int) -> TrialSpec:
        seed = self.seeds[run]
        made = self.sweep.trial(settings | {"seed": seed}, place)
        if not isinstance(made.data, Data):
            problem = "a sweep needs data in memory, and this set is read from its file"
            raise ConfigError([f"{self.sweep.where}: data: {problem}."])
        return made._replace(settings=settings, seed=seed)

    def config(self, settings: dict[str, Any], seed: int) -> Config:
        return self.sweep.config(settings | {"seed": seed})

    def engine(self, store: Store | None = None) -> Engine:
        should_stop = lambda: bool(self.signals)
        own = {"execution": self.execution, "chunk": self.chunk, "store": store, "should_stop": should_stop}
        return Engine(self.trial, self.draws, self.metric, **own)

    def start(self, engine: Engine) -> Engine:
        """Take up the trials, and return the engine whose plan tells of them.

        Where they are proposed later, it is another one, of a few draws of the space.
        """
        if self.search_name == "optuna":
            few = min(16, self.draws.trials or 16)
            some = replace(self.draws, method="random", trials=few, distinct=False)
            own = {"execution": self.execution, "chunk": self.chunk, "store": engine.store}  # its executions
            engine = Engine(self.trial, some, self.metric, **own)
        engine.begin()
        return engine

    def plan(self, engine: Engine) -> str:
        """What is going to happen, in words. engine: of `begin`."""
        plan = engine.plan(probe=True)
        if self.search_name == "everything":
            return str(plan)
        if self.search_name != "optuna":
            return f"{plan}\nsearch: {self.search_name}"
        text = f"optuna proposes {counted(self.draws.trials or 0, 'setting')}"
        return f"{text}; of {plan.settings} at random the plan is\n{plan}"

    def trials(self, engine: Engine) -> int:
        """How many runs there are going to be in all."""
        proposed = self.draws.trials if self.search_name == "optuna" else None
        return len(engine.specs) if proposed is None else proposed * self.draws.runs

    def store(self, folder: Path) -> Store:
        return Store(folder, resume=True, of={"name": self.name})

    def result(self, folder: Path) -> Result:
        """The result of a sweep that has ended, read back."""
        store = self.store(folder)
        try:
            return conduct(self.engine(store), self.search, self.key, time.perf_counter())
        finally:
            store.close()


def _options(values: Any, where: str) -> list[int]:
    """The seeds that are listed."""
    options = getattr(values, "options", values)
    if options is None:
        raise ConfigError([f"{where}: seed: seeds should be listed, such as seed=0:8."])
    return [int(seed) for seed in options]


def _seeds_alone(trials: int | None, seeds: int) -> list[dict[str, Any]]:
    """The space of a sweep in which only seeds differ."""
    if trials not in (None, seeds):
        hint = "Leave trials out, or say what else to draw."
        check.fail(
            "sweep",
            f"trials should be the number of the seeds, {seeds}, for nothing else is drawn, got {trials}. {hint}",
        )
    return [{}]


def _trials_missing(space: Mapping[str, Any]) -> NoReturn:
    drawn = [f"{path} is" for path, values in space.items() if isinstance(values, Distribution)]
    why = f"{drawn[0] if drawn else 'settings are'} drawn at random"
    hint = "Give --trials 16, or trials = 16 in the table [sweep]."
    check.fail("sweep", f"trials should say how many runs there are, for {why}, got none. {hint}")
