"""What a run's report shows of its model: held-out rows, or texts that it generates."""

from contextlib import suppress
from typing import Any

import jax
import numpy as np

from nnfunc.base import as_model
from nnfunc.commands.constant_baseline import quantile_levels, restored_target
from nnfunc.commands.evaluate_run import describe_broken
from nnfunc.commands.sample import generate_texts
from nnfunc.config import Config
from nnfunc.config.held_out_rows import held_out_rows, split_rows
from nnfunc.evaluation import baseline
from nnfunc.reports.html_page import render_note
from nnfunc.reports.run.evaluation_section import Evaluation, build_evaluation, sample_section
from nnfunc.reports.run.example_html import InputFormat
from nnfunc.training.task import Task
from nnfunc.training.train_state import TrainState

SAMPLES, TOKENS = 3, 200


def evaluate_for_report(config: Config, task: Task, state: TrainState, threshold: Any = None) -> Evaluation | None:
    """The sections on the test split, or else the validation split; None where outputs have no metrics.

    config: of the run.
    task: of the run.
    state: of the best checkpoint.
    threshold: of the run, or None.
    """
    data = config.data()
    output_type = getattr(task.objective, "output_type", "")
    if output_type == "tokens":
        return _sample(config, task, state)
    split = next((name for name in ("test", "validation") if getattr(data, name) is not None), None)
    if not output_type or split is None:
        return None
    held_out = held_out_rows(config, data, split, task, state.params, state.model_state, threshold)
    rows = np.flatnonzero(held_out.finite())
    broken = describe_broken(held_out, "the metrics and charts leave them out" if len(rows) else "no row has metrics")
    held_out = held_out.take(rows)
    if not len(rows):
        return Evaluation([(f"Metrics on the {split} split", render_note(broken))], {}, "", [])
    target, levels = restored_target(config, data), quantile_levels(config.tables["objective"])
    constants = {} if target is None else baseline(target, held_out, levels=levels)
    x = jax.device_get(split_rows(data, split)[0][0])  # single rows of NumPy's arrays are quick
    row = lambda index: jax.tree.map(lambda array: array[rows[index]], x)
    evaluation = build_evaluation(held_out, split, row, _input_format(config), constants)
    if broken:
        note = ("Outputs that are not finite", render_note(broken))
        evaluation = evaluation._replace(sections=[note, *evaluation.sections])
    return evaluation


def _input_format(config: Config) -> InputFormat:
    preprocessing = config.preprocessing
    facts, codec = preprocessing.facts, preprocessing.codec
    decode = None if codec is None else codec.decode
    return InputFormat(
        preprocessing.image_shape, facts.get("columns"), facts.get("standardise"), decode, facts.get("features")
    )


def _sample(config: Config, task: Any, state: TrainState) -> Evaluation | None:
    """Texts of a language model whose tokenizer the run has; None for a model that cannot generate."""
    codec = config.preprocessing.codec
    if codec is None:
        return None
    prompt, after = codec.decode([0]), repr(codec.decode([0]))
    with suppress(ValueError):  # of a text without line breaks
        if len(codec.encode("\n")):
            prompt, after = "\n", "a line break"
    with suppress(ValueError):
        model = (as_model(task.model), state.params, state.model_state)
        texts = generate_texts(config, codec, *model, prompt, steps=TOKENS, samples=SAMPLES, temperature=0.8)
        note = f"{SAMPLES} texts of {TOKENS} tokens, drawn at temperature 0.8 after {after}."
        return Evaluation([sample_section(texts, note)], {}, "texts", [])
    return None
