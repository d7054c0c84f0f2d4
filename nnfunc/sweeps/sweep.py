"""A sweep from its space to its table."""

import importlib
import inspect
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Key, fold_in
from nnfunc.data.dataset import Data
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.checkpoints import Store
from nnfunc.sweeps.collect import collect
from nnfunc.sweeps.engine import Engine, Interrupted
from nnfunc.sweeps.executors import Jobs
from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.progress import Progress, Watch
from nnfunc.sweeps.result import Result
from nnfunc.sweeps.sampling import MAX_TRIALS, Draws
from nnfunc.sweeps.search.early_stopping import patience
from nnfunc.sweeps.search.halving import halving, hyperband
from nnfunc.sweeps.search.optuna_search import optuna
from nnfunc.sweeps.search.population import population
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.training.intervals import Intervals
from nnfunc.training.task import Build

__all__ = ["Search", "conduct", "everything", "sweep", "sweep_plan"]

Method = Literal["random", "grid", "sobol", "latin", "list"]
Running = Literal["auto", "vmap", "loop", "threads", "devices"]
Search = Callable[[Engine], None]
"""What decides which trials run how far; see `nnfunc.sweeps.engine`."""
MAKERS = (halving, hyperband, patience, population, optuna)
"""What makes searches, and is none."""
REPORT: tuple[str, str] | None = ("nnfunc.reports.sweep.sweep_page", "write_page")
"""What writes report.html. It is above sweeps, so it is looked up by name, when a sweep has ended."""
ORDER = "data.seed"
"""The name of a space that is the seed of the data's order, not a hyper."""


