"""What is read of metrics.jsonl: whole and growing files, damaged ones, and every layer's figures."""

import json
import math

import numpy as np
import pytest
from helpers import sample_runs
from helpers.metric_rows import ROWS
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfunc.runs import diagnostics, metrics_log, status
from nnfunc.runs.tail import LogFollower

TRAIN = {"split": "train", "step": 1, "seconds": 1.0, "loss": 2.0}


def line(**entries):
    return json.dumps(TRAIN | entries) + "\n"


# reading


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '{"split": "train"}',
        '{"split": 3, "step": 1}',
        '{"step": 1}',
        '{"split": "train", "step": "1"}',
        '{"split": "train", "step": true}',
        '{"split": "train", "step": NaN}',
        '{"split": "train", "step": -1}',
        "[" * 100_000,
        '{"split": "train", "step": 1' + "0" * 400 + "}",
    ],
)
def test_what_is_no_row_is_left_out(text, tmp_path):
    assert metrics_log.parse_row(text) is None
    file = tmp_path / "metrics.jsonl"
    file.write_text(line() + text + "\n" + line(step=2) + line(step=3)[:-1])
    assert [row["step"] for row in metrics_log.read_rows(file)] == [1, 2, 3]


def test_a_file_that_is_not_there_has_no_rows(tmp_path):
    assert metrics_log.read_rows(tmp_path / "metrics.jsonl") == []


def test_splits_that_are_not_wanted_are_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    tables = '"parameters": {}, "activations": {}'
    file.write_text(
        line() + f'{{"split": "layers", "step": 1, {tables}}}\n{{"step": 1, "split": "layers", {tables}}}\n'
    )
    assert len(metrics_log.read_rows(file)) == 3
    assert [row["split"] for row in metrics_log.read_rows(file, without=("layers",))] == ["train"]


def test_what_should_be_a_number_and_is_not_becomes_none():
    row = {"split": "train", "step": 3, "loss": "high", "accuracy": True, "gradient_norm": 10**400, "other": [1.0]}
    none = dict.fromkeys(("loss", "accuracy", "gradient_norm", "other"))
    assert metrics_log.parse_row(json.dumps(row)) == {"split": "train", "step": 3} | none
    event = {"split": "event", "step": 3, "seconds": 1.5, "event": "rollback", "message": "to step 2"}
    assert metrics_log.parse_row(json.dumps(event)) == event


@pytest.mark.parametrize("damage", [{"parameters": None}, {"activations": [1]}, {"parameters": {"w": 3}}])
def test_a_row_of_layers_needs_its_tables(damage):
    row = layers_row(1, w={"gradient_norm": 1.0})
    assert metrics_log.parse_row(json.dumps(row)) == row
    assert metrics_log.parse_row(json.dumps(row | damage)) is None
    del row["activations"]
    assert metrics_log.parse_row(json.dumps(row)) is None


def test_a_series_has_finite_values_in_order_the_later_of_two():
    values = [(3, 1.0), (1, 2.0), (2, math.nan), (4, "x"), (5, True), (6, None), (3, 5.0)]
    rows = [TRAIN | {"step": step, "loss": value} for step, value in values]
    steps, found = metrics_log.metric_series(rows, "train", "loss")
    assert steps.tolist() == [1, 3]
    assert found.tolist() == [2.0, 5.0]
    assert metrics_log.metric_names(rows, "train") == ["loss"]


def test_rate_and_elapsed_bear_a_resume():
    times = [(10, 1.0), (20, 2.0), (30, 3.0), (40, 0.5), (50, 1.0), (60, 1.5)]
    rows = [TRAIN | {"step": step, "seconds": seconds} for step, seconds in times]
    assert metrics_log.steps_per_second(rows) == 20.0  # of the second process alone
    assert metrics_log.steps_per_second(rows[:3]) == 10.0
    assert math.isnan(metrics_log.steps_per_second(rows[:1]))
    assert metrics_log.training_seconds(rows) == 4.5


