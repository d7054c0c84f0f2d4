"""A sweep of `nnfunc sweep`: its arguments, saved in its folder and read back, and the engine that runs it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from nnfunc import check, documents
from nnfunc.base import Key
from nnfunc.check import counted
from nnfunc.config import Config
from nnfunc.config.config_errors import error_parts, fail, to_one_line
from nnfunc.config.data_records import DataRecords
from nnfunc.config.sweep.load_sweep import load_sweep
from nnfunc.config.sweep.search_methods import check_search, parse_search
from nnfunc.config.sweep.sweep_config import SweepConfig
from nnfunc.data.dataset import Data
from nnfunc.runs import run_folder
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.checkpoints import Store
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.result import Result
from nnfunc.sweeps.sampling import Draws
from nnfunc.sweeps.space import Distribution
from nnfunc.sweeps.sweep import build_draws, conduct
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.sweeps.trials_mesh import trials_mesh

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
"""The form of a sweep's result.json; see `documents`."""


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep. folder: any."""
    return (folder / CONFIG_FILE).is_file()


def save_study(
    folder: Path, text: bytes, study: "Study", overrides: Sequence[str], options: Mapping[str, Any] | None
) -> None:
    """Write what `read_study` needs; sweep.toml is written last, so the folder has all or nothing.

    folder: of the sweep, new.
    text: of the config file.
    study: the sweep.
    overrides, options: of `load_sweep`.
    """
    known = {name: value for name, value in (options or {}).items() if value is not None}
    table = {"overrides": list(overrides), "options": known, "name": study.name}
    folders = [str(path) for path in study.sweep.folders or ()]
    run_folder.write_json(folder / ARGUMENTS_FILE, table | {"folders": folders})
    run_folder.write_environment(folder)
    study.sweep.keep_data(DataRecords(folder.absolute(), per_data_set=True))
    documents.write_file(folder / CONFIG_FILE, text)


def read_study(folder: Path, *, changed_data: bool = False) -> "Study":
    """The sweep of a folder. Raises: FileNotFoundError with the nearest names when there is none.

    folder: of the sweep.
    changed_data: whether to accept data files that changed since the sweep began.
    """
    form = {"overrides": [str], "options": dict, "name": str, "folders?": [str]}
    values = documents.read_json(run_folder.check_folder(folder, "sweep") / ARGUMENTS_FILE, form)
    records = DataRecords(folder.absolute(), per_data_set=True, changed_data=changed_data)
    paths = [Path(path) for path in values.get("folders", ())]
    known = {"folders": (paths[0], paths[1])} if len(paths) == 2 else {}
    sweep = load_sweep(folder / CONFIG_FILE, values["overrides"], values["options"], records=records, **known)
    return Study(sweep, values["name"])


class Study:
    """A sweep of a config, with its options applied.

    sweep: the config and the options.
    name: of the config file. Attributes: search and search_name; seeds, of the runs of each setting; metric, which
        ranks; draws and key, of the settings; signals, which stop the sweep.
    """

    def __init__(self, sweep: SweepConfig, name: str):
        self.sweep, self.name = sweep, name
        options = dict(sweep.options)
        patience = sweep.tables["train"].get("patience")
        default = None if patience is None else {"name": "patience", "evaluations": patience}
        self.search_name, self.search = parse_search(options.pop("search", default))
        space, self.seeds = dict(sweep.space), [sweep.seed]
        if "seeds" in options:
            if "seed" in space:
                fail(sweep.where, "", "seeds and a space for seed exclude each other", hint="Leave one of them out.")
            self.seeds = [self.seeds[0] + run for run in range(options.pop("seeds"))]
        elif "seed" in space:
            seeds = space.pop("seed")
            listed = getattr(seeds, "options", seeds)
            if listed is None:
                expected = "should be a list of seeds, such as seed=0:8"
                fail(sweep.where, "seed", expected=expected, actual=seeds.name)
            self.seeds = [int(seed) for seed in listed]
        self.metric = BestMetric.parse(options.pop("best", sweep.tables["train"].get("best", "min loss")))
        self._engine_options = {"execution": options.pop("execution", "auto"), "chunk": options.pop("chunk", None)}
        trials, method = options.pop("trials", None), options.pop("method", None)
        are_listed = all(isinstance(values, list | range) for values in space.values())
        if method is None:
            method = "grid" if are_listed and trials is None else "random"
        self.key: Key = jax.random.key(sweep.seed)
        self.signals: list[int] = []
        try:
            self._engine_options["on"] = trials_mesh(sweep.tables.get("mesh"), sweep.tables.get("shard"))
            check_search(self.search_name, len(space), trials, len(self.seeds))
            if not space:
                if trials not in (None, len(self.seeds)):
                    expected = f"trials should be the number of seeds, {len(self.seeds)}, which alone differ"
                    check.fail("sweep", expected=expected, actual=trials, hint="Leave trials out.")
                space, method, trials = [{}], "list", None
            elif trials is None and method != "grid":
                sources = [f"{path} is" for path, values in space.items() if isinstance(values, Distribution)]
                source = [*sources, "settings are"][0]
                expected = f"trials should be the number of runs, because {source} drawn at random"
                hint = "Give --trials 16, or trials = 16 in the table [sweep]."
                check.fail("sweep", expected=expected, actual=None, hint=hint)
            draws = build_draws(space, method, trials, self.key, None, len(self.seeds))
        except ValueError as error:
            expected, actual, _ = error_parts(error)
            fail(sweep.where, "", to_one_line(error), expected=expected, actual=actual)
        self.draws = replace(draws, distinct=method in ("random", "sobol", "latin"))

    def trial(self, settings: dict[str, Any], trial: int, run: int) -> TrialSpec:
        """The run of a trial. settings: without seeds. trial: its index. run: its number in its setting."""
        seed = self.seeds[run]
        spec = self.sweep.trial(settings | {"seed": seed}, trial)
        if not isinstance(spec.data, Data):
            problem = "is read from a file batch by batch, but a sweep needs a data set in memory"
            fail(self.sweep.where, "data", problem)
        return spec._replace(settings=settings, seed=seed)

    def config(self, settings: dict[str, Any], seed: int) -> Config:
        """The config of a trial. settings: without seeds. seed: of the run."""
        return self.sweep.config(settings | {"seed": seed})

    def engine(self, store: Store | None = None, draws: Draws | None = None) -> Engine:
        """A new engine. store: the folder to save in. draws: other settings than those of the sweep."""
        stops = {"should_stop": lambda: bool(self.signals)}
        return Engine(self.trial, draws or self.draws, self.metric, store=store, **stops, **self._engine_options)

    def start(self, engine: Engine) -> Engine:
        """Add the trials to an engine, and return the engine for `plan`.

        If a search proposes the trials later, that is another engine, with a few settings drawn from the space.
        engine: new.
        """
        if self.search_name == "optuna":
            few = min(16, self.draws.trials or 16)
            draws = replace(self.draws, method="random", trials=few, distinct=False)
            engine = self.engine(engine.store, draws)
        engine.begin()
        return engine

    def plan(self, engine: Engine) -> str:
        """The plan as text. engine: of `start`."""
        plan, text = engine.plan(probe=True), ""
        if self.search_name == "optuna":
            text = f"optuna proposes {counted(self.draws.trials or 0, 'setting')}; this is the plan "
            text += f"for {plan.settings} random ones:\n"
        lines = [f"{text}{plan}"]
        if self.search_name not in ("everything", "optuna"):
            lines.append(f"search: {self.search_name}")
        return "\n".join([*lines, *filter(None, [self.ignored_settings()])])

    def ignored_settings(self) -> str:
        """A line about the settings of single runs that a sweep does not follow, "" without any."""
        tables, notes = self.sweep.tables, []
        if tables["train"].get("patience") is not None and self.search_name != "patience":
            notes.append(f"train.patience is for single runs; a sweep with search {self.search_name} ignores it")
        if tables.get("task", {}).get("threshold") is not None:
            notes.append("trials are compared at a threshold of 0.5; the winner's test metrics use task.threshold")
        return "\n".join(f"note: {note}" for note in notes)

    def trials(self, engine: Engine) -> int:
        """The number of runs in all, with those that are proposed later. engine: of the sweep."""
        proposed = self.draws.trials if self.search_name == "optuna" else None
        return len(engine.specs) if proposed is None else proposed * self.draws.runs

    def store(self, folder: Path) -> Store:
        """The saved trials. folder: of the sweep."""
        return Store(folder, resume=True, of={"name": self.name})

    def result(self, folder: Path) -> Result:
        """The result of a complete sweep, read from its folder."""
        store = self.store(folder)
        try:
            return conduct(self.engine(store), self.search, self.key, time.perf_counter())
        finally:
            store.close()
