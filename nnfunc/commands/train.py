"""What the commands do. Each is an ordinary function; scripts may call it too."""

import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check, checkpoint, malloc
from nnfunc.commands import predict_files
from nnfunc.commands.constant_baseline import baseline
from nnfunc.commands.extend_run import changed_settings, lengthened
from nnfunc.commands.interrupts import Stopped, full_disk, signals, told
from nnfunc.commands.progress_bar import progress
from nnfunc.config import Config, load
from nnfunc.config.dry_run import rehearse
from nnfunc.config.restore import load_run, read_config, restore, save_run, task_at
from nnfunc.errors import NnfuncError
from nnfunc.reports.format import format_labelled, sort_metrics
from nnfunc.runs import metrics_log, run_folder, status
from nnfunc.runs.lock import Lock
from nnfunc.runs.writers import open_writers
from nnfunc.summary import summary as summarize
from nnfunc.training.compiled import programs, split_hypers
from nnfunc.training.divergence import Diverged
from nnfunc.training.evaluate import fitting_batches, held_out, mean_metrics
from nnfunc.training.step import TrainState
from nnfunc.training.train import train as fit

__all__ = ["evaluate", "exit_code", "predict", "resume", "summary", "train", "words"]


def train(config_file: Path, settings: list[str], folder: Path | None = None) -> Path:
    """Train a config in a new run folder, and return the folder."""
    use_compilation_cache()
    before = "stopped before the training began; nothing was written"
    with told(before):
        config = load(config_file, settings)
        rehearse(config)  # its mistakes, and the data's, are known before there is a folder
        there = folder is not None and folder.is_dir()
        folder = run_folder.create(config_file.stem, folder)

        def undo() -> None:
            if not (folder / "metrics.jsonl").exists():  # it never began: leave nothing behind
                run_folder.discard(folder, keep=there)

        try:
            with told(before, undo):
                with full_disk(folder, "Train again."):
                    save_run(config, folder)
                    run_folder.write_environment(folder)
                _run(config, folder, resume=False)
        except BaseException:
            undo()
            raise
    return folder


def resume(folder: Path, settings: list[str] | None = None, *, changed_data: bool = False) -> None:
    """Go on with a run from its last good checkpoint; finished ones are only reported again.

    settings: of the loop, such as train.rollback=2. What a run trains on stays what it was.
    changed_data: go on where the data files are not what they were, with the splits of then.
    """
    use_compilation_cache()
    if (folder / run_folder.MERGED).exists():
        cure = f'Train adapters of it: lora = {{ run = "{folder}" }}'
        check.fail("resume", f"{folder} should be a run that was trained, but was merged. {cure}")
    with told("stopped before it went on; nothing has changed"):
        before = read_config(folder, changed_data=changed_data)
        config = read_config(folder, settings or [], changed_data=changed_data)
        done = max(checkpoint.steps(folder / "checkpoints"), default=0)
        may_differ = lengthened(before, config, done, settings or [])
        config.data()  # refused here when it is not what it was
        if changes := changed_settings(before, config):
            print(f"resume  {changes}")
        _run(config, folder, resume=may_differ or True, changed=bool(settings))


def evaluate(
    folder: Path, split: str = "test", which: str = "best", batch_size: int | None = None, *, changed_data: bool = False
) -> dict[str, float]:
    """Print and return the metrics of a run's checkpoint on the test or validation split.

    batch_size: examples at once; by default as in the run. changed_data: go on where the data files
    are not what they were, with the splits of then.
    """
    check.size("evaluate", batch_size=1 if batch_size is None else batch_size)
    check.choice("evaluate", ("test", "validation"), split=split)
    use_compilation_cache()
    config = read_config(folder, changed_data=changed_data)
    data = config.data()
    state, step = restore(config, folder, which)
    arrays = config.test() if split == "test" else data.validation
    if arrays is None:
        other = "validation" if split == "test" else "test"
        cure = f"Try --split {other}."
        problem = f"the data of {folder} should have a {split} split, but has none. {cure}"
        check.fail("evaluate", problem)
    if batch_size is not None:
        data = replace(data, eval_batch_size=batch_size)
    figures = _figures(config, state, split, data)
    print(f"{split}  {_line(figures)}   ({len(jax.tree.leaves(arrays)[0])} examples, step {step})")
    _compare(split, figures, _baselines(config, state, {split: arrays}))
    return figures


