"""Checks of the values of a config together, before anything runs: combinations, and calls of the factories."""

import inspect
import math
from typing import Any

from nnfunc.config.build import find_schedules, insert_slots, lists_to_tuples, map_schedules
from nnfunc.config.config import Config
from nnfunc.config.config_errors import ConfigError, ProblemList, error_parts
from nnfunc.config.schema import TABLES, WRAPPERS, factories, get_schema
from nnfunc.evaluation.thresholds import check_threshold_metric


def check_learning_rate(tables: dict[str, Any], resolved: dict[str, Any], problems: ProblemList) -> None:
    """Check that there is one learning rate, of the schedule or of the optimizer, and that it is not negative.

    tables: as written.
    resolved: with defaults.
    problems: takes the mistakes.
    """
    optimizer, schedule = resolved.get("optimizer"), resolved.get("schedule")
    rates = {f"schedule.{key}": value for key, value in (schedule or {}).items()}
    rates["optimizer.learning_rate"] = (optimizer or {}).get("learning_rate")
    for path, value in rates.items():
        if isinstance(value, int | float) and not value >= 0:
            problems.add(path, expected="should be at least 0", actual=str(value))
    if optimizer is None:
        return
    if "schedule" in tables and "learning_rate" in optimizer:
        problems.add("optimizer.learning_rate", "the schedule gives the learning rate", hint="remove one of the two.")
    if "schedule" not in tables and "learning_rate" not in optimizer:
        problems.add(
            "optimizer.learning_rate", "is missing", hint=f"write learning_rate = 1e-3, or a table {TABLES['schedule']}"
        )


def check_combinations(resolved: dict[str, Any], problems: ProblemList) -> None:
    """Check start steps against the run, micro-batches against the batch size, and the model's vocabulary.

    resolved: the tables with defaults.
    problems: takes the mistakes; of the keys of a mistake, one that the command line overrides is named.
    """
    data, train, groups, average, task = (
        resolved.get(table) or {} for table in ("data", "train", "groups", "average", "task")
    )
    if resolved.get("lora") and resolved.get("start"):
        problems.add("start", "the table lora names the run to start from", hint="Remove one of the two tables.")
    steps, freeze = train.get("steps", 0), groups.get("freeze", ())
    starts = [("average.start", "", average.get("start"))]
    if isinstance(freeze, dict):
        starts += [("groups.freeze", f"of {p!r} ", value) for p, value in freeze.items() if value != math.inf]
    for path, pattern, value in starts if steps > 0 else ():
        if isinstance(value, int | float) and value >= steps:
            by_steps = path not in problems.overridden and bool({"train.steps", "train"} & problems.overridden)
            subject = f"{path} {pattern}" if by_steps else pattern
            expected = f"{subject}should be below train.steps = {steps}, where the run ends"
            hint = "Use inf for never." if pattern else ""
            problems.add("train.steps" if by_steps else path, expected=expected, actual=str(value), hint=hint)
    model, ids = resolved.get("model") or {}, 0 if "codec" in data else data.get("vocab_size", 0)
    if model.get("vocab_size", ids) < ids:
        expected, hint = f"should be at least data.vocab_size = {ids}", "The model has no embedding for larger ids."
        problems.add("model.vocab_size", expected=expected, actual=str(model["vocab_size"]), hint=hint)
    size, count = data.get("batch_size"), task.get("accumulate", 1)
    if size and count > 0 and size % count:
        blamed = "data.batch_size" if "data.batch_size" in problems.overridden else "task.accumulate"
        expected = f"task.accumulate should divide data.batch_size = {size}".removeprefix(f"{blamed} ")
        problems.add(blamed, expected=expected, actual=str(count))