# a file that grows


def test_a_follower_waits_for_the_end_of_a_line(tmp_path):
    follower = LogFollower(tmp_path / "metrics.jsonl")
    assert not follower.poll()
    with follower.path.open("w") as file:
        file.write(line() + line(step=2)[:20])
        file.flush()
        assert follower.poll()
        assert [row["step"] for row in follower.rows] == [1]
        assert not follower.poll()
        file.write(line(step=2)[20:])
        file.flush()
        assert follower.poll()
        assert [row["step"] for row in follower.rows] == [1, 2]
    follower.path.unlink()
    assert follower.poll()
    assert follower.rows == []


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize("longer", [True, False])
def test_a_follower_rereads_a_file_that_was_cut_back(tmp_path, replaced, longer):
    follower = LogFollower(tmp_path / "metrics.jsonl")
    follower.path.write_text(line() + line(step=2) + line(step=3))
    follower.poll()
    text = line() + "".join(line(step=step, loss=7.0) for step in ((5, 6, 7, 8) if longer else (5,)))
    if replaced:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(follower.path)
    else:
        follower.path.write_text(text)
    assert follower.poll()
    assert [row["step"] for row in follower.rows] == [1, 5, 6, 7, 8][: 5 if longer else 2]


def test_a_follower_reads_what_read_reads(tmp_path):
    rows = sample_runs.metrics(200)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    follower = LogFollower(tmp_path / "metrics.jsonl")
    for place in range(0, len(text) + 4999, 4999):
        follower.path.write_bytes(text[:place])
        follower.poll()
    assert follower.rows == metrics_log.read_rows(follower.path) == rows


# layers


def layers_row(step, part="parameters", **values):
    return {"split": "layers", "step": step, "parameters": {}, "activations": {}, part: values}


def test_layers_are_a_matrix_in_natural_order():
    rows = [
        layers_row(1, **{"blocks/10/w": {"n": 3.0}, "blocks/2/w": {"n": 2.0}}),
        layers_row(2, **{"blocks/2/w": {"n": math.inf}, "head": {"n": "x"}}),
        layers_row(4, **{"blocks/10/w": {"n": 5.0}}),
    ]
    found = metrics_log.layer_series(rows, "parameters", "n")
    assert found.paths == ["blocks/2/w", "blocks/10/w"]
    assert found.steps.tolist() == [1, 4]
    np.testing.assert_array_equal(found.values, [[2.0, np.nan], [3.0, 5.0]])
    in_file_order = [
        layers_row(1, **{"b/2": {"n": None}, "a/1": {"n": 1.0}}),
        layers_row(2, **{"b/2": {"n": 1.0}, "a/1": {"n": 1.0}}),
    ]
    assert metrics_log.layer_series(in_file_order, "parameters", "n").paths == ["b/2", "a/1"]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        [0, 1],
        [0, 1, []],
        [0, 1, [0, 0]],
        [1, 0, [1]],
        [0, math.inf, [1]],
        [0, 1, [-1, 2]],
        [0, 1, [[1]]],
        [0, 1, [[1], [1, 2]]],
        [0, 1, ["1"]],
        [0, 1, [math.nan]],
        ["0", 1, [1]],
        [0, 1, 3],
    ],
)
def test_what_is_no_histogram_is_left_out(entry):
    good = layers_row(1, a={"h": [0, 1, [1, 2]]})
    found = metrics_log.layer_histograms([good, layers_row(2, a={"h": entry})], "parameters", "h")
    assert found["a"].steps.tolist() == [1]
    assert found["a"].counts.tolist() == [[1, 2]]


# what stands out


def kinds(rows):
    return [finding.name for finding in diagnostics.find_diagnoses(rows)]


def test_a_healthy_run_has_no_findings():
    assert diagnostics.find_diagnoses(sample_runs.metrics()) == []
    assert diagnostics.find_diagnoses([]) == []


