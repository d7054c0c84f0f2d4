"""What the tables say together, and what their factories say of them, before anything runs."""

import math
from typing import Any

from nnfunc import check
from nnfunc.config.build import find_schedules, is_schedule, lists_to_tuples
from nnfunc.config.config import Config
from nnfunc.config.errors import ConfigError, ProblemList
from nnfunc.config.schema import TABLES, WRAPPERS, factories, get_schema

__all__ = ["call_factories", "check_combinations", "check_learning_rate"]


def check_learning_rate(tables: dict[str, Any], resolved: dict[str, Any], mistakes: ProblemList) -> None:
    """The learning rate is given once, by the schedule or by optimizer.learning_rate, and is not negative."""
    optimizer, schedule = resolved.get("optimizer"), resolved.get("schedule")
    rates = {f"schedule.{key}": value for key, value in (schedule or {}).items()}
    rates["optimizer.learning_rate"] = (optimizer or {}).get("learning_rate")
    for place, value in rates.items():
        if isinstance(value, int | float) and not value >= 0:
            mistakes.add(place, f"should be at least 0, got {value}.")
    if optimizer is None:
        return
    if "schedule" in tables and "learning_rate" in optimizer:
        mistakes.add("optimizer.learning_rate", "the schedule gives the learning rate; remove one of the two.")
    if "schedule" not in tables and "learning_rate" not in optimizer:
        problem = f"is missing; write learning_rate = 1e-3, or a table {TABLES['schedule']}"
        mistakes.add("optimizer.learning_rate", problem)


def check_combinations(resolved: dict[str, Any], mistakes: ProblemList) -> None:
    """What begins does so within the run, and micro-batches divide the batch."""
    data, train, groups, average, task = (
        resolved.get(table) or {} for table in ("data", "train", "groups", "average", "task")
    )
    steps, freeze = train.get("steps", 0), groups.get("freeze", ())
    late = [("average.start", "", average.get("start"))]
    later = freeze.items() if isinstance(freeze, dict) else ()
    late += [("groups.freeze", f"of {p!r} ", value) for p, value in later if value != math.inf]
    for path, which, value in late if steps > 0 else ():
        if isinstance(value, int | float) and value >= steps:
            never = " inf is never." if which else ""
            problem = f"{which}should be below train.steps = {steps}, where the run ends"
            over = {"train.steps", "train"} & mistakes.overridden
            blamed = path if path in mistakes.overridden or not over else "train.steps"
            named = "" if blamed == path else f"{path} "
            mistakes.add(blamed, f"{named}{problem}, got {value}.{never}")
    size, count = data.get("batch_size"), task.get("accumulate", 1)
    if size and count > 0 and size % count:
        wanted = f"task.accumulate should divide data.batch_size = {size}, got {count}."
        blamed = "data.batch_size" if "data.batch_size" in mistakes.overridden else "task.accumulate"
        mistakes.add(blamed, wanted.removeprefix(f"{blamed} "))


def call_factories(resolved: dict[str, Any], mistakes: ProblemList, shelf: dict[str, Any], records: Any = None) -> None:
    """Call each factory once with the numbers as written, so that what it refuses is known now.

    shelf: where data goes that is loaded for it. records: as of `Config`.
    """
    from nnfunc import optimizers
    from nnfunc.training.checkpointing import Best
    from nnfunc.training.train import Intervals

    def check_train(
        *,
        steps,
        log_every=None,
        evaluate_every=None,
        save_every=None,
        watch_every=None,
        eval_batch_size=None,
        best="min loss",
        loop="auto",
        rollback=0,
        rollback_factor=0.5,
    ):
        check.size("train", steps=steps)
        check.size("train", 0, rollback=rollback)
        check.size("train", eval_batch_size=1 if eval_batch_size is None else eval_batch_size)
        check.number("train", 0, 1, open_low=True, rollback_factor=rollback_factor)
        Intervals.of(steps, log_every, evaluate_every, save_every, watch_every)
        Best.of(best)

    good = {table for table, values in resolved.items() if values is not None}
    if "train" in good:
        try:
            check_train(**resolved["train"])
        except (ValueError, TypeError) as error:
            good -= {"train"}
            mistakes.add_refusal("train", error)
    of_any_length = {} if "train" in good else {"train": {"steps": 10**9}}
    tables = {table: values for table, values in resolved.items() if table in good}
    config = Config(tables | of_any_length, mistakes.file, shelf, records)
    needing_data = [] if "data" in good else ["augment"]
    for path in [p for p in config.table_paths if p.partition(".")[0] not in needing_data]:
        keys, step = [], 0
        try:
            table, name, values = config.part(path)
            kinds = get_schema(table, name).types
            keys = [key for key, value in values.items() if kinds[key].traced and find_schedules(key, value)]
            first = (optimizers.sgd(0.1),) if table in WRAPPERS else ()
            values = {"learning_rate": 1e-3} | values if table == "optimizer" else values
            last = config.train["steps"] - 1 if "train" in good else 0
            for step in sorted({0, last // 2, last}) if keys else [0]:
                now = values | {key: _at(values[key], step) for key in keys}
                factories(table)[name](*first, **{key: lists_to_tuples(v) for key, v in now.items()})
        except ConfigError as error:  # of the data, which an augmentation asks
            mistakes.lines += [line for line in error.problems if line not in mistakes.lines]
        except (ValueError, TypeError, ArithmeticError) as error:
            if path != "schedule" or not _too_few_steps(config, mistakes):
                mistakes.add_refusal(path, error, _blamed(path, keys, step, error))


def _at(value: Any, step: int) -> Any:
    """The value, with the number of the step for each schedule in it."""
    if is_schedule(value):
        values = {key: lists_to_tuples(inner) for key, inner in value.items() if key != "schedule"}
        return float(factories("schedule")[value["schedule"]](**values)(step))
    if isinstance(value, dict):
        return {key: _at(item, step) for key, item in value.items()}
    return [_at(item, step) for item in value] if isinstance(value, list) else value


def _blamed(path: str, keys: list[str], step: int, error: Exception) -> str:
    """Which scheduled numbers a factory may have refused, and of which step."""
    named = [key for key in keys if key in str(error)] or (keys if step else [])
    return f"{' and '.join(f'{path}.{key}' for key in named)} at step {step}" if named else ""


def _too_few_steps(config: Config, mistakes: ProblemList) -> bool:
    """Whether a schedule that ends at train.steps has parts longer than those, which is noted then."""
    schedule, steps = config.tables["schedule"], config.tables["train"]["steps"]
    parts = {key: n for key, n in schedule.items() if key in ("warmup_steps", "decay_steps")}
    if "total_steps" in schedule or not parts or sum(parts.values()) < steps or steps < 2:
        return False
    named = " and ".join(f"schedule.{key} = {n:g}" for key, n in parts.items())
    fewer = [f"schedule.{key}={max(int(steps * n / sum(parts.values()) / 2), 1)}" for key, n in parts.items()]
    cure = f"Give all of them, such as {' '.join([f'train.steps={steps}', *fewer])}."
    keys = ["train.steps", *(f"schedule.{key}" for key in parts)]
    blamed = next((key for key in keys if key in mistakes.overridden), keys[0])
    mistakes.add(blamed, f"train.steps = {steps} is too few for {named}. {cure}")
    return True
