"""The command `nnfunc tune`: measures which form of each convolution of a config is the fastest here."""

import math
import time
from pathlib import Path

import jax
from rich.table import Table

from nnfunc import check, tuning
from nnfunc.base import shape_struct
from nnfunc.commands.terminal import open_console, print_lines
from nnfunc.config import Config, load
from nnfunc.layers.conv.algorithms import TUNED
from nnfunc.layers.conv.form_timing import choose_form, time_forms
from nnfunc.training.compiled import run_functions, split_hypers
from nnfunc.training.device_feed import DeviceFeed


def tune(config_file: Path, settings: list[str], *, seconds: float = 20.0) -> dict[str, str]:
    """Time the forms of a config's convolutions and remember the fastest; print and return them by key.

    config_file: a TOML file. settings: its overrides. seconds: for all measurements, the largest convolution first;
    above 0.
    Raises: ValueError where measured forms are switched off, or there is no cache folder.
    """
    check.number("tune", 0, open_low=True, seconds=seconds)
    if tuning.is_off():
        check.fail("tune", "NNFUNC_TUNING=off switches measured forms off.", hint="Unset it.")
    if tuning.table_file() is None:
        check.fail("tune", "there is no home folder to remember the forms in.", hint="Set XDG_CACHE_HOME.")
    calls = find_calls(load(config_file, settings))
    if not calls:
        print("The model has no convolution of which several forms could be timed here.")
        return {}
    table = Table(box=None, pad_edge=False)
    table.add_column("input", no_wrap=True)
    table.add_column("kernel", overflow="fold")
    for title in ("calls", *TUNED, "fastest", "ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    entries, end = {}, time.perf_counter() + seconds
    for i, (key, call) in enumerate(calls.items()):
        remaining = end - time.perf_counter()
        cells = [*key.removeprefix("convolution ").split(", kernel "), str(call.count)]
        if remaining <= 0:
            table.add_row(*cells, *[""] * len(TUNED), "not reached", "")
            continue
        part = remaining / (len(calls) - i)
        times = time_forms(call, part)
        form = choose_form(call, times, part)
        entries[key] = form, times
        ratio = f"{times[form] / times[call.default]:.2f}" if {form, call.default} <= times.keys() else ""
        table.add_row(*cells, *(f"{times[f] * 1e3:.3g}" if f in times else "" for f in TUNED), form, ratio)
    tuning.save_measured(entries)
    open_console().print(table)
    print_lines(
        "milliseconds, forward and backward; ratio: of the fastest to the form that is used without a measurement"
    )
    print_lines(f"saved in {tuning.table_file()}: new runs use it, and keep their forms when they resume")
    return {key: form for key, (form, _) in entries.items()}


def find_calls(config: Config) -> dict[str, tuning.Call]:
    """The convolutions of a training step that have several forms, the largest first. config: of the run."""
    numbers, static, treedef = split_hypers(config.hypers)
    functions, feed = run_functions(config.build, static, treedef), DeviceFeed(config.data())
    sample = jax.tree.map(shape_struct, feed.sample())
    carry = jax.eval_shape(functions.init, numbers, config.key(), sample)
    with tuning.recorded() as calls:
        jax.eval_shape(functions.step, carry, numbers, sample)
    return dict(sorted(calls.items(), key=lambda item: -_cost(item[1])))


def _cost(call: tuning.Call) -> float:
    """Proportional to the arithmetic of all calls of one key."""
    x, weight, plan = call.arguments
    return call.count * math.prod(weight.shape) * math.prod(x.shape[:-1]) / math.prod(plan.stride)