def call_factories(
    resolved: dict[str, Any], problems: ProblemList, data_cache: dict[str, Any], records: Any = None
) -> None:
    """Call each factory with the arguments of its table, and collect the errors.

    A number with a schedule has its values at the first, the middle and the last step.
    resolved: the tables with defaults, None for those with mistakes.
    problems: takes the errors.
    data_cache: takes the data, if an augmentation needs it.
    records: as in `Config`.
    """
    from nnfunc import optimizers
    from nnfunc.training.task_metrics import check_metrics
    from nnfunc.training.train_run import check_options, train

    valid = {table for table, values in resolved.items() if values is not None}
    if "train" in valid:
        try:
            options = {p.name: p.default for p in inspect.signature(train).parameters.values()} | resolved["train"]
            check_options(**{name: options[name] for name in inspect.signature(check_options).parameters})
        except (ValueError, TypeError) as error:
            valid -= {"train"}
            problems.add_refusal("train", error)
    tables = {table: values for table, values in resolved.items() if table in valid}
    tables.setdefault("train", {"steps": 10**9})  # large enough for any schedule
    if "model" in valid and "categories" in get_schema("model", tables["model"]["name"]).types:
        sizes = {"numbers": 1, "categories": [1] * len(tables["model"].get("embedding_dims", ()))}
        tables["model"] = sizes | tables["model"]  # in place of those of the data, which is not read here
    config = Config(tables, problems.file, data_cache, records)
    last, results = config.train["steps"] - 1 if "train" in valid else 0, {}
    for path in config.table_paths:
        if path.startswith("augment.") and "data" not in valid:
            continue
        numbers: dict[str, Any] = {}
        step = 0
        try:
            table, name, values = config.part(path)
            types = get_schema(table, name).types
            keys = [key for key, value in values.items() if types[key].traced and find_schedules(key, value)]
            wrapped = (optimizers.sgd(0.1),) if table in WRAPPERS else ()  # any optimizer
            values = {"learning_rate": 1e-3} | values if table == "optimizer" else values
            if table == "objective" and "augment" in get_schema(table, name).python_only and "augment" in resolved:
                wrapped = (lambda key, batch: batch,)
            for step in sorted({0, last // 2, last}) if keys else [0]:
                numbers = {key: _at_step(values[key], step) for key in keys}
                arguments = {key: lists_to_tuples(value) for key, value in (values | numbers).items()}
                results[path] = factories(table)[name](*wrapped, **arguments)
        except ConfigError as error:  # of the data, which an augmentation may need
            problems.problems += [problem for problem in error.problems if problem not in problems.problems]
        except (ValueError, TypeError, ArithmeticError) as error:
            if path != "schedule" or not _too_few_steps(config, problems):
                problems.add_refusal(path, error, _blamed_numbers(path, numbers, step, error))
    if {"objective", "task"} <= set(results):
        objective, options = results["objective"], results["task"]
        try:
            check_metrics("task", objective, options.metrics)
            if options.threshold is not None:
                check_threshold_metric("task", objective.output_type, options.threshold)
        except (ValueError, TypeError) as error:
            problems.add_refusal("task", error)


def _at_step(value: Any, step: int) -> Any:
    """The value, with the number at `step` for each schedule in it."""

    def number(key: str, schedule: dict[str, Any]) -> float:
        arguments = {key: lists_to_tuples(argument) for key, argument in schedule.items() if key != "schedule"}
        return float(factories("schedule")[schedule["schedule"]](**arguments)(step))

    return map_schedules(value, number)


def _blamed_numbers(path: str, numbers: dict[str, Any], step: int, error: Exception) -> str:
    """The scheduled numbers that the error may be about, and the step."""
    _, actual, _ = error_parts(error)
    blamed = []
    for key, value in numbers.items():
        plain: dict[str, float] = {}
        insert_slots(key, value, plain)
        blamed += [key] if actual in map(str, plain.values()) else []
    blamed = blamed or (list(numbers) if step else [])
    return f"{' and '.join(f'{path}.{key}' for key in blamed)} at step {step}" if blamed else ""


def _too_few_steps(config: Config, problems: ProblemList) -> bool:
    """Add a problem if the phases of the schedule are longer than the run; return whether they are."""
    schedule, steps = config.tables["schedule"], config.tables["train"]["steps"]
    phases = {key: n for key, n in schedule.items() if key in ("warmup_steps", "decay_steps")}
    total = sum(phases.values())
    if "total_steps" in schedule or not phases or total < steps or steps < 2:
        return False
    phase_text = " and ".join(f"schedule.{key} = {n:g}" for key, n in phases.items())
    shorter = [f"schedule.{key}={max(int(steps * n / total / 2), 1)}" for key, n in phases.items()]
    keys = ["train.steps", *(f"schedule.{key}" for key in phases)]
    blamed = next((key for key in keys if key in problems.overridden), keys[0])
    hint = f"Set them together, such as {' '.join([f'train.steps={steps}', *shorter])}."
    problems.add(blamed, f"train.steps = {steps} is too few for {phase_text}", hint=hint)
    return True
