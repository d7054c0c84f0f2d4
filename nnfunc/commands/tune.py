"""The command `nnfunc tune`: measures which forms of a config's operations are the fastest on this machine."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
from rich.table import Table

from nnfunc import check, form_timing, tuning
from nnfunc.array_types import shape_struct
from nnfunc.commands.terminal import open_console, print_lines
from nnfunc.config import Config, load
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sums import KEY
from nnfunc.training.compiled import Carry, compiled_functions, run_functions, run_some_steps, split_hypers
from nnfunc.training.device_feed import DeviceFeed
from nnfunc.training.train_run import LOOP_KEY, inspect_task, resolve_loop

ALONE, WHOLE = "alone", "3 steps"


def tune(config_file: Path, settings: list[str], *, seconds: float = 20.0) -> dict[str, str]:
    """Time the forms of a config's operations and remember the fastest; print and return them by key.

    Convolutions, recurrent layers, attention and norms are timed alone, the costliest first; then the training step
    with its blocks scanned and unrolled, and its loop.
    config_file: a TOML file.
    settings: its overrides.
    seconds: for all measurements; above 0.
    Raises: ValueError where measured forms are switched off, or there is no cache folder.
    """
    check.number("tune", 0, open_low=True, seconds=seconds)
    if tuning.is_off():
        check.fail("tune", "NNFUNC_TUNING=off switches measured forms off.", hint="Unset it.")
    if tuning.table_file() is None:
        check.fail("tune", "there is no home folder to remember the forms in.", hint="Set XDG_CACHE_HOME.")
    steps = Steps(load(config_file, settings))
    calls = steps.find_calls()
    if not calls:
        print_lines("No operation of the training step has several forms that could be timed here.")
        return {}
    table = Table(box=None, pad_edge=False)
    table.add_column("operation", overflow="fold")
    table.add_column("timed", no_wrap=True)
    table.add_column("milliseconds", overflow="fold")
    table.add_column("fastest", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    entries: dict[str, tuple[str, dict[str, float]]] = {}
    end = time.perf_counter() + seconds
    for i, (key, call) in enumerate(calls.items()):
        remaining = end - time.perf_counter()
        times = ALONE if call.function else WHOLE
        if remaining <= 0:
            table.add_row(key, times, "", "not reached", "")
            continue
        part = remaining / (len(calls) - i)
        pinned = {key: form for key, (form, _) in entries.items()}
        measured = form_timing.time_forms(key, call, part) if call.function else steps.time(key, call, part, pinned)
        form = form_timing.choose_form(key, call, measured, part)
        entries[key] = form, measured
        ratio = f"{measured[form] / measured[call.default]:.2f}" if {form, call.default} <= measured.keys() else ""
        table.add_row(key, times, ", ".join(f"{f} {t * 1e3:.3g}" for f, t in measured.items()), form, ratio)
    tuning.save_measured(entries)
    open_console().print(table)
    print_lines("alone: forward and backward; ratio: of the fastest to the form that is used without a measurement")
    print_lines(f"saved in {tuning.table_file()}: new runs use it, and keep their forms when they resume")
    return {key: form for key, (form, _) in entries.items()}


class Steps:
    """The training steps of a config. config: of the run."""

    def __init__(self, config: Config):
        self.config, self.feed = config, DeviceFeed(config.data())
        self.numbers, self.static, self.treedef = split_hypers(config.hypers)

    def find_calls(self) -> dict[str, tuning.Call]:
        """The choices of a step: those that are timed alone first, the costliest of them first."""
        functions, key = run_functions(self.config.build, self.static, self.treedef), self.config.key()
        sample = jax.tree.map(shape_struct, self.feed.sample())
        best = BestMetric.parse(self.config.train.get("best", "min loss"))
        inspection = inspect_task(functions, self.numbers, key, self.feed, best)
        carry = jax.eval_shape(functions.init, self.numbers, key, sample)
        with tuning.recorded() as calls:
            jax.eval_shape(functions.step, carry, self.numbers, sample)
            resolve_loop(self.config.train.get("loop", "auto"), self.feed, inspection)
        if KEY in calls and calls[KEY].function is None:  # no norm, only sums that are small beside the rest
            del calls[KEY]
        return dict(sorted(calls.items(), key=lambda item: (item[1].function is None, -item[1].count * item[1].cost)))

    def time(self, key: str, call: tuning.Call, seconds: float, pinned: dict[str, str]) -> dict[str, float]:
        """The median seconds of three steps with each form of a choice.

        key, call: of the choice.
        seconds: until the last round begins.
        pinned: the forms of the other choices.
        """
        end, programs = time.perf_counter() + seconds, {}
        for form in call.options:
            programs[form] = partial(self._run, pinned | {key: form}, form if key.startswith(LOOP_KEY) else "scan")
        return form_timing.time_programs(programs, end)

    def _run(self, forms: Mapping[str, str], loop: str) -> Carry:
        with tuning.pinned(forms):
            functions = compiled_functions(self.config.build, self.static, self.treedef)
            sample = self.feed.sample()
            carry = functions.once(
                self.feed.data, "carry", self.numbers, lambda: functions.init(self.numbers, self.config.key(), sample)
            )
            return run_some_steps(functions, loop, carry, self.numbers, sample)