def predict(
    folder: Path,
    inputs: Path | Sequence[Path],
    output: Path | None = None,
    which: str = "best",
    batch_size: int | None = None,
) -> np.ndarray:
    """Write the model's outputs for the rows of a file, or for images, and return them.

    inputs: one path, or several of images; see `nnfunc.config.restore.Run.predict`. batch_size: rows at
    once; by default as many as the run's evaluations take.
    """
    if output is not None and output.suffix not in (".csv", ".npy"):
        check.fail("predict", f"the output should be a .csv or .npy file, got {output}.")
    use_compilation_cache()
    paths = [inputs] if isinstance(inputs, Path) else list(inputs)
    run = load_run(folder, which)
    learned = run.config.preprocessing
    if len(paths) > 1 and "image" not in learned.facts:
        check.fail("predict", f"there should be one input, for they are no images, got {len(paths)}.")
    y, files = run.predict_named(paths if len(paths) > 1 else paths[0], batch_size=batch_size)
    with full_disk(output or folder, "Predict again."):
        classes = run.config.tables["objective"]["name"] == "classification"
        label = learned.facts.get("label")
        predict_files.write(y, output, classes=classes, names=run.names, label=label, files=files)
    return y


def summary(config_file: Path, settings: list[str]) -> None:
    """Print the layers of a config's model for one batch."""
    config = load(config_file, settings)
    data = config.data()
    batch = jax.eval_shape(lambda: data.batch(0))
    print(summarize(config.build(config.hypers).model, batch[0]))


def _run(config: Config, folder: Path, *, resume: bool | list[str], changed: bool = False) -> None:
    """Train, evaluate the best checkpoint on the test split, write the report.

    changed: whether config.toml is to become this config; it stays what it was when that is refused.
    """
    with Lock(folder, lent=True):
        file = folder / "config.toml"
        before = file.read_text(encoding="utf-8")
        if changed:
            config.dump(folder / "config.tmp")
            (folder / "config.tmp").replace(file)
        try:
            _alone(config, folder, resume=resume)
        except Exception as error:
            if changed and isinstance(error, NnfuncError):
                (folder / "config.tmp").write_text(before, encoding="utf-8")
                (folder / "config.tmp").replace(file)
            raise


def _alone(config: Config, folder: Path, *, resume: bool | list[str]) -> None:
    """The same, while no other process writes into the folder."""
    steps, data = config.train["steps"], config.data()
    started, words = time.perf_counter(), f"Go on with: {run_folder.command()} resume {folder}"
    if malloc.kept():
        print("memory  kept between steps (NNFUNC_MALLOC=default leaves it to the system)")
    to = config.tables.get("log", {}).get("to", ())
    with (
        full_disk(folder, words),
        open_writers(to, folder, config.tables) as writers,
        signals() as caught,
        progress(steps) as bar,
    ):

        def note(row):
            writers.write(row)
            if row["split"] == "event" and bar.first is not None:  # those before are of the past
                bar.note(row)

        def stop(step):
            bar.tick(step)
            return bool(caught)

        try:
            state, history = fit(
                config.build,
                config.hypers,
                data,
                key=config.key(),
                folder=folder,
                resume=resume,
                changed_data=config.changed_data,
                on_report=bar,
                on_row=note,
                should_stop=stop,
                **config.train,
            )
        except KeyboardInterrupt:
            if not (folder / "metrics.jsonl").exists():
                raise  # it never began
            saved = checkpoint.steps(folder / "checkpoints")
            kept = f"step {saved[-1]} is the last one saved" if saved else "nothing was saved yet"
            raise Stopped(signal.SIGINT, f"stopped at once; {kept}. {words}") from None
    done = int(state.step)
    if done < steps:
        raise Stopped(caught[0], f"stopped at step {done} of {steps}; everything is saved. {words}")
    trained = f"all {steps} steps are trained and saved; only the figures are missing. {words}"
    with full_disk(folder, words), told(trained):
        _finish(config, folder, history.loop, bar.first, time.perf_counter() - started)


