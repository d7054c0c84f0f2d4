"""What a run's report says about held-out data: metrics, confusion, curves, residuals, the worst examples."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnfunc import evaluation
from nnfunc.check import counted
from nnfunc.evaluation import HeldOut
from nnfunc.evaluation.readings import ANSWERS, CLASSES, NUMBERS
from nnfunc.reports.charts import Chart
from nnfunc.reports.format import format_metric
from nnfunc.reports.html_page import PageCell, draw_charts, render_note, render_sorted
from nnfunc.reports.run.evaluation_charts import POINTS, confusion_chart, curve_charts, number_charts
from nnfunc.reports.run.example_html import InputFormat, example_card

WORST, PER_CELL, EXAMPLES = 24, 12, 400  # examples: the worst, of a cell, and of all cells
MAX_CLASSES = 60  # of a confusion matrix
RESAMPLES, FEW_ROWS, MANY_ROWS = 1000, 2000, 20_000
RANKED = ("roc_auc", "average_precision")  # slow to resample


class Evaluation(NamedTuple):
    """The parts of a page.

    sections: (title, HTML).
    examples: {cell: HTML of its examples}.
    layout: of the examples.
    charts: of the sections.
    """

    sections: list[tuple[str, str]]
    examples: dict[str, list[str]]
    layout: str
    charts: list[Chart]


def build_evaluation(
    held_out: HeldOut,
    split: str,
    inputs: Callable[[int], Any],
    form: InputFormat,
    baseline: Mapping[str, float] | None = None,
) -> Evaluation:
    """The sections on the rows of a split.

    held_out: outputs and targets.
    split: its name.
    inputs: the index of a row -> its input.
    form: of the inputs.
    baseline: the metrics of always giving the same answer.
    """
    if held_out.output_type not in CLASSES + ANSWERS + NUMBERS or not len(held_out.target):
        return Evaluation([], {}, form.layout, [])
    sections = [(f"Metrics on the {split} split", _metrics(held_out, baseline or {}))]
    charts, examples = [], {}
    answers = _Answers(held_out, inputs, form)
    if held_out.output_type in (*CLASSES, "binary") and held_out.output_type != "tokens":
        content, chart, examples = _confusion(held_out, answers)
        charts += chart
        sections.append(("Confusion", content))
    rows = evaluation.per_class(held_out) if held_out.output_type != "tokens" else []
    if rows:
        sections.append(("Each class", _each_class(rows)))
    if group := curve_charts(held_out):
        charts += group
        sections.append(("Curves of probabilities", draw_charts(group)))
    if held_out.output_type in NUMBERS:
        group = number_charts(held_out)
        charts += group
        count = len(answers.reading.target)
        rows = "Every row" if count <= POINTS else f"{POINTS:,} of the {count:,} rows"
        note = f"{rows} of the {split} split. On the line a prediction equals its target."
        sections.append(("Predictions", render_note(note) + draw_charts(group)))
    sections.append((f"The {WORST} worst", _worst(held_out, answers, split)))
    return Evaluation(sections, examples, form.layout, charts)


def sample_section(texts: Sequence[str], note: str) -> tuple[str, str]:
    """The section of texts that a language model generated."""
    cards = "".join(f'<div class="example"><pre>{html.escape(text)}</pre></div>' for text in texts)
    return "Sample texts", f'{render_note(note)}<div class="examples texts">{cards}</div>'


class _Answers:
    """The examples of a split with what the model says of them."""

    def __init__(self, held_out: HeldOut, inputs: Callable[[int], Any], form: InputFormat):
        self.inputs, self.form, self.row_name = inputs, form, held_out.row_name
        self.reading, self.output_type = held_out.reading(), held_out.output_type
        self.names = _class_names(held_out)

    def card(self, row: int, position: int, note: str) -> str:
        """The example of a row; position: in the reading, which may have several for each row."""
        label = self.row_name(row)
        if self.reading.positions > 1:
            label += f", position {position % self.reading.positions + 1}"
        return example_card(self.inputs(row), self.form, self.says(position), f"{label}{note}")

    def says(self, i: int) -> str:
        reading = self.reading
        if self.output_type in CLASSES:
            return f"{self._name(reading.target[i])} → {self._name(reading.prediction[i])} ({self._sure(i):.0%})"
        if self.output_type == "binary":
            truth, prediction = int(reading.target[i, 0]), int(reading.prediction[i, 0])
            return f"{self._name(truth)} → {self._name(prediction)} ({self._sure(i):.0%})"
        if self.output_type == "labels":
            some = lambda row: ", ".join(self.names[j] for j in np.flatnonzero(row > 0)) or "none"
            return f"{some(reading.target[i])} → {some(reading.prediction[i])}"
        text = lambda row: ", ".join(f"{value:.4g}" for value in row[:4])
        return f"{text(reading.target[i])} → {text(reading.prediction[i])}"

    def _name(self, index: float) -> str:
        return self.names[int(index)] if 0 <= index < len(self.names) else "none"

    def _sure(self, i: int) -> float:
        """The probability of the prediction."""
        probability = self.reading.probability[i]
        if self.output_type == "binary":
            yes = float(probability[0])
            return yes if self.reading.prediction[i, 0] > 0 else 1 - yes
        prediction = int(self.reading.prediction[i])
        return float(probability[prediction]) if prediction >= 0 else math.nan


def _class_names(held_out: HeldOut) -> list[str]:
    if held_out.output_type not in CLASSES + ANSWERS:
        return []
    if held_out.output_type == "tokens":
        return [str(i) for i in range(np.shape(held_out.output)[-1])]
    return [str(row["class"]) for row in evaluation.per_class(held_out)]


def _metrics(held_out: HeldOut, baseline: Mapping[str, float]) -> str:
    """The metrics with their intervals, and those of the baseline."""
    values = evaluation.compute_metrics(held_out)
    count = len(held_out.target)
    resamples = RESAMPLES if count <= FEW_ROWS else RESAMPLES // 5
    names = [name for name in values if count <= MANY_ROWS or name not in RANKED]
    intervals = evaluation.bootstrap(held_out, names, resamples)
    note = f"{counted(count, 'row')}. The 95 % intervals are of {resamples:,} bootstrap resamples of the rows."
    header = ["metric", "value", "95 % interval", *["baseline"] * bool(baseline)]
    rows = []
    for name, value in values.items():
        low, high = intervals.get(name, (math.nan, math.nan))
        ends = f"{format_metric(name, low)} to {format_metric(name, high)}" if math.isfinite(low + high) else ""
        row = [name.replace("_", " "), PageCell(format_metric(name, value), value), ends]
        if baseline:
            constant = baseline.get(name, math.nan)
            row.append(PageCell(format_metric(name, constant), constant) if math.isfinite(constant) else "")
        rows.append(("", row))
    more = " The baseline always gives the same answer, the best one for the training split." if baseline else ""
    return render_note(note + more) + render_sorted("metrics", header, rows)


def _each_class(rows: list[dict[str, Any]]) -> str:
    """A table with a row for each class, label or tag."""
    header = [str(name).replace("_", " ") for name in rows[0]]
    text = lambda value: "" if value != value else f"{value:.4g}"
    table = [
        (
            "",
            [
                str(row["class"]),
                *(PageCell(text(float(value)), float(value)) for name, value in row.items() if name != "class"),
            ],
        )
        for row in rows
    ]
    return render_sorted("classes", header, table)


def _confusion(held_out: HeldOut, answers: _Answers) -> tuple[str, list[Chart], dict[str, list[str]]]:
    """The matrix, the most frequent mistakes, and the examples behind each cell."""
    counts, names, reading = evaluation.confusion(held_out), answers.names, answers.reading
    truth, prediction = (np.reshape(part, -1).astype(int) for part in (reading.target, reading.prediction))
    losses = (
        -np.take_along_axis(reading.log_probability, np.clip(truth, 0, None)[:, None], 1)[:, 0]
        if (held_out.output_type in CLASSES)
        else evaluation.row_losses(held_out)
    )
    examples, budget = {}, EXAMPLES
    mistakes = sorted(zip(*np.nonzero(counts), strict=True), key=lambda cell: (cell[0] == cell[1], -counts[cell]))
    limit = max(2, min(PER_CELL, EXAMPLES // max(len(mistakes), 1)))
    for true, guess in mistakes:
        inside = np.flatnonzero((truth == true) & (prediction == guess) & (reading.counted > 0))
        inside = inside[np.argsort(-losses[inside])][: min(limit, budget)]
        budget -= len(inside)
        note = lambda i: f", loss {losses[i]:.3g}"
        cards = [answers.card(int(i) // reading.positions, int(i), note(i)) for i in inside]
        if cards:
            examples[f"{names[true]}|{names[guess]}"] = cards
    rows = []
    for true, guess in [cell for cell in mistakes if cell[0] != cell[1]][:50]:
        count, key = counts[true, guess], html.escape(f"{names[true]}|{names[guess]}")
        label = html.escape(f"{names[true]} predicted as {names[guess]}")
        button = (
            f'<button type="button" data-examples="{key}" data-title="{label}" data-count="{count:g}">examples</button>'
        )
        fraction = count / counts[true].sum()
        rows.append(
            (
                "",
                [
                    names[true],
                    names[guess],
                    f"{count:g}",
                    PageCell(f"{fraction:.1%}", fraction),
                    PageCell("", None, button),
                ],
            )
        )
    header = ["truth", "prediction", "count", "share of the truth", "examples"]
    table = render_sorted("mistakes", header, rows) if rows else "<p>There is no mistake.</p>"
    note = "Click a cell, or a button below, to see the examples behind it, those with the largest loss first."
    panel = '<div id="examples" role="region" aria-live="polite" aria-label="Examples"></div>'
    if len(names) > MAX_CLASSES:
        return (
            render_note(f"{len(names)} classes: only the most frequent mistakes are shown.") + table + panel,
            [],
            examples,
        )
    chart = confusion_chart(counts, names)
    return render_note("", note) + draw_charts([chart], layout="single") + panel + table, [chart], examples


def _worst(held_out: HeldOut, answers: _Answers, split: str) -> str:
    """The examples with the largest losses: truth, prediction and loss."""
    indices, losses = evaluation.worst(held_out, WORST)
    positions = answers.reading.positions
    cards = []
    for row, loss in zip(indices.tolist(), losses.tolist(), strict=True):
        inside = slice(row * positions, (row + 1) * positions)
        at = row * positions
        if positions > 1 and answers.reading.log_probability is not None:
            truth = np.clip(answers.reading.target[inside].astype(int), 0, None)
            likelihood = np.take_along_axis(answers.reading.log_probability[inside], truth[:, None], 1)[:, 0]
            at += int(np.argmin(np.where(answers.reading.counted[inside] > 0, likelihood, np.inf)))
        cards.append(answers.card(row, at, f", loss {loss:.3g}"))
    note = f"The rows of the {split} split with the largest loss: truth → prediction."
    return render_note(note) + f'<div class="examples {answers.form.layout}">{"".join(cards)}</div>'
