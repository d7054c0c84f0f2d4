"""The commands `nnfunc doctor`, `overfit`, `find-lr` and `find-nan`."""

import shutil
import textwrap
from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import numpy as np

from nnfunc import check, checkpoint, debug, tuning
from nnfunc.commands.evaluate_run import run_programs
from nnfunc.commands.terminal import print_lines
from nnfunc.config import Config, load
from nnfunc.config.restore import read_config, restore_state
from nnfunc.debug import Fault, Finding, RangeTest, Verdict
from nnfunc.runs import run_folder
from nnfunc.training.checkpointing import saved_forms
from nnfunc.training.device_feed import DeviceFeed
from nnfunc.training.divergence import find_non_finite
from nnfunc.training.evaluate import mean_metrics, split_batches
from nnfunc.training.intervals import Intervals
from nnfunc.training.train_state import TrainState, eval_params

NO_FINDINGS = (
    "no findings: compiler, data, labels, first loss, gradients, activations, leaks between "
    "examples and from later tokens, symmetry, learning rate and weight decay look right"
)


def doctor(config_file: Path, settings: list[str]) -> list[Finding]:
    """Check a config for common mistakes; print and return the findings.

    config_file: a TOML file.
    settings: its overrides.
    """
    config = load(config_file, settings)
    findings = debug.doctor(config.build, config.hypers, config.data(), key=config.key())
    for finding in findings:
        print(f"{finding.severity:<8} {finding.check}  ({finding.where})")
        print(f"         {_wrap(finding.evidence, 9)}")
        print(f"         {_wrap(finding.hint, 9)}")
    errors = sum(finding.severity == "error" for finding in findings)
    counts = f"{check.counted(errors, 'error')}, {check.counted(len(findings) - errors, 'warning')}"
    print_lines(counts if findings else NO_FINDINGS)
    return findings


def overfit(config_file: Path, settings: list[str], *, steps: int = 200, examples: int = 32) -> Verdict:
    """Train a config's model on one batch; print and return the verdict.

    config_file: a TOML file.
    settings: its overrides.
    steps: of the training.
    examples: at most so many in the batch.
    """
    config = load(config_file, settings)
    verdict = debug.overfit(
        config.build, config.hypers, config.data(), key=config.key(), steps=steps, examples=examples
    )
    print(f"{verdict.outcome}: {_wrap(verdict.message, len(verdict.outcome) + 2)}")
    rates = "  ".join(f"{rate:6.1g}" for rate in verdict.learning_rates)
    losses = "  ".join(f"{loss:6.3g}" for loss in verdict.losses[-1])
    print(f"  rate  {rates}"[: _width()])
    print(f"  loss  {losses}"[: _width()])
    for name, text in (("cause", verdict.cause), ("hint", verdict.hint)):
        if text:
            print(f"{name:<7} {_wrap(text, 8)}")
    return verdict


def find_lr(
    config_file: Path, settings: list[str], *, steps: int = 96, at_once: int | None = None, plot: Path | None = None
) -> RangeTest:
    """Try 64 learning rates on a config; print, plot and return the result.

    config_file: a TOML file.
    settings: its overrides.
    steps: of each run, at least 8.
    at_once: runs in one program; by default 8 on a CPU, 64 elsewhere.
    plot: a .png or .svg file to write.
    Raises: ValueError for a plot with another suffix.
    """
    if plot is not None and plot.suffix not in (".png", ".svg"):
        check.fail("find-lr", expected="plot should be a .png or .svg file", actual=plot)
    check.size("find-lr", low=8, steps=steps)
    config = load(config_file, settings)
    data = config.data()
    at_once = (8 if jax.default_backend() == "cpu" else 64) if at_once is None else at_once
    check.size("find-lr", at_once=at_once)
    print(f"64 short runs of {steps} steps, {at_once} at a time", flush=True)
    result = debug.find_lr(config.build, config.hypers, data, key=config.key(), steps=steps, at_once=at_once)
    print(result)
    if result.hyper is not None:
        override = f"{result.hyper}={result.hyper_value:.2g}"
        print("  " + " ".join([run_folder.program_name(), "train", str(config_file), *settings, override]))
    if plot is not None:
        result.plot(plot)
        print(f"  plot  {plot}")
    return result


def find_nan(folder: Path, *, changed_data: bool = False) -> list[Fault]:
    """Train on from a run's last good checkpoint until it diverges; print and return where.

    folder: of the run.
    changed_data: accept data files that changed since the run began; their original rows keep their splits.
    """
    config = read_config(folder, changed_data=changed_data, needs_start=True)
    forms = saved_forms(folder)
    with tuning.pinned(tuning.measured() if forms is None else forms):
        state, start = _replay(config, folder)
        if int(state.diverged_at) >= 0:
            faults = debug.find_nan(config.build, config.hypers, state, config.data())
        else:
            faults = _validation_faults(config, state)
    for fault in faults:
        print(f"step   {fault.step}\nlayer  {fault.path or '-'}\nphase  {fault.phase}\n{_wrap(fault.message, 0)}")
    if not faults:
        end = config.train["steps"]
        print(f"all values are finite{f' in steps {start} to {end - 1}' if start < end else ''}")
    return faults


def _replay(config: Config, folder: Path) -> tuple[TrainState, int]:
    """The state when the run diverges, or at its end, and the step at which the replay started."""
    run, numbers = run_programs(config)
    steps, data = config.train["steps"], config.data()
    intervals = Intervals.from_arguments(steps, None, config.train.get("evaluate_every"), None)
    with closing(DeviceFeed(data)) as feed:
        carry = run.init(numbers, config.key(), feed.sample())
        if checkpoint.steps(folder / "checkpoints"):
            carry = carry._replace(state=restore_state(config, folder, "last")[0])
        start = step = int(carry.state.step)
        print(f"replaying from step {start}", flush=True)
        while step < steps:
            for _ in range(intervals.next(step) - step):
                carry = run.step(carry, numbers, feed.read(step))
                step += 1
            if int(carry.state.diverged_at) >= 0:
                break
            if carry.state.plateau != () and intervals.evaluates(step):
                task = config.build(config.hypers)
                metrics = mean_metrics(partial(run.eval_totals, carry.state, numbers), split_batches(task, data))
                carry = run.observe(carry, numbers, metrics)
    return carry.state, start


def _validation_faults(config: Config, state: TrainState) -> list[Fault]:
    """The fault of the first validation batch whose loss is not finite, if any."""
    data = config.data()
    if data.validation is None:
        return []
    run, numbers = run_programs(config)
    task = config.build(config.hypers, state.step)
    for batch in split_batches(task, data):
        if not np.isfinite(float(run.eval_totals(state, numbers, batch)["loss"][0])):
            fault = find_non_finite(task, *eval_params(task, state), batch.batch(), None)
            return [fault._replace(step=int(state.step), message=f"validation, in {fault.message}")]
    return []


def _width() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _wrap(text: str, indent: int) -> str:
    """The text in lines that fit the terminal, all but the first indented by so many spaces."""
    lines = textwrap.wrap(text, max(40, _width() - indent - 1))
    return ("\n" + " " * indent).join(lines)