def _finish(config: Config, folder: Path, loop: str, first: int | None, seconds: float) -> None:
    """The figures of the best checkpoint and the report. first: where training began or went on."""
    from nnfunc.reports import run as run_report

    steps, data, arrays = config.train["steps"], config.data(), config.test()
    best, step = restore(config, folder, "best")
    result: dict[str, Any] = {"loop": loop, "step": step}
    if first is None:  # nothing was left to train
        before = status.json_of(folder / "result.json")
        known = [key for key in ("first", "seconds") if metrics_log.number(before.get(key)) >= 0]
        result |= {key: before[key] for key in known}
        print(f"{folder} is complete: all {steps} steps were trained before (best at step {step})")
    else:
        result |= {"first": first, "seconds": round(seconds, 2)}
        what = f"{steps} steps" if first == 0 else f"steps {first} to {steps}"
        print(f"trained {what} in {seconds:.1f} s (best at step {step})")
    if data.validation is not None:
        result["validation"] = _figures(config, best, "validation", data)
    if arrays is not None:
        result["test"] = _figures(config, best, "test", data)
    without = _baselines(config, best, {"validation": data.validation, "test": arrays})
    result |= {"baseline": without} if without else {}
    run_folder.write_json(folder / "result.json", result)
    run_report.write_report(folder)
    if arrays is not None:
        print(f"test    {_line(result['test'])}")
    for split in list(without)[-1:]:
        _compare(split, result[split], without)
    print(f"report  {folder / 'report.html'}")


def _baselines(config: Config, state: TrainState, splits: dict[str, Any]) -> dict[str, Any]:
    """By split, what one answer for all its examples reaches."""
    settings, objective = config.tables["objective"], task_at(config, state).objective
    data = config.data()
    found = {name: baseline(settings, objective, data, arrays) for name, arrays in splits.items() if arrays is not None}
    return {name: metrics for name, metrics in found.items() if metrics}


def _compare(split: str, figures: dict[str, float], without: dict[str, Any]) -> None:
    """Warn where the figures of a split are no better than one answer for all its examples."""
    metrics = without.get(split)
    if metrics and not status.beats(figures, metrics):
        what = "one answer for every example, without a look at it"
        print(f"warning {what}, gives {split} {_line(metrics)}")


def _figures(config: Config, state: TrainState, split: str, data: Any) -> dict[str, float]:
    """The metrics of a split, by the program that evaluated the run while it was trained."""
    numbers, static, treedef = split_hypers(config.hypers)
    own = programs(config.build, static, treedef, config.train.get("rollback", 0) > 0)
    batches = held_out(task_at(config, state), data, split)
    batches = fitting_batches("evaluate", own.totals, (state, numbers), batches)
    return mean_metrics(partial(own.totals, state, numbers), batches)


def _line(figures: dict[str, float]) -> str:
    return "  ".join(format_labelled(name, value) for name, value in sort_metrics(figures))


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX has been told where."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home has no cache either
        return
    jax.config.update("jax_compilation_cache_dir", str(home / "nnfunc" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def find_device() -> None:
    """Start JAX on its device. Raises: ValueError when JAX_PLATFORMS names one that is not here."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        if not platforms:
            raise
        hint = "Leave it out, or set JAX_PLATFORMS=cpu."
        problem = f"it should name devices that are here, got {platforms!r}. {hint}"
        check.fail("JAX_PLATFORMS", problem)


def exit_code(error: Exception) -> int | None:
    """The exit code of a user's mistake, a stop or a divergence; None for a defect."""
    if isinstance(error, Stopped):
        return 128 + error.signum
    if isinstance(error, Diverged):
        return 1
    mistake = isinstance(error, NnfuncError | OSError | ImportError) or out_of_memory(error)
    return 2 if mistake else None


def out_of_memory(error: Exception) -> bool:
    """Whether memory was short after all: other programs take theirs while a run goes on."""
    told = isinstance(error, jax.errors.JaxRuntimeError) and re.search(
        "RESOURCE_EXHAUSTED|[Oo]ut of memory", str(error)
    )
    return isinstance(error, MemoryError) or bool(told)


def words(error: Exception) -> str:
    """The message of an error, one for the user."""
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if out_of_memory(error):
        problem = str(error).splitlines()[0] if str(error) else "the machine has no more"
        return f"out of memory ({problem}). Make the model, batch_size or what is read smaller."
    return str(error)
