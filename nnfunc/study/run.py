"""The command `nnfunc sweep`: from a config to a folder with a table, curves, a report, all members.

A sweep's folder holds
sweep.toml, sweep.json      the file and the words that it was begun with
environment.json            versions, device and command
segments/, plan.json        what its members have come to; see `nnfunc.sweeps.store`
table.csv, curves.csv       and members.csv, lineage.csv where there is more to tell; as .parquet too
result.json                 the best member and what it reached
report.html
"""

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, loading, programs, runlog, stopping
from nnfunc.base import Key
from nnfunc.config import Config, ConfigError
from nnfunc.data.arrays import Data
from nnfunc.progress import figure, in_order, shown
from nnfunc.study.live import live, settings_line
from nnfunc.study.page import write_page
from nnfunc.study.reading import Sweep, load_sweep
from nnfunc.study.searching import search_of
from nnfunc.sweeps import jobs as executors
from nnfunc.sweeps.draw import Draws
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.progress import Watch
from nnfunc.sweeps.result import Result
from nnfunc.sweeps.run import conduct, draws_of
from nnfunc.sweeps.store import Store
from nnfunc.sweeps.trial import Trial
from nnfunc.training.evaluate import evaluate
from nnfunc.training.saving import Best
from nnfunc.training.task import built

__all__ = ["best", "is_sweep", "resume", "sweep"]

GIVEN, WORDS = "sweep.toml", "sweep.json"


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / GIVEN).is_file()


def sweep(
    file: Path, words: Sequence[str] = (), options: Mapping[str, Any] | None = None,
    folder: Path | None = None, *, jobs: str | None = None, dry_run: bool = False,
) -> Path | None:  # fmt: skip
    """Run a sweep in a new folder, and return the folder; dry_run: only print its plan.

    options: members, method, seeds, best, search, way and chunk, those that are not None. jobs: a
    number of processes, "submitit" or "ray". Raises: ConfigError; `Stopped` by a signal.
    """
    programs.use_compilation_cache()
    with stopping.told("stopped before the sweep began; nothing was written"):
        own = _Study(load_sweep(file, words, options), file.stem)
        if dry_run:
            print(own.plan())
            return None
        text = file.read_bytes()
        folder = runlog.create(f"{file.stem}-sweep", folder)
        (folder / GIVEN).write_bytes(text)
        known = {name: value for name, value in (options or {}).items() if value is not None}
        runlog.write_json(
            folder / WORDS, {"words": list(words), "options": known, "name": file.stem}
        )
        runlog.write_environment(folder)
    _run(own, folder, jobs)
    return folder


def resume(folder: Path, *, jobs: str | None = None) -> None:
    """Go on with a sweep that was stopped or killed; it ends with the same table."""
    programs.use_compilation_cache()
    _run(_read(folder), folder, jobs)


def best(folder: Path, member: int | None = None, save: Path | None = None) -> Config:
    """Print the config of the best member of a sweep, or of another one, and return it.

    save: a new folder, in which the member becomes a run like any other.
    Raises: FileNotFoundError for a folder without a sweep, ValueError for one that has not ended.
    """
    programs.use_compilation_cache()
    own = _read(folder)
    found = runlog.read_json(folder / "result.json")
    if found is None or not found["complete"]:
        cure = f"Go on with it: {runlog.command()} resume {folder}"
        check.fail("sweep-best", f"the sweep of {folder} has not come to its end. {cure}")
    which = found["best"] if member is None else member
    if which is None:
        check.fail("sweep-best", "no member ended with a finite figure. Ask for one with --member.")
    if save is None and member is None:
        settings, run = found["settings"], found["seed"]
        text = (
            f"best of {found['runs']} runs, member {which}: {found['figure']} {found['score']:.6g}"
        )
    else:
        result = own.result(folder)
        _in_range(which, len(result.hypers))
        settings, run = result.hypers[which], result.seed[which]
        text = (
            f"member {which} of {len(result.hypers)}: {found['figure']} {result.scores[which]:.6g}"
        )
        if save is not None:
            _save(own, result, which, save, own.config(settings, run))
    config = own.config(settings, run)
    if found.get("search") == "population":
        text += "\n# Its numbers changed on the way, see lineage.csv; these are the last ones."
    print(f"# {text}\n{config.text}", end="")
    return config


