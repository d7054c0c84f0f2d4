"""The command `nnfunc resume` of a run: which settings may change, and the training from there on."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, checkpoint
from nnfunc.commands.interrupts import interrupt_message
from nnfunc.commands.run_training import run_training
from nnfunc.commands.train import agree
from nnfunc.config import Config
from nnfunc.config.restore import read_config
from nnfunc.config.schema import factories
from nnfunc.runs import run_folder

TOTAL_STEPS = "schedule.total_steps"
FREE = ("train", "log", "mesh", "shard")
"""The tables that a run may resume with other values of: they change no step, or by rounding alone."""


def resume(folder: Path, settings: list[str] | None = None, *, changed_data: bool = False) -> None:
    """Resume a run from its last good checkpoint; a complete run only repeats its report.

    folder: of the run.
    settings: overrides of the training loop, such as "train.rollback=2"; the other settings stay.
    changed_data: accept data files that changed since the run began; their original rows keep their splits.
    Raises: ValueError for settings that would change the steps that are already trained.
    """
    if (folder / run_folder.MERGED).exists():
        problem = f"{folder} is a merged run, which has no training to resume."
        check.fail("resume", problem, hint=f'Train new adapters on it: lora = {{ run = "{folder}" }}')
    if (folder / run_folder.IMPORTED).exists():
        problem = f"{folder} is an imported model, which has no training to resume."
        check.fail("resume", problem, hint=f'Train from it in a new run: start = {{ run = "{folder}" }}')
    settings = settings or []
    with interrupt_message("stopped before the training resumed; nothing was changed"):
        old = read_config(folder, changed_data=changed_data, needs_start=True)
        new = read_config(folder, settings, changed_data=changed_data, needs_start=True)
        trained_steps = max(checkpoint.steps(folder / "checkpoints"), default=0)
        changed_hypers = _check_settings(old, new, trained_steps, settings)
        new.data()  # refuses data that has changed
        agree(new)
        if changes := _changed_settings(old, new):
            print(f"resume  {changes}")
        run_training(new, folder, resume=changed_hypers or True, replace_config=bool(settings))


def _check_settings(old: Config, new: Config, trained_steps: int, settings: list[str]) -> list[str]:
    """The names of the hypers that may differ when the run resumes.

    By default a schedule ends with the run, so a longer run has another schedule. That is accepted when
    the learning rates of the trained steps stay the same.
    """
    table = lambda setting: setting.partition("=")[0].partition(".")[0].strip()
    other = [s for s in settings if table(s) not in FREE and not s.strip().startswith(TOTAL_STEPS)]
    if other:
        expected, hint = f"settings should be of the tables {', '.join(FREE)}", "Start a new run to change the rest."
        check.fail("resume", expected=expected, actual=repr(other[0]), hint=hint)
    before, after = old.hypers, new.hypers
    if before.keys() != after.keys() or [name for name in after if before[name] != after[name]] != [TOTAL_STEPS]:
        return []  # the training itself refuses other changes, by name
    old_rates, new_rates = (_learning_rates(config, trained_steps) for config in (old, new))
    changed = np.flatnonzero(old_rates != new_rates)
    if not changed.size:
        return [TOTAL_STEPS]
    step, end = int(changed[0]), f"{before[TOTAL_STEPS]:g}"
    final = _learning_rates(old, int(before[TOTAL_STEPS]) + 1)[-1]
    hint = f"Add {TOTAL_STEPS}={end} to continue at the final learning rate, {final:.3g}, or start a new run."
    if final < 1e-6 * old_rates.max():
        hint = f"Start a new run: the schedule ends at a learning rate of {final:.1g}, which changes nothing more."
    check.fail(
        "resume",
        f"train.steps={new.train['steps']} changes {TOTAL_STEPS} from {end} to {after[TOTAL_STEPS]:g}, and with it the "
        f"learning rate of {changed.size} of the {trained_steps} trained steps (at step {step} from "
        f"{old_rates[step]:.6g} to {new_rates[step]:.6g}).",
        hint=hint,
    )


def _changed_settings(old: Config, new: Config) -> str:
    """The settings that differ: `train.steps 60 -> 100, train.rollback none -> 2`."""
    changes = []
    for table in FREE:
        before, after = (config.tables.get(table, {}) for config in (old, new))
        if not (isinstance(before, dict) and isinstance(after, dict)):  # a preset of shard
            changes += [f"{table} {before or 'none'} -> {after or 'none'}"] if before != after else []
            continue
        changes += [
            f"{table}.{name} {before.get(name, 'none')} -> {after.get(name, 'none')}"
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        ]
    return ", ".join(changes)


def _learning_rates(config: Config, steps: int) -> np.ndarray:
    """The config's schedule at the first steps: [steps]."""
    _, name, values = config.part("schedule")
    schedule = factories("schedule")[name](**values)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps)))