def sweep(
    build: Build,
    space: Any,
    data: Data,
    *,
    steps: int,
    key: Key,
    trials: int | None = None,
    method: Method = "random",
    constraint: Callable[[dict[str, Any]], Any] | None = None,
    seeds: int | None = None,
    search: Search | None = None,
    evaluate_every: int | None = None,
    log_every: int | None = None,
    eval_batch_size: int | None = None,
    best: str = "min loss",
    execution: Running = "auto",
    chunk: int | None = None,
    jobs: Jobs | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    on_report: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Train what `build` makes with many hypers, in few compiled programs: a table and all states.

    build, data, steps, log_every, evaluate_every, eval_batch_size: as for `nf.train`; log_every and
    evaluate_every are a tenth of the run by default. key: of the sweep. Trial i is the run
    `nf.train(build, hypers_i, data, steps=steps, key=jax.random.fold_in(key, i))`, to rounding:
    whatever the execution, the chunk and the other trials; with seeds the key is `fold_in(key, seed)`.
    All see the data in the same order, unless the space holds the name "data.seed": its value is the
    seed of the trial's own order, and build is not given it.
    space: a dict, name -> a list, range or array of options; a distribution (`nf.uniform`,
    `nf.log_uniform`, `nf.int_uniform`, `nf.choice`); a function of the other values, h -> value; or
    one fixed value, a tuple too. Or a list of dicts, each the hypers of a setting. Or a function
    that proposes, key -> dict.
    trials: how many runs there are, with seeds a multiple of them. method: "random"; "grid", all
    combinations; "sobol" and "latin", which fill the space more evenly (scipy.stats.qmc); "list".
    constraint: h -> whether a setting is wanted. seeds: how often each setting is run, in [1, ...),
    with the keys fold_in(key, seed).
    search: which trials run how far, such as `nf.sweeps.halving()`; by default all run to their end.
    best: what ranks the trials, such as "max accuracy": their last value on the validation split, or,
    where there is none, on the training data since the last report.
    execution: "vmap" runs trials side by side, `chunk` at a time; "loop" one after another through one
    program; "threads" from a Python thread a core; "devices" side by side, cut over all devices;
    "auto" takes the quickest by a short probe. Values that set shapes, such as widths, and those that
    are no numbers make groups, with programs of their own.
    jobs: other processes or machines that run the trials, such as `nf.sweeps.processes(4)`; they need
    a folder. folder: where what the trials have come to is saved every few seconds; resume: go on
    from there, to the same result. When all have ended, it gets table.csv, curves.csv (see
    `Result.save`) and report.html, for which the extra `programs` is needed. on_report: called at
    every report; then the host waits for it.
    should_stop: asked at every report; when it says True, the sweep saves and returns what it has,
    not `complete`.
    Raises: ValueError and TypeError for arguments that do not fit. A trial that diverges is written
    down, as one whose hypers build refuses, and disturbs no other.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8, validation=(x, 3 * x))
    >>> space = {"rate": [0.01, 0.1, 1e9]}
    >>> result = nf.sweep(build, space, data, steps=50, method="grid", key=jax.random.key(0))
    >>> [row["rate"] for row in result.table()], result.diverged
    ([0.1, 0.01, 1000000000.0], {2: 3})
    """
    start = time.perf_counter()
    if resume and folder is None:
        check.fail("sweep", "resume goes on from a folder, so it needs one. Give folder=.")
    if jobs is not None and folder is None:
        check.fail("sweep", "jobs share a folder, so they need one. Give folder=.")
    if search is not None and (not callable(search) or inspect.unwrap(search) in MAKERS):
        expected = "a search, such as nf.sweeps.halving()"
        check.fail("sweep", f"search should be {expected}, got {check.describe(search)}.", exc_type=TypeError)
    draws = build_draws(space, method, trials, key, constraint, seeds)
    data = _sized(data, eval_batch_size)
    build_spec = _trials(build, data, steps, key, seeds, evaluate_every, log_every)
    store = None
    if folder is not None:
        of = {
            "steps": steps,
            "evaluate_every": evaluate_every,
            "log_every": log_every,
            "seeds": seeds,
            "key": np.asarray(jax.random.key_data(key)).tolist(),
            "data": {"size": data.size, "batch_size": data.batch_size, "seed": int(data.seed)},
        }
        store = Store(folder, resume=resume, of=of)
    watch = None if on_report is None else Watch(on_report, start)
    try:
        try:
            engine = Engine(
                build_spec,
                draws,
                BestMetric.parse(best),
                execution=execution,
                chunk=chunk,
                store=store,
                on_report=watch,
                should_stop=should_stop or (lambda: False),
                jobs=jobs,
            )
            result = conduct(engine, search or everything, key, start, watch)
        finally:
            if jobs is not None:
                jobs.close()
        if folder is not None and result.complete:
            _write(result, Path(folder))
        return result
    except BaseException:  # what jobs have saved is there now
        if store is not None:
            store.discard()
        raise
    finally:
        if store is not None:
            store.close()


def conduct(engine: Engine, search: Search, key: Key, start: float, watch: Watch | None = None) -> Result:
    """Let a search run an engine to its end, or until it is asked to stop: the result.

    start: when the sweep began, by time.perf_counter.
    """
    if watch is not None:
        watch.engine = engine
    complete = True
    try:
        search(engine)
        engine.save()
    except Interrupted:
        complete = False
    return collect(engine, key, time.perf_counter() - start, complete=complete)


def _write(result: Result, folder: Path) -> None:
    """Write the tables of a sweep that has ended, and its report where there is what draws it."""
    result.save(folder)
    if REPORT is None:
        return
    module, name = REPORT
    try:
        write_report = getattr(importlib.import_module(module), name)
        result.find_layers()
        write_report(result, folder, folder.name)
    except ModuleNotFoundError as error:
        problem = f"report.html needs the package {error.name}, which is not installed"
        hint = "pip install 'nnfunc[programs]'"
        warnings.warn(f"sweep: {problem}; the tables are in {folder}. {hint}", stacklevel=3)


def everything(engine: Engine) -> None:
    """The search that runs all trials to their last step, the default of `nf.sweep`.

    engine: the sweep that the search drives, which `nf.sweep` makes.

    >>> nf.sweeps.everything.__name__
    'everything'
    """
    engine.advance(engine.begin())


def sweep_plan(
    build: Build,
    space: Any,
    data: Data,
    *,
    steps: int,
    key: Key,
    trials: int | None = None,
    method: Method = "random",
    constraint: Callable[[dict[str, Any]], Any] | None = None,
    seeds: int | None = None,
    eval_batch_size: int | None = None,
    best: str = "min loss",
    execution: Running = "auto",
    chunk: int | None = None,
    probe: bool = False,
) -> Plan:
    """What `nf.sweep` would do with these arguments: `print` it.

    It says which values the programs take as arguments, which make groups and why, and how many
    trials each has. Without probe no step is run, and the execution of "auto" is left open; with it the
    programs are compiled, and some steps tell the execution, the time and the memory to expect.
    build, space, data, steps, key, trials, method, constraint, seeds, eval_batch_size, best, execution,
    chunk: as for `nf.sweep`.
    Raises: what `nf.sweep` raises before it runs.

    >>> def build(h):
    ...     model = nf.mlp([4, h["width"], 2])
    ...     return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["rate"]))
    >>> data = nf.data.arrays((np.ones((8, 4), np.float32), np.arange(8) % 2), batch_size=4)
    >>> space = {"width": [8, 16], "rate": [0.1, 0.2, 0.3]}
    >>> print(nf.sweep_plan(build, space, data, steps=5, method="grid", key=jax.random.key(0),
    ...                     execution="vmap"))
    6 runs of 5 steps: 6 settings
    arguments of the program: rate
    makes groups: width (...)
    group 0 (width=8), 3 trials: 3 trials side by side, about ... at a time
    group 1 (width=16), 3 trials: 3 trials side by side, about ... at a time
    """
    draws = build_draws(space, method, trials, key, constraint, seeds)
    build_spec = _trials(build, _sized(data, eval_batch_size), steps, key, seeds, None, None)
    engine = Engine(build_spec, draws, BestMetric.parse(best), execution=execution, chunk=chunk)
    engine.begin()
    return engine.plan(probe=probe)


def build_draws(space: Any, method: str, trials: int | None, key: Any, constraint: Any, seeds: int | None) -> Draws:
    """Where settings come from, by the arguments of `sweep`."""
    check.on_host("sweep", "Call it outside: it runs trials side by side itself.", key=key)
    check.key("sweep", key)
    runs = 1 if seeds is None else seeds
    check.size("sweep", 1, MAX_TRIALS, seeds=runs)
    if trials is not None:
        check.size("sweep", 1, MAX_TRIALS, trials=trials)
        if trials % runs:
            hint = f"Take {trials // runs * runs or runs}, for example."
            check.fail("sweep", f"trials should be a multiple of the seeds, {runs}, got {trials}. {hint}")
    return Draws(space, method, None if trials is None else trials // runs, key, constraint, runs)


def _sized(data: Any, eval_batch_size: int | None) -> Any:
    """The data set, with this many examples an evaluation."""
    if eval_batch_size is None or not isinstance(data, Data):
        return data
    check.size("sweep", eval_batch_size=eval_batch_size)
    return replace(data, eval_batch_size=eval_batch_size)


def _trials(
    build: Build, data: Any, steps: int, key: Key, seeds: int | None, evaluate: int | None, log: int | None
) -> Callable[[dict[str, Any], int, int], TrialSpec]:
    check.size("sweep", steps=steps)
    if not isinstance(data, Data):
        expected = "a data set in memory, such as nf.data.arrays((x, y), batch_size=32)"
        check.fail("sweep", f"data should be {expected}, got {check.describe(data)}.", exc_type=TypeError)
    tenth = max(1, steps // 10)
    or_tenth = lambda every: tenth if every is None else every
    intervals = Intervals.from_arguments(steps, or_tenth(log), or_tenth(evaluate), steps)

    def spec(settings: dict[str, Any], index: int, run: int) -> TrialSpec:
        run_key = fold_in(key, np.uint32(index if seeds is None else run))
        order = settings.get(ORDER)
        hypers = {name: value for name, value in settings.items() if name != ORDER}
        if order is not None:
            check.size("sweep", 0, 2**32 - 1, **{"data.seed": order})
        return TrialSpec(settings, build, hypers, data, intervals, run_key, order, run)

    return spec