class _Study:
    """A sweep that was read, and what it takes to run it."""

    def __init__(self, own: Sweep, name: str):
        self.sweep, self.name = own, name
        options = dict(own.options)
        self.search_name, self.search = search_of(options.pop("search", None))
        space, self.seeds = dict(own.space), [own.tables.get("seed", 0)]
        if "seeds" in options:
            if "seed" in space:
                wanted = "a sweep should have either seeds or settings of seed"
                raise ConfigError([f"{own.where}: {wanted}, got both. Leave one of them out."])
            self.seeds = [self.seeds[0] + run for run in range(options.pop("seeds"))]
        elif "seed" in space:
            self.seeds = _options(space.pop("seed"), own.where)
        self.figure = Best.of(options.pop("best", own.tables["train"].get("best", "min loss")))
        self.way, self.chunk = options.pop("way", "auto"), options.pop("chunk", None)
        members, method = options.pop("members", None), options.pop("method", None)
        listed = all(isinstance(values, list | range) for values in space.values())
        if method is None:
            method = "grid" if listed and members is None else "random"
        if not space:
            space, method, members = [{}], "list", None
        self.key: Key = jax.random.key(own.tables.get("seed", 0))
        try:
            self.draws = draws_of(space, method, members, self.key, None, len(self.seeds))
        except ValueError as error:
            raise ConfigError([f"{own.where}: {error}"]) from error

    def trial(self, settings: dict[str, Any], place: int, run: int) -> Trial:
        seed = self.seeds[run]
        made = self.sweep.trial(settings | {"seed": seed}, place)
        if not isinstance(made.data, Data):
            problem = "a sweep needs data in memory, and this set is read from its file"
            raise ConfigError([f"{self.sweep.where}: data: {problem}."])
        return made._replace(settings=settings, seed=seed)

    def config(self, settings: dict[str, Any], seed: int) -> Config:
        return self.sweep.config(settings | {"seed": seed})

    def engine(self, store: Store | None = None, **more: Any) -> Engine:
        more = {"way": self.way, "chunk": self.chunk, **more}
        return Engine(self.trial, self.draws, self.figure, store=store, **more)

    def plan(self, engine: Engine | None = None) -> Plan | str:
        """What is going to happen; of what a search proposes later, by a few draws of its space."""
        if self.search_name != "optuna":
            engine = self.engine() if engine is None else engine
            engine.begin()
            text = "" if self.search_name == "everything" else f"\nsearch: {self.search_name}"
            return f"{engine.plan(probe=True)}{text}"
        count = min(16, self.draws.members or 16)
        some = Draws(self.draws.space, "random", count, self.key, None, self.draws.runs)
        trying = Engine(self.trial, some, self.figure, way=self.way, chunk=self.chunk)
        trying.begin()
        words = f"optuna proposes {self.draws.members} settings; of {count} at random the plan is"
        return f"{words}\n{trying.plan(probe=True)}"

    def store(self, folder: Path) -> Store:
        return Store(folder, resume=True, of={"name": self.name})

    def result(self, folder: Path) -> Result:
        """The result of a sweep that has ended, read back."""
        store = self.store(folder)
        try:
            return conduct(self.engine(store), self.search, self.key, time.perf_counter())
        finally:
            store.close()


def _run(own: _Study, folder: Path, jobs: str | None) -> None:
    go_on = f"Go on with: {runlog.command()} resume {folder}"
    start, store = time.perf_counter(), own.store(folder)
    handed = _jobs(jobs, folder)
    try:
        with (
            stopping.full_disk(folder, go_on), stopping.signals() as caught,
            live(own.figure.metric) as panel,
        ):  # fmt: skip
            watch = Watch(panel, start)
            engine = own.engine(store, told=watch, stops=lambda: bool(caught), jobs=handed)
            try:
                print(own.plan(engine), flush=True)
                result = conduct(engine, own.search, own.key, start, watch)
            except KeyboardInterrupt:
                words = f"stopped at once; what was saved is whole. {go_on}"
                raise stopping.Stopped(signal.SIGINT, words) from None
        if not result.complete:
            done = sum(track.ended for track in engine.tracks.values())
            words = (
                f"stopped with {done} of {len(result.hypers)} members at their end; all is saved."
            )
            raise stopping.Stopped(caught[0], f"{words} {go_on}")
        with stopping.full_disk(folder, go_on):
            _finish(own, result, folder)
    finally:
        store.close()
        if handed is not None:
            handed.close()


