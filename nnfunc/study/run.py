"""The command `nnfunc sweep`: from a config to a folder with a table, curves, a report, all members.

A sweep's folder holds
sweep.toml, sweep.json      the file and the words that it was begun with
environment.json            versions, device and command
segments/, plan.json        what its members have come to; see `nnfunc.sweeps.store`
table.csv, curves.csv       and members.csv, lineage.csv where there is more to tell; as .parquet too
result.json                 the best member and what it reached
report.html
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

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
from nnfunc.study.searching import fitting, search_of
from nnfunc.sweeps import jobs as executors
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.progress import Watch
from nnfunc.sweeps.result import Result
from nnfunc.sweeps.run import conduct, draws_of
from nnfunc.sweeps.space import Distribution
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
        text = file.read_bytes()
        _check_jobs(jobs, own)
        engine = own.engine()
        planned = own.begin(engine)  # mistakes, the data's too, are known before there is a folder
        if dry_run:
            print(own.plan(planned))
            return None
        there = folder is not None and folder.is_dir()
        folder = runlog.create(f"{file.stem}-sweep", folder)
        known = {name: value for name, value in (options or {}).items() if value is not None}
        given = {"words": list(words), "options": known, "name": file.stem}
        try:
            with stopping.full_disk(folder, "Sweep again."):
                runlog.write_json(folder / WORDS, given)
                runlog.write_environment(folder)
                (folder / f"{GIVEN}.tmp").write_bytes(text)
                (folder / f"{GIVEN}.tmp").replace(folder / GIVEN)
        except BaseException:
            runlog.discard(folder, keep=there)
            raise
    try:
        _run(own, folder, jobs, engine, planned)
    except (ValueError, TypeError, ImportError):
        if not any(folder.glob("segments/*")):  # it never began: leave nothing behind
            runlog.discard(folder, keep=there)
        raise
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
        check.fail("sweep-best", f"{_no_best(found['seeds'])}. Ask for one with --member.")
    _in_range(which, found["runs"])
    if save is None and member is None:
        settings, run = found["settings"], found["seed"]
        text = _best_of(found)
        config = own.config(settings, run)
    else:
        if save is not None:
            _free(save)
        result = own.result(folder)
        if which in result.refused:
            check.fail("sweep-best", f"member {which} was refused: {result.refused[which]}")
        config = own.config(result.hypers[which], result.seed[which])
        text = f"member {which} of {found['runs']}: {_came_to(result, which)}"
        if save is not None:
            _save(own, result, which, save, config)
            text += f"\n# Saved as a run: {save}"
    if found["search"] == "population":
        text += "\n# Its numbers changed on the way, see lineage.csv; these are the last ones."
    print(f"# {text}\n{config.text}", end="")
    return config


def _best_of(found: Mapping[str, Any]) -> str:
    """What a config is of, by result.json."""
    own = f"member {found['best']}: {found['figure']} {found['score']:.6g}"
    if found["seeds"] == 1:
        return f"best of {_counted(found['runs'], 'run')}, {own}"
    settings = _counted(found["runs"] // found["seeds"], "setting")
    mean = f"{found['figure']} {found['mean']:.6g} on average over {found['seeds']} seeds"
    return f"best of {settings}, {mean}; of which {own}"


def _came_to(result: Result, member: int) -> str:
    if member in result.diverged:
        return f"diverged at step {result.diverged[member]}"
    ended = f" at step {result.stopped[member]}" if member in result.stopped else ""
    return f"{result.figure.metric} {result.scores[member]:.6g}{ended}"


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
        self.key: Key = jax.random.key(own.tables.get("seed", 0))
        self.caught: list[int] = []  # signals
        try:
            fitting(self.search_name, len(space), members, len(self.seeds))
            if not space:
                space, method, members = _seeds_alone(members, len(self.seeds)), "list", None
            elif members is None and method != "grid":
                _members_missing(space)
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

    def engine(self, store: Store | None = None) -> Engine:
        stops = lambda: bool(self.caught)
        own = {"way": self.way, "chunk": self.chunk, "store": store, "stops": stops}
        return Engine(self.trial, self.draws, self.figure, **own)

    def begin(self, engine: Engine) -> Engine:
        """Take up the members, and return the engine whose plan tells of them.

        Where they are proposed later, it is another one, of a few draws of the space.
        """
        if self.search_name == "optuna":
            some = replace(self.draws, method="random", members=min(16, self.draws.members or 16))
            own = {"way": self.way, "chunk": self.chunk, "store": engine.store}  # its ways
            engine = Engine(self.trial, some, self.figure, **own)
        engine.begin()
        return engine

    def plan(self, engine: Engine) -> str:
        """What is going to happen, in words. engine: of `begin`."""
        plan = engine.plan(probe=True)
        if self.search_name == "everything":
            return str(plan)
        if self.search_name != "optuna":
            return f"{plan}\nsearch: {self.search_name}"
        words = f"optuna proposes {_counted(self.draws.members or 0, 'setting')}"
        return f"{words}; of {plan.settings} at random the plan is\n{plan}"

    def members(self, engine: Engine) -> int:
        """How many runs there are going to be in all."""
        proposed = self.draws.members if self.search_name == "optuna" else None
        return len(engine.trials) if proposed is None else proposed * self.draws.runs

    def store(self, folder: Path) -> Store:
        return Store(folder, resume=True, of={"name": self.name})

    def result(self, folder: Path) -> Result:
        """The result of a sweep that has ended, read back."""
        store = self.store(folder)
        try:
            return conduct(self.engine(store), self.search, self.key, time.perf_counter())
        finally:
            store.close()


def _run(
    own: _Study, folder: Path, jobs: str | None, engine: Engine | None = None,
    planned: Engine | None = None,
) -> None:  # fmt: skip
    """Run what is left of a sweep, and write what there is to say of it.

    engine, planned: of a sweep that begins; see `_Study.begin`.
    """
    go_on = f"Go on with: {runlog.command()} resume {folder}"
    start, store = time.perf_counter(), own.store(folder)
    before, handed = runlog.read_json(folder / "result.json"), None
    with (
        ExitStack() as stack, stopping.full_disk(folder, go_on),
        stopping.told(f"stopped at once; what was saved is whole. {go_on}"),
    ):  # fmt: skip
        stack.callback(store.close)
        with stopping.signals() as own.caught, live(own.figure.metric, own.caught) as panel:
            engine = own.engine(store) if engine is None else engine
            planned = own.begin(engine) if planned is None else planned
            if before is None:
                print(own.plan(planned), flush=True)
            panel.members = own.members(engine)
            if jobs is not None:
                handed = _jobs(jobs, folder, panel.members)
                stack.callback(handed.close)
                panel.waiting("the jobs run ...")
            watch = Watch(panel, start)
            engine.store, engine.told, engine.jobs = store, watch, handed
            result = conduct(engine, own.search, own.key, start, watch)
        if not result.complete:
            done = sum(t.ended or t.left is not None for t in engine.tracks.values())
            kept = "all is saved" if handed is None else "what the jobs had saved is kept"
            words = f"stopped with {done} of {panel.members} members at their end; {kept}."
            raise stopping.Stopped(own.caught[0], f"{words} {go_on}")
        trained = "all members have run and are saved; only tables and report are missing."
        with stopping.told(f"{trained} {go_on}"):
            if before is not None and watch.first is None:
                result.seconds = before["seconds"]
                print(f"{folder} is complete: its members were trained before")
            _finish(own, result, folder)


def _finish(own: _Study, result: Result, folder: Path) -> None:
    """The tables, the report, and a few lines in the terminal."""
    result.find_layers()
    result.save(folder)
    base = {k: v for k, v in own.sweep.tables.items() if isinstance(v, dict)}
    write_page(result, folder, folder.name, _flat(base))
    which = result.best
    best = {} if which is None else result.hypers[which]
    found = {
        "complete": True, "runs": len(result.hypers), "seeds": result.seeds,
        "search": own.search_name, "best": which, "settings": best,
        "seed": None if which is None else result.seed[which], "figure": own.figure.metric,
        "score": None if which is None else float(result.scores[which]),
        "mean": None if which is None else float(result.table()[0][result.rank]),
        "seconds": round(result.seconds, 2), "diverged": len(result.diverged),
    }  # fmt: skip
    test = {} if which is None else _test(own, result, which)
    found |= {"test": test} if test else {}
    runlog.write_json(folder / "result.json", found)
    words = f"{_counted(len(result.hypers), 'run')} in {found['seconds']:.1f} s"
    ends = {"diverged": result.diverged, "ended early": result.stopped, "refused": result.refused}
    words += "".join(f", {len(members)} {what}" for what, members in ends.items() if members)
    print(words)
    if which is None:
        print(f"best    {_no_best(result.seeds)}")
    else:
        print(f"best    {_how_sure(own, result, which)}  {settings_line(best)}".rstrip())
    if test:
        figures = "  ".join(shown(name, value) for name, value in in_order(test))
        runs = f" (mean of {result.seeds} seeds)" if result.seeds > 1 else ""
        print(f"test    {figures}{runs}")
    print(f"table   {folder / 'table.csv'}")
    print(f"report  {folder / 'report.html'}")
    if which is not None:
        print(f"config  {runlog.command()} sweep-best {folder}")


def _no_best(seeds: int) -> str:
    if seeds > 1:
        return "there is none: of every setting a run ended without a finite figure"
    return "there is none: no member ended with a finite figure"


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


def _free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"The folder {folder} exists already. Choose another with --save.")


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


def _check_jobs(given: str | None, own: _Study) -> None:
    if given is None:
        return
    if own.search_name == "population":
        problem = "members that learn from each other run in one process"
        check.fail("sweep", f"{problem}, so jobs should be left out, got {given!r}.")
    if given not in ("submitit", "ray") and not _workers(given):
        wanted = "a number of processes, submitit or ray"
        check.fail("sweep", f"jobs should be {wanted}, got {given!r}.")


def _workers(given: str) -> int:
    return int(given) if given.isdecimal() else 0


def _jobs(given: str, folder: Path, members: int) -> executors.Jobs:
    """What runs so many members elsewhere. given: of `_check_jobs`."""
    if given == "submitit":
        return executors.submitit(folder / "jobs")
    if given == "ray":
        return executors.ray()
    workers = _workers(given)
    return executors.processes(workers, members=min(16, -(-members // workers)))


def _options(values: Any, where: str) -> list[int]:
    """The seeds that are listed."""
    options = getattr(values, "options", values)
    if options is None:
        raise ConfigError([f"{where}: seed: seeds should be listed, such as seed=0:8."])
    return [int(seed) for seed in options]


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{table}.{k}": v for table, own in tables.items() for k, v in own.items()}


def _seeds_alone(members: int | None, seeds: int) -> list[dict[str, Any]]:
    """The space of a sweep in which only seeds differ."""
    if members not in (None, seeds):
        cure = "Leave members out, or say what else to draw."
        check.fail("sweep", f"members should be the number of the seeds, {seeds}, for nothing else is "
                   f"drawn, got {members}. {cure}")  # fmt: skip
    return [{}]


def _members_missing(space: Mapping[str, Any]) -> NoReturn:
    drawn = [f"{path} is" for path, values in space.items() if isinstance(values, Distribution)]
    why = f"{drawn[0] if drawn else 'settings are'} drawn at random"
    cure = "Give --members 16, or members = 16 in the table [sweep]."
    check.fail("sweep", f"members should say how many runs there are, for {why}, got none. {cure}")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _in_range(member: int, count: int) -> None:
    if not 0 <= member < count:
        check.fail("sweep-best", f"member should be in [0, {count}), got {member}.")