def test_a_sick_run_has_each_with_its_layer_and_threshold():
    found = {finding.name: finding for finding in diagnostics.find_diagnoses(sample_runs.metrics(sick=True))}
    assert list(found) == ["dead units", "vanishing gradients", "gradient spike", "large updates"]
    assert found["dead units"].paths == ["hidden_1/act"]
    assert found["dead units"].threshold == "more than 50%"
    assert found["vanishing gradients"].paths == ["hidden_0/linear/weight"]
    assert "1/1,000 of the median" in found["vanishing gradients"].threshold
    assert "300 up to step 600" in found["gradient spike"].message
    assert found["large updates"].paths == ["hidden_1/linear/weight"]
    assert "0.001" in found["large updates"].threshold


@pytest.mark.parametrize(
    "name, at, beyond, kind",
    [
        ("dead", 0.5, 0.51, "dead units"),
        ("saturated", 0.5, 0.51, "saturated units"),
        ("deviation", 1e-3, 0.9e-3, "vanishing activations"),
        ("deviation", 1e3, 1.1e3, "exploding activations"),
    ],
)
def test_thresholds_of_activations(name, at, beyond, kind):
    assert kinds([layers_row(1, "activations", a={name: at})]) == []
    assert kinds([layers_row(1, "activations", a={name: beyond})]) == [kind]


@pytest.mark.parametrize(
    "gradient, expected",
    [
        (1.1e-3, []),
        (0.9e-3, ["vanishing gradients"]),
        (0.0, ["vanishing gradients"]),
        (0.9e3, []),
        (1.1e3, ["exploding gradients"]),
    ],
)
def test_thresholds_of_gradients(gradient, expected):
    others = {str(i): {"gradient_norm": 1.0} for i in range(4)}
    assert kinds([layers_row(1, **others, x={"gradient_norm": gradient})]) == expected


@pytest.mark.parametrize(
    "ratio, path, expected",
    [
        (1.1e-4, "w", []),
        (0.9e-4, "w", ["small updates"]),
        (0.9e-2, "w", []),
        (1.1e-2, "w", ["large updates"]),
        (1.0, "a/bias", []),
    ],
)
def test_thresholds_of_updates(ratio, path, expected):
    assert kinds([layers_row(1, **{path: {"update_ratio": ratio}})]) == expected


def test_updates_are_judged_while_the_rate_is_high():
    rates = [(1, 0.1), (2, 1.0), (3, 0.6), (4, 0.01), (5, 0.0)]
    rows = [TRAIN | {"step": step, "learning_rate": rate} for step, rate in rates]
    rows += [layers_row(step, w={"update_ratio": 1e-3 * rate}) for step, rate in rates]
    assert kinds(rows) == []
    assert diagnostics.median_update_ratios(rows).values[0, 0] == pytest.approx(0.8e-3)


def test_what_is_small_by_design_is_no_finding():
    others = {str(i): {"gradient_norm": 1.0, "update_ratio": 1e-3} for i in range(4)}
    rows = [
        layers_row(step, **others, **{"key/bias": {"gradient_norm": 1e-9}}, frozen={"update_ratio": 0.0})
        for step in (1, 2)
    ]
    rows += [TRAIN | {"step": step, "gradient_norm": 5.0 * 0.9**step} for step in range(100)]  # it learns
    assert kinds(rows) == []
    assert kinds([*rows, TRAIN | {"step": 100, "gradient_norm": 0.5}]) == ["gradient spike"]


def test_steps_of_a_frozen_layer_are_no_finding():
    rows = [layers_row(step, w={"update_ratio": 1e-3 * (step > 2)}) for step in (1, 2, 3)]
    assert kinds(rows) == []
    assert diagnostics.median_update_ratios(rows).values[0, 0] == 1e-3