def _finish(own: _Study, result: Result, folder: Path) -> None:
    """The tables, the report, and a few lines in the terminal."""
    result.find_layers()
    result.save(folder)
    base = {k: v for k, v in own.sweep.tables.items() if isinstance(v, dict)}
    write_page(result, folder, folder.name, _flat(base))
    which = result.best
    best = {} if which is None else result.hypers[which]
    found = {
        "complete": True, "runs": len(result.hypers), "search": own.search_name, "best": which,
        "settings": best, "seed": None if which is None else result.seed[which],
        "figure": own.figure.metric, "score": None if which is None else float(result.scores[which]),
        "seconds": round(result.seconds, 2), "diverged": len(result.diverged),
    }  # fmt: skip
    test = {} if which is None else _test(own, result, which)
    found |= {"test": test} if test else {}
    runlog.write_json(folder / "result.json", found)
    words = f"{len(result.hypers)} runs in {result.seconds:.1f} s"
    if result.diverged:
        words += f", {len(result.diverged)} diverged"
    if result.stopped:
        words += f", {len(result.stopped)} ended early"
    print(words)
    if which is not None:
        print(f"best    {_how_sure(own, result, which)}  {settings_line(best)}")
    if test:
        figures = "  ".join(shown(name, value) for name, value in in_order(test))
        runs = f" (mean of {result.seeds} seeds)" if result.seeds > 1 else ""
        print(f"test    {figures}{runs}")
    print(f"table   {folder / 'table.csv'}")
    print(f"report  {folder / 'report.html'}")
    print(f"config  {runlog.command()} sweep-best {folder}")


def _how_sure(own: _Study, result: Result, which: int) -> str:
    """The figure that ranks: of one run, or the mean over seeds with its 95 % interval."""
    name, label = result.rank, own.figure.metric
    if result.seeds == 1:
        return f"{shown(label, float(result.scores[which]))} (member {which})"
    row = result.table()[0]
    low, high = (figure(label, row[f"{name} {end}"]) for end in ("low", "high"))
    return f"{shown(label, row[name])} ({low} to {high}, 95 % over {result.seeds} seeds)"


def _test(own: _Study, result: Result, which: int) -> dict[str, float]:
    """The figures of the best setting on the test split, which nothing was chosen by."""
    every = []
    for i in range(which, which + result.seeds):
        trial, state = result.trial(i), result.member(i).state
        arrays = trial.data.test
        if arrays is None or state is None or i in result.diverged:
            continue
        task = built(trial.build, trial.hypers, jnp.asarray(state.step))
        every.append(evaluate(task, state, arrays, transform=trial.data.transform))
    return {n: float(np.mean([own[n] for own in every])) for n in every[0]} if every else {}


def _save(own: _Study, result: Result, which: int, folder: Path, config: Config) -> None:
    """Make a member a run like any other."""
    folder = runlog.create(own.name, folder)
    config.dump(folder / "config.toml")
    runlog.write_environment(folder)
    result.save_member(which, folder)
    loading.restore(config, folder, "best")  # it can be read back


def _read(folder: Path) -> _Study:
    if not is_sweep(folder):
        around = {
            str(p.parent)
            for place in (folder.parent, Path("runs"))
            for p in place.glob(f"*/{GIVEN}")
        }
        what = f"has no {GIVEN}, so it is not a sweep" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}{check.nearest(str(folder), sorted(around))}")
    given = runlog.read_json(folder / WORDS)
    return _Study(load_sweep(folder / GIVEN, given["words"], given["options"]), given["name"])


def _jobs(given: str | None, folder: Path) -> executors.Jobs | None:
    if given is None:
        return None
    if given.isdigit() and int(given) > 0:
        return executors.processes(int(given))
    if given == "submitit":
        return executors.submitit(folder / "jobs")
    if given == "ray":
        return executors.ray()
    wanted = "a number of processes, submitit or ray"
    check.fail("sweep", f"jobs should be {wanted}, got {given!r}.")


def _options(values: Any, where: str) -> list[int]:
    """The seeds that are listed."""
    options = getattr(values, "options", values)
    if options is None:
        raise ConfigError([f"{where}: seed: seeds should be listed, such as seed=0:8."])
    return [int(seed) for seed in options]


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{table}.{k}": v for table, own in tables.items() for k, v in own.items()}


def _in_range(member: int, count: int) -> None:
    if not 0 <= member < count:
        check.fail("sweep-best", f"member should be in [0, {count}), got {member}.")
