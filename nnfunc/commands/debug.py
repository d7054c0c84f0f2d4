"""What the debugging commands do. Each is an ordinary function; scripts may call it too."""

import shutil
import textwrap
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check, checkpoint
from nnfunc.commands.train import use_compilation_cache
from nnfunc.config import Config, load
from nnfunc.config.restore import read_config, restore_state
from nnfunc.debug import Fault, Finding, RangeTest, Verdict
from nnfunc.debug import doctor as examine
from nnfunc.debug import find_lr as range_test
from nnfunc.debug import find_nan as blame
from nnfunc.debug import overfit as memorise
from nnfunc.runs import run_folder
from nnfunc.training.compiled import Programs, programs, split_hypers
from nnfunc.training.device_feed import Feed
from nnfunc.training.divergence import first_not_finite
from nnfunc.training.evaluate import held_out, mean_metrics
from nnfunc.training.intervals import Intervals
from nnfunc.training.step import TrainState, evaluated

__all__ = ["doctor", "find_lr", "find_nan", "overfit"]


def overfit(config_file: Path, settings: list[str], *, steps: int = 200, examples: int = 32) -> Verdict:
    """Train a config's model on one batch alone, print the verdict, and return it."""
    use_compilation_cache()
    config = load(config_file, settings)
    found = memorise(config.build, config.hypers, config.data(), key=config.key(), steps=steps, examples=examples)
    ends = found.losses[-1]
    print(f"{found.outcome}: {_wrapped(found.message, len(found.outcome) + 2)}")
    rates = "  ".join(f"{rate:6.1g}" for rate in found.learning_rates)
    print(f"  rate  {rates}"[: _width()])
    print(f"  loss  {'  '.join(f'{end:6.3g}' for end in ends)}"[: _width()])
    for name, text in (("cause", found.cause), ("cure", found.hint)):
        if text:
            print(f"{name:<7} {_wrapped(text, 8)}")
    return found


def find_lr(
    config_file: Path, settings: list[str], *, steps: int = 96, at_once: int | None = None, plot: Path | None = None
) -> RangeTest:
    """Try 64 learning rates on a config's task, print and draw what came out, and return it."""
    if plot is not None and plot.suffix not in (".png", ".svg"):
        check.fail("find-lr", f"the plot should be a .png or .svg file, got {plot}.")
    check.size("find-lr", low=8, steps=steps)
    use_compilation_cache()
    config = load(config_file, settings)
    data = config.data()
    at_once = (8 if jax.default_backend() == "cpu" else 64) if at_once is None else at_once
    check.size("find-lr", at_once=at_once)
    print(f"64 short runs of {steps} steps each, {at_once} at once", flush=True)
    found = range_test(config.build, config.hypers, data, key=config.key(), steps=steps, at_once=at_once)
    print(found)
    if found.hyper is not None:
        others = " ".join(settings)
        words = [run_folder.command(), "train", str(config_file), others, f"{found.hyper}={found.hyper_value:.2g}"]
        print(f"  {' '.join(word for word in words if word)}")
    if plot is not None:
        found.plot(plot)
        print(f"  plot  {plot}")
    return found


def doctor(config_file: Path, settings: list[str]) -> list[Finding]:
    """Look for the usual mistakes in a config's task and data, print and return them."""
    use_compilation_cache()
    config = load(config_file, settings)
    found = examine(config.build, config.hypers, config.data(), key=config.key())
    for finding in found:
        print(f"{finding.severity:<8} {finding.check}  ({finding.where})")
        print(f"         {_wrapped(finding.evidence, 9)}")
        print(f"         {_wrapped(finding.hint, 9)}")
    errors = sum(finding.severity == "error" for finding in found)
    warnings = len(found) - errors
    words = f"{check.counted(errors, 'error')}, {check.counted(warnings, 'warning')}"
    print(words if found else _SOUND)
    return found


_SOUND = (
    "nothing found: compiler, data, labels, first loss, gradients, activations, leaks between\n"
    "examples and from later tokens, symmetry, rate and decay are as they should be"
)


def find_nan(folder: Path, *, changed_data: bool = False) -> list[Fault]:
    """Go on from a run's last good checkpoint until it diverges, and print and return where.

    changed_data: go on where the data files are not what they were, with the splits of then.
    """
    use_compilation_cache()
    config = read_config(folder, changed_data=changed_data)
    data = config.data()
    state, start = _replayed(config, folder)
    steps = config.train["steps"]
    if int(state.diverged_at) >= 0:
        found = blame(config.build, config.hypers, state, data)
    else:
        found = _held_out(config, state)
    for fault in found:
        layer = fault.path or "-"
        print(f"step   {fault.step}\nlayer  {layer}\nphase  {fault.phase}\n{_wrapped(fault.words, 0)}")
    if not found:
        print(f"all is finite in steps {start} to {steps - 1}" if start < steps else "all is finite")
    return found


def _replayed(config: Config, folder: Path) -> tuple[TrainState, int]:
    """The state when the run diverges, or at its end, and the step from which it was trained."""
    own, numbers = _programs(config)
    steps, data = config.train["steps"], config.data()
    intervals = Intervals.of(steps, None, config.train.get("evaluate_every"), None)
    with closing(Feed(data)) as feed:
        carry = own.init(numbers, config.key(), feed.sample())
        if checkpoint.steps(folder / "checkpoints"):
            carry = carry._replace(state=restore_state(config, folder, "last")[0])
        start = step = int(carry.state.step)
        print(f"replaying from step {start}", flush=True)
        while step < steps:
            for _ in range(intervals.next(step) - step):
                carry = own.one(carry, numbers, feed.at(step))
                step += 1
            if int(carry.state.diverged_at) >= 0:
                break
            if carry.state.plateau != () and intervals.evaluates(step):
                task = config.build(config.hypers)
                figures = mean_metrics(partial(own.totals, carry.state, numbers), held_out(task, data))
                carry = own.observe(carry, numbers, figures)
    return carry.state, start


def _held_out(config: Config, state: TrainState) -> list[Fault]:
    """The fault of the first batch of held-out examples whose loss is not finite."""
    data = config.data()
    if data.validation is None:
        return []
    own, numbers = _programs(config)
    task = config.build(config.hypers, state.step)
    for batch in held_out(task, data):
        if not np.isfinite(float(own.totals(state, numbers, batch)["loss"][0])):
            fault = first_not_finite(task, *evaluated(task, state), batch.batch(), None)
            step = int(state.step)
            return [fault._replace(step=step, words=f"of held-out examples, in {fault.words}")]
    return []


def _programs(config: Config) -> tuple[Programs, Any]:
    """The programs that the run has, and their numbers."""
    numbers, static, treedef = split_hypers(config.hypers)
    scaled = config.train.get("rollback", 0) > 0
    return programs(config.build, static, treedef, scaled), numbers


def _width() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _wrapped(text: str, indent: int) -> str:
    width = max(40, _width() - indent - 1)
    return ("\n" + " " * indent).join(textwrap.wrap(text, width))