def test_the_worst_layers_come_first():
    rows = [layers_row(1, a={"update_ratio": 1e-3}, b={"update_ratio": 1.0}, c={"update_ratio": 1e-5})]
    paths, values = diagnostics.rank_layers(rows, "parameters", ("update_ratio", "weight_norm"))
    assert paths == ["b", "c", "a"]
    assert values[0, 0] == 1.0
    assert np.isnan(values[:, 1]).all()


# the state of a run


def test_the_state_of_a_run(tmp_path):
    import fcntl

    rows = sample_runs.metrics(100, done=50)
    run = sample_runs.make(tmp_path / "run", rows)
    assert status.run_state(run, rows).name == "stopped"
    (run / "lock").touch()
    assert status.run_state(run, rows).name == "stopped"
    with (run / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert status.run_state(run, rows).name == "running"
    assert status.run_state(run, rows).name == "stopped"
    told = {"split": "event", "step": 50, "event": "diverged", "message": "loss is nan"}
    assert status.run_state(run, [*rows, told]) == ("diverged", "loss is nan")
    assert status.run_state(run, [*rows, told, TRAIN]).name == "stopped"  # it was gone on with
    assert status.run_state(run, [*rows, TRAIN | {"loss": math.nan}]).name == "diverged"
    (run / "result.json").write_text("{}x")
    assert status.run_state(run, rows) == ("broken", "result.json cannot be read")
    (run / "result.json").write_text(json.dumps(sample_runs.RESULT))
    assert status.run_state(run, rows).name == "complete"
    (run / "config.toml").write_text("a = [")
    assert status.run_state(run, rows).detail.startswith("config.toml cannot be read: ")
    assert "it has no config.toml" in status.run_state(tmp_path, []).detail


def test_the_best_figure_is_by_the_metric_of_the_config():
    rows = [
        {"split": "validation", "step": step, "loss": loss, "accuracy": accuracy}
        for step, loss, accuracy in ((1, 0.5, 0.8), (2, 0.4, 0.9), (3, 0.45, 0.95))
    ]
    assert status.best_value(rows, {}) == ("loss", 0.4, 2)
    assert status.best_value(rows, {"train": {"best": "max accuracy"}}) == ("accuracy", 0.95, 3)
    assert status.best_value(rows, {"train": {"best": "max f1"}}) is None
    assert status.best_value([], {"train": 3}) is None


def test_parameters_are_counted_from_a_checkpoint(tmp_path):
    assert status.parameter_count(tmp_path) is None
    leaves = {"state/params/w": {"shape": [3, 4]}, "state/opt_state/w": {"shape": [9]}}
    folder = tmp_path / "checkpoints" / "step-00000010"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"leaves": leaves}))
    assert status.parameter_count(tmp_path) == 12
    (tmp_path / "checkpoints" / "best").mkdir()
    leaves = {"params/w": {"shape": [3, 5]}, "params/b": {"shape": []}, "step": {"shape": []}}
    text = json.dumps({"leaves": leaves})
    (tmp_path / "checkpoints" / "best" / "manifest.json").write_text(text)
    assert status.parameter_count(tmp_path) == 16


# anything at all


@settings(max_examples=50)
@given(st.lists(ROWS, max_size=8), st.integers(0, 60))
def test_no_row_makes_the_readers_fail(rows, cut):
    text = "\n".join(json.dumps(row) for row in rows)
    parsed = [metrics_log.parse_row(line) for line in text[: len(text) - cut].split("\n")]
    parsed = [row for row in parsed if row is not None]
    diagnostics.find_diagnoses(parsed)
    diagnostics.rank_layers(parsed, "parameters", ("gradient_norm", "update_ratio"))
    metrics_log.steps_per_second(parsed)
    metrics_log.training_seconds(parsed)
    metrics_log.event_rows(parsed)
    status.best_value(parsed, {})
    metrics_log.layer_histograms(parsed, "activations", "histogram")
