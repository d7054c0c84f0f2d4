"""The function `nf.sweep`: from a space to the result."""

import importlib
import inspect
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Key, fold_in
from nnfunc.data.dataset import Data
from nnfunc.distributed.placement import Shard
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.checkpoints import Store
from nnfunc.sweeps.engine import Engine, Interrupted
from nnfunc.sweeps.executors import Jobs
from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.progress import Progress, ProgressWatch
from nnfunc.sweeps.result import Result, build_result
from nnfunc.sweeps.sampling import MAX_TRIALS, Draws
from nnfunc.sweeps.search.halving import halving, hyperband
from nnfunc.sweeps.search.optuna_search import optuna
from nnfunc.sweeps.search.patience import patience
from nnfunc.sweeps.search.population import population
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.sweeps.trials_mesh import trials_mesh
from nnfunc.training.intervals import Intervals
from nnfunc.training.task import Build

Method = Literal["random", "grid", "sobol", "latin", "list"]
ExecutionName = Literal["auto", "vmap", "loop", "threads", "devices"]
Search = Callable[[Engine], None]
"""Decides how far each trial runs; see `nnfunc.sweeps.engine`."""
MAKERS = (halving, hyperband, patience, population, optuna)
"""Functions that return a search."""
REPORT: tuple[str, str] | None = ("nnfunc.reports.sweep.sweep_page", "write_page")
"""The writer of report.html, imported by name at the end of a sweep, because reports import sweeps."""
ORDER = "data.seed"
"""The name in a space that is the seed of the order of the data; it is not passed to build."""


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
    execution: ExecutionName = "auto",
    chunk: int | None = None,
    mesh: Mapping[str, int] | None = None,
    shard: Shard = None,
    jobs: Jobs | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    on_report: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Train what `build` returns for many hypers, in few compiled programs: a table and all train states.

    build, data, steps, log_every, evaluate_every, eval_batch_size: as for `nf.train`; log_every and evaluate_every
        are a tenth of the run by default.
    key: of the sweep. Trial i equals, to rounding, `nf.train(build, hypers_i, data, steps=steps,
        key=jax.random.fold_in(key, i))`, whatever the execution, the chunk and the other trials; with seeds its key
        is `fold_in(key, seed)`. All trials see the data in the same order, unless the space has the name
        "data.seed": its value is the seed of the trial's order, and is not passed to build.
    space: a dict, name -> a list, range or array of options; a distribution (`nf.uniform`, `nf.log_uniform`,
        `nf.int_uniform`, `nf.choice`); a function of the other values, h -> value; or one fixed value, such as a
        tuple. Or a list of dicts, the hypers of each setting. Or a function key -> dict that proposes a setting.
    trials: the number of runs; with seeds a multiple of them.
    method: "random"; "grid", all combinations; "sobol" and "latin", which fill the space more evenly
        (scipy.stats.qmc); "list".
    constraint: h -> whether to accept a setting.
    seeds: the number of runs of each setting, at least 1, with the keys fold_in(key, seed).
    search: decides how far each trial runs, such as `nf.sweeps.halving()`; by default all run to their end.
    best: the metric that ranks the trials, such as "max accuracy": its last value on the validation split, or,
        without one, its mean over the training steps since the last report.
    execution: "vmap" runs trials side by side, `chunk` at a time; "loop" runs one program for one trial after
        another; "threads" runs them from one Python thread for each core; "devices" shards trials side by side over
        all devices; "auto" chooses the fastest by a short probe. Values that set shapes, such as widths, and values
        that are not numbers make groups, each with its own program.
    mesh: for trials that each need several devices, the axes of a mesh of this process's devices, {"trials": 4,
        "data": 2}: so many trials side by side, each divided over the other axes as by `nf.train`.
    shard: where the parameters of a trial lie on these, as for `nf.shardings`. Both are None by default: one device
        for a trial.
    jobs: other processes or machines that run the trials, such as `nf.sweeps.processes(4)`; they need a folder.
    folder: where progress is saved every few seconds.
    resume: whether to continue the sweep in that folder, to the same result. At the end the folder gets table.csv,
        curves.csv (see `Result.save`) and report.html, which needs the extra `programs`.
    on_report: called with a `Progress` at every report, while the host waits.
    should_stop: asked at every report; once it returns True, the sweep saves and returns an incomplete result.
    Raises: ValueError and TypeError for invalid arguments. A trial that diverges, or whose hypers build refuses, is
    listed in the result and does not affect the others.

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
        check.fail("sweep", "resume=True needs the folder of a sweep.", hint="Give folder=.")
    if jobs is not None and folder is None:
        check.fail("sweep", "jobs need a folder, which they share.", hint="Give folder=.")
    if search is not None and (not callable(search) or inspect.unwrap(search) in MAKERS):
        expected, actual = "search should be a search, such as nf.sweeps.halving()", check.describe(search)
        check.fail("sweep", expected=expected, actual=actual, exc_type=TypeError)
    draws = build_draws(space, method, trials, key, constraint, seeds)
    build_spec = _spec_builder(build, data, steps, key, seeds, evaluate_every, log_every, eval_batch_size)
    on = trials_mesh(mesh, shard)
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
    watch = None if on_report is None else ProgressWatch(on_report, start)
    try:
        try:
            engine = Engine(
                build_spec,
                draws,
                BestMetric.parse(best),
                execution=execution,
                chunk=chunk,
                on=on,
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
            _write(result, Path(folder), space)
        return result
    except BaseException:  # what jobs have saved is there now
        if store is not None:
            store.discard()
        raise
    finally:
        if store is not None:
            store.close()


def conduct(engine: Engine, search: Search, key: Key, start: float, watch: ProgressWatch | None = None) -> Result:
    """Run a search on an engine, to its end or until it is asked to stop, and return the result.

    engine, search: of the sweep.
    key: of the sweep.
    start: when it began, by time.perf_counter.
    watch: reports the progress, or None.
    """
    if watch is not None:
        watch.engine = engine
    complete = True
    try:
        search(engine)
        engine.save()
    except Interrupted:
        complete = False
    return build_result(engine, key, time.perf_counter() - start, complete=complete)


def _write(result: Result, folder: Path, space: Any) -> None:
    """Write the tables of a complete sweep of a space, and its report if the packages for that are installed."""
    result.save(folder)
    if REPORT is None:
        return
    module, name = REPORT
    try:
        write_report = getattr(importlib.import_module(module), name)
        result.find_layers()
        entries = space.items() if isinstance(space, Mapping) else ()
        log = [name for name, values in entries if getattr(values, "log", False)]
        write_report(result, folder, folder.name, log=log)
    except ModuleNotFoundError as error:
        problem = f"report.html needs the package {error.name}, which is not installed"
        hint = "Install it: pip install 'nnfunc[programs]'."
        warnings.warn(f"sweep: {problem}; the tables are in {folder}. {hint}", stacklevel=3)


def everything(engine: Engine) -> None:
    """The search that runs all trials to their last step, the default of `nf.sweep`.

    engine: of the sweep; `nf.sweep` passes it.

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
    execution: ExecutionName = "auto",
    chunk: int | None = None,
    mesh: Mapping[str, int] | None = None,
    shard: Shard = None,
    probe: bool = False,
) -> Plan:
    """The plan of `nf.sweep` with these arguments: `print` it.

    It lists the values that the programs take as arguments, the values that make groups and why, and the
    trials of each group.
    probe: whether to compile the programs and run some steps, to choose the execution of "auto" and to estimate
        time and memory; otherwise no step is run.
    build, space, data, steps, key, trials, method, constraint, seeds, eval_batch_size, best, execution, chunk,
        mesh, shard: as for `nf.sweep`.
    Raises: as `nf.sweep` before it runs.

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
    build_spec = _spec_builder(build, data, steps, key, seeds, None, None, eval_batch_size)
    on = trials_mesh(mesh, shard)
    engine = Engine(build_spec, draws, BestMetric.parse(best), execution=execution, chunk=chunk, on=on)
    engine.begin()
    return engine.plan(probe=probe)


def build_draws(space: Any, method: str, trials: int | None, key: Any, constraint: Any, seeds: int | None) -> Draws:
    """The source of the settings. space, method, trials, key, constraint, seeds: as for `sweep`."""
    check.on_host("sweep", "Call it outside: it runs trials side by side itself.", key=key, space=space)
    check.key("sweep", key)
    runs = 1 if seeds is None else seeds
    check.size("sweep", 1, MAX_TRIALS, seeds=runs)
    if trials is None:
        return Draws(space, method, None, key, constraint, runs)
    check.size("sweep", 1, MAX_TRIALS, trials=trials)
    if trials % runs:
        hint = f"Use {trials // runs * runs or runs}, for example."
        check.fail("sweep", expected=f"trials should be a multiple of seeds, {runs}", actual=trials, hint=hint)
    return Draws(space, method, trials // runs, key, constraint, runs)


def _spec_builder(
    build: Build,
    data: Any,
    steps: int,
    key: Key,
    seeds: int | None,
    evaluate: int | None,
    log: int | None,
    eval_batch_size: int | None,
) -> Callable[[dict[str, Any], int, int], TrialSpec]:
    """(settings, trial, run) -> TrialSpec, for the arguments of `sweep`."""
    check.size("sweep", steps=steps)
    if not isinstance(data, Data):
        expected = "data should be a data set in memory, such as nf.data.arrays((x, y), batch_size=32)"
        check.fail("sweep", expected=expected, actual=check.describe(data), exc_type=TypeError)
    if eval_batch_size is not None:
        check.size("sweep", eval_batch_size=eval_batch_size)
        data = replace(data, eval_batch_size=eval_batch_size)
    tenth = max(1, steps // 10)
    or_tenth = lambda every: tenth if every is None else every
    intervals = Intervals.from_arguments(steps, or_tenth(log), or_tenth(evaluate), steps)

    def build_spec(settings: dict[str, Any], trial: int, run: int) -> TrialSpec:
        run_key = fold_in(key, np.uint32(trial if seeds is None else run))
        order = settings.get(ORDER)
        hypers = {name: value for name, value in settings.items() if name != ORDER}
        if order is not None:
            check.size("sweep", 0, 2**32 - 1, **{ORDER: order})
        return TrialSpec(settings, build, hypers, data, intervals, run_key, order, run)

    return build_spec
