"""What a training is going to do, in a few lines: its data, its model, its devices and its schedule."""

from typing import Any

import jax

from nnfunc import check
from nnfunc.config import Config
from nnfunc.data.dataset import count_examples
from nnfunc.device_memory import format_bytes
from nnfunc.training.fitting import Needs


def training_plan(config: Config, needs: Needs) -> str:
    """The lines data, model, mesh with a mesh, and plan. config: of the run. needs: of `dry_run`."""
    lines = [f"data    {_data(config)}", f"model   {_model(config, needs)}"]
    lines += [f"mesh    {line}" for line in needs.mesh]
    return "\n".join([*lines, f"plan    {_steps(config)}"])


def _data(config: Config) -> str:
    data = config.data()
    name = config.tables["data"]["name"]
    if data.window:
        parts = [f"{count_examples(data.arrays):,} training tokens in windows of {data.window - 1}"]
    else:
        parts = [f"{data.size:,} training"]
    for split in ("validation", "test"):
        if getattr(data, split) is not None:
            parts.append(f"{count_examples(getattr(data, split)):,} {split}")
    classes = "" if data.classes is None else f"; {data.classes:,} {'tokens' if data.window else 'classes'}"
    return f"{name}: {', '.join(parts)}{'' if data.window else ' examples'}{classes}"


def _model(config: Config, needs: Needs) -> str:
    text = f"{config.tables['model']['name']}: {check.counted(needs.parameters, 'parameter')}"
    text += f" ({format_bytes(needs.parameter_bytes)})"
    if needs.step_bytes is not None:
        device = jax.local_devices()[0].platform.upper()
        text += f"; a step needs {format_bytes(needs.step_bytes)} of memory, {device}"
    return text


def _steps(config: Config) -> str:
    train, data = config.tables["train"], config.data()
    steps, size = train["steps"], config.tables["data"].get("batch_size", data.batch_size)
    window = data.window - 1 if data.window else 1
    epochs = steps * size * window / count_examples(data.arrays)
    text = f"{steps:,} steps of {check.counted(size, 'example')} ({epochs:.3g} epochs)"
    text += f", {config.tables['optimizer']['name']}"
    schedule = config.tables.get("schedule")
    rate = config.tables["optimizer"].get("learning_rate") if schedule is None else _peak(schedule)
    if isinstance(rate, int | float):
        text += f" at {rate:g}"
    return text + ("" if schedule is None else f", {schedule['name']}")


def _peak(schedule: dict[str, Any]) -> Any:
    """The largest learning rate of the usual schedules."""
    return next((schedule[key] for key in ("peak", "start", "value") if key in schedule), None)
