"""`nnfunc evaluate`, thresholds and early stopping from a config, and the config of a distillation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import main
from sklearn.metrics import f1_score, roc_auc_score

import nnfunc as nf
from nnfunc.commands import report_run, run_training
from nnfunc.evaluation import compute_metrics
from nnfunc.runs import metrics_log, status

CONFIG = """
data = { name = "table", source = "rows.csv", label = "ill", validation = 0.2, test = 0.2, batch_size = 32 }
model = { name = "mlp", widths = [3, 8, 1] }
objective = { name = "binary" }
optimizer = { name = "adamw", learning_rate = 5e-2 }
task = { metrics = ["f1", "roc_auc"], threshold = "f1" }
train = { steps = 200, best = "max roc_auc", evaluate_every = 10, patience = 3 }
"""


def write_rows(path, seed, size):
    random = np.random.default_rng(seed)
    x = random.normal(size=(size, 3))
    y = random.random(size) < 1 / (1 + np.exp(3 - 2 * x[:, 0]))
    lines = [
        ",".join(f"{value:.4f}" for value in row) + f",{'yes' if answer else 'no'}"
        for row, answer in zip(x, y, strict=True)
    ]
    path.write_text("a,b,c,ill\n" + "\n".join(lines) + "\n")
    return x, y


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ill")
    write_rows(path / "rows.csv", 0, 600)
    write_rows(path / "more.csv", 1, 200)
    (path / "ill.toml").write_text(CONFIG)
    assert main("train", path / "ill.toml", "--run", path / "run") == 0
    return path


def test_a_run_stops_early_and_says_so(folder):
    rows = metrics_log.read_rows(folder / "run/metrics.jsonl")
    result = json.loads((folder / "run/result.json").read_text())
    (event,) = metrics_log.event_rows(rows)
    assert event.name == "early stop"
    assert result["stopped_early"] == event.step < 200
    state = status.run_state(folder / "run", rows)
    assert (state.name, state.detail) == ("complete", f"stopped early at step {event.step}")
    assert f"Stopped early at step {event.step} of 200" in (folder / "run/report.html").read_text()


def test_the_validation_split_is_not_evaluated_twice(folder, monkeypatch):
    splits, original = [], run_training.split_metrics

    def split_metrics(config, state, split, data):
        splits.append(split)
        return original(config, state, split, data)

    monkeypatch.setattr(run_training, "split_metrics", split_metrics)
    arguments = ["train.steps=20", "train.evaluate_every=5"]
    assert main("train", folder / "ill.toml", *arguments, "--run", folder / "once") == 0
    assert splits == ["test"]
    known = json.loads((folder / "once/result.json").read_text())
    (folder / "once/result.json").unlink()
    splits.clear()
    assert main("resume", folder / "once") == 0  # trains nothing, so it has to evaluate
    assert splits == ["validation", "test"]
    assert json.loads((folder / "once/result.json").read_text())["validation"] == known["validation"]
    splits.clear()  # after a rollback the step of the best checkpoint is evaluated with other parameters
    assert main("train", folder / "ill.toml", *arguments, "train.rollback=1", "--run", folder / "back") == 0
    assert splits == ["validation", "test"]


@pytest.mark.parametrize("test", [0.2, 0])
def test_a_run_without_validation_has_results_and_a_report(folder, test):
    text = CONFIG.replace("validation = 0.2, test = 0.2", f"validation = 0, test = {test}")
    text = text.replace(', threshold = "f1"', "").replace(", patience = 3", "")
    (folder / "none.toml").write_text(text)
    assert main("train", folder / "none.toml", "train.steps=5", "--run", folder / f"none-{test}") == 0
    result = json.loads((folder / f"none-{test}/result.json").read_text())
    assert "validation" not in result
    assert ("test" in result) == bool(test)
    assert (folder / f"none-{test}/report.html").exists()


def test_the_threshold_is_that_of_the_validation_split(folder):
    saved = json.loads((folder / "run/threshold.json").read_text())
    run = nf.load_run(folder / "run")
    assert run.threshold == saved["threshold"]
    held_out = run.held_out("validation")
    assert held_out.threshold == run.threshold
    assert compute_metrics(held_out, ["f1"])["f1"] == pytest.approx(saved["value"])
    best = max(
        f1_score(held_out.target, held_out.reading().probability[:, 0] >= level, zero_division=0)
        for level in np.linspace(0.01, 0.99, 99)
    )
    assert saved["value"] >= best
    assert saved["value"] >= saved["value_at_half"]
    result = json.loads((folder / "run/result.json").read_text())
    test = run.held_out("test")
    probability = test.reading().probability[:, 0]
    assert result["test"]["f1"] == pytest.approx(f1_score(test.target, probability >= run.threshold))
    assert result["test"]["roc_auc"] == pytest.approx(roc_auc_score(test.target, probability), rel=1e-6)
    assert result["baseline"]["test"]["roc_auc"] == 0.5


def test_a_threshold_of_another_step_is_not_used(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    file = tmp_path / "run/threshold.json"
    saved = json.loads(file.read_text())
    file.write_text(json.dumps(saved | {"step": saved["step"] + 10}))
    with pytest.warns(UserWarning, match=rf"is ignored, because the best checkpoint is of step {saved['step']}\."):
        assert nf.load_run(tmp_path / "run").threshold is None


def test_held_out_rows_are_those_of_the_split(folder):
    run = nf.load_run(folder / "run")
    assert run.output_type == "binary"
    rows = (folder / "rows.csv").read_text().splitlines()[1:]
    for split, count in (("train", 360), ("validation", 120), ("test", 120)):
        held_out = run.held_out(split)
        assert len(held_out.target) == len(held_out.ids) == count
        lines = [rows[i].split(",") for i in held_out.ids]
        assert [line[-1] == "yes" for line in lines] == held_out.target.astype(bool).tolist()
        outputs = run.predict([dict(zip("abc", map(float, line[:3]), strict=True)) for line in lines])
        np.testing.assert_allclose(outputs, held_out.output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [80, 120])
def test_everything_fits_the_terminal(folder, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main("evaluate", folder / "run") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[2:])) <= width  # the first lines are for programs
    for part in ("95 % interval", "always no", "By class", "Confusion", "Calibration", "The worst examples", "roc_auc"):
        assert part in text


def test_the_json_has_all_of_it(folder, capsys):
    assert main("evaluate", folder / "run", "--metrics", "f1, roc_auc,brier", "--json", folder / "result.json") == 0
    result = json.loads((folder / "result.json").read_text())
    assert list(result["metrics"]) == ["loss", "f1", "roc_auc", "brier"]
    f1 = result["metrics"]["f1"]
    assert f1["low"] < f1["value"] < f1["high"]
    assert (f1["baseline"], f1["better"]) == (0.0, True)
    assert np.sum(result["confusion"]) == 120
    assert len(result["worst"]) == 24
    assert [row["class"] for row in result["per_class"]] == ["no", "yes"]
    assert result["threshold"] == nf.load_run(folder / "run").threshold


def test_a_file_of_labelled_rows(folder, capsys):
    assert main("evaluate", folder / "run", folder / "more.csv", "--json", folder / "more.json") == 0
    assert "more.csv  loss " in capsys.readouterr().out
    result = json.loads((folder / "more.json").read_text())
    x, y = write_rows(folder / "again.csv", 1, 200)
    rows = [dict(zip("abc", np.round(row, 4), strict=True)) for row in x]
    run = nf.load_run(folder / "run")
    expected = roc_auc_score(y, run.predict(rows)[:, 0])
    assert result["metrics"]["roc_auc"]["value"] == pytest.approx(expected, rel=1e-6)
    assert np.sum(result["confusion"]) == 200


REPEATS = {
    "text_classification": """
data = { name = "text_classification", source = "it.csv", vocab_size = 300, block_size = 8, batch_size = 8 }
model = { name = "text_classifier", vocab_size = 300, classes = 2, dim = 4 }
objective = { name = "classification" }
""",
    "tagging": """
data = { name = "tagging", path = "it.conll", vocab_size = 200, batch_size = 8 }
model = { name = "tagger", vocab_size = 200, classes = 2, dim = 4 }
objective = { name = "tagging" }
""",
}


def write_repeats(name, start=0):
    """60 examples, each tenth of which is in the file twice; the class or the tags of each row of the file."""
    rows = [i for i in range(start, start + 60) for _ in range(1 + (i % 10 == 0))]
    labels = ["ab"[i * i % 3 % 2] for i in rows]
    if name == "tagging":
        text = "".join(f"w{i} {label}\nw {label}\n\n" for i, label in zip(rows, labels, strict=True))
        Path("it.conll" if start == 0 else "other.conll").write_text(text)
    else:
        text = "".join(f"word{i},{label}\n" for i, label in zip(rows, labels, strict=True))
        Path("it.csv" if start == 0 else "other.csv").write_text("text,label\n" + text)
    return rows, labels


@pytest.mark.filterwarnings("ignore:data")  # of the repeats
@pytest.mark.parametrize("name", REPEATS)
def test_the_rows_of_texts_are_those_of_the_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    rows, labels = write_repeats(name)
    Path("it.toml").write_text(
        REPEATS[name] + 'optimizer = { name = "sgd", learning_rate = 0.1 }\ntrain = { steps = 2 }'
    )
    assert main("train", "it.toml", "--run", "run") == 0
    run = nf.load_run("run")
    ids = []
    for split in ("train", "validation", "test"):
        held_out = run.held_out(split)
        target = held_out.target.reshape(len(held_out.target), -1)[:, 0]
        assert [labels[i] for i in held_out.ids] == [run.names[label] for label in target]
        ids += held_out.ids.tolist()
    assert sorted(ids) == [i for i in range(len(rows)) if rows[i] not in rows[:i]]


@pytest.mark.filterwarnings("ignore:data")
@pytest.mark.parametrize("name", REPEATS)
def test_the_rows_of_another_file_are_its_own(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_repeats(name)
    Path("it.toml").write_text(
        REPEATS[name] + 'optimizer = { name = "sgd", learning_rate = 0.1 }\ntrain = { steps = 2 }'
    )
    assert main("train", "it.toml", "--run", "run", "data.test=0", "data.validation=12") == 0
    rows, _ = write_repeats(name, start=100)
    lines = {"text_classification": "other.csv", "tagging": "other.conll"}[name]
    assert main("evaluate", "run", lines, "--json", "it.json") == 0
    worst = [row["row"] for row in json.loads(Path("it.json").read_text())["worst"]]
    assert len(worst) == 24
    assert all(rows[i] not in rows[:i] for i in worst)
    blank = "\n" if name == "text_classification" else "\n\n"
    text = Path(lines).read_text().strip().split(blank)
    head = 1 if name == "text_classification" else 0
    Path(lines).write_text(blank.join(dict.fromkeys(text[: 48 + head + 5])) + blank)  # as many as training rows
    assert main("evaluate", "run", lines, "--json", "it.json") == 0
    assert max(row["row"] for row in json.loads(Path("it.json").read_text())["worst"]) < 48


def test_the_train_split(folder, capsys):
    assert main("evaluate", folder / "run", "--split", "train") == 0
    assert "(360 examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--metrics", "f2"), "evaluate: metrics should be names of metrics of outputs of the type 'binary', got 'f2'"),
        (("none.csv",), "none.csv does not exist"),
        (("--split", "tset"), "'tset'"),
    ],
)
def test_mistakes_of_evaluate(folder, capsys, arguments, message):
    assert main("evaluate", folder / "run", *arguments) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    "change, message",
    [
        ('task.metrics=["f2"]', "task: metrics should be names of metrics of outputs of the type 'binary', got 'f2'"),
        ("data.validation=0", "task.threshold: is chosen on the validation split, and the data has none"),
        ("train.patience=0", "patience should be at least 1, got 0"),
        ("train.best=max f3", "best should name a validation metric, got 'f3'"),
        ("task.threshold=roc_auc", "task.threshold: should be one of"),
        (
            "objective.name=gaussian",
            "task: metrics should be names of metrics of outputs of the type 'deviation', got 'f1'",
        ),
    ],
)
def test_mistakes_of_a_config(folder, capsys, change, message):
    assert main("train", folder / "ill.toml", change) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_resume_goes_on_after_an_early_stop(folder, tmp_path, capsys):
    change = ("objective.pos_weight=2.0", "optimizer.learning_rate=0.1")
    assert main("train", folder / "ill.toml", "--run", tmp_path / "run", *change) == 0
    stopped = json.loads((tmp_path / "run/result.json").read_text())["stopped_early"]
    assert main("resume", tmp_path / "run") == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result.get("stopped_early", 200) > stopped
    assert result["first"] == stopped


def test_a_student_learns_from_a_run(tmp_path, capsys):
    tables = """
    data = { name = "digits", batch_size = 64 }
    model = { name = "mlp", widths = [64, 16, 10] }
    optimizer = { name = "adamw", learning_rate = 1e-2 }
    train = { steps = 30 }
    """
    (tmp_path / "teacher.toml").write_text(tables + '\nobjective = { name = "classification" }')
    student = 'objective = { name = "distillation", run = "teacher", temperature = 3.0, alpha = 0.9 }'
    (tmp_path / "student.toml").write_text(tables.replace("16, 10", "8, 10") + student)
    assert main("train", tmp_path / "teacher.toml", "--run", tmp_path / "teacher") == 0
    assert main("train", tmp_path / "student.toml", "--run", tmp_path / "student") == 0
    expected = nf.load_run(tmp_path / "teacher").held_out("test").output
    (tmp_path / "teacher").rename(tmp_path / "moved")  # the student has a copy
    run = nf.load_run(tmp_path / "student")
    held_out = run.held_out("test")
    assert held_out.output_type == "classes"
    capsys.readouterr()
    assert main("evaluate", tmp_path / "student") == 0
    agreement = np.mean(held_out.output.argmax(-1) == expected.argmax(-1))
    assert f"agreement {agreement:.4g}" in capsys.readouterr().out
    assert main("train", tmp_path / "student.toml", "objective.run=nowhere") == 2
    assert "objective: run should be the folder of a run" in capsys.readouterr().err


def test_contrastive_takes_the_table_augment(tmp_path, capsys):
    (tmp_path / "views.toml").write_text("""
    data = { name = "digits", batch_size = 32 }
    model = { name = "mlp", widths = [64, 32, 8] }
    objective = { name = "contrastive", temperature = 0.2 }
    optimizer = { name = "adamw", learning_rate = 1e-3 }
    augment = { shift = { pixels = 1 }, noise = { std = 0.05 } }
    train = { steps = 60 }
    """)
    assert main("train", tmp_path / "views.toml", "--run", tmp_path / "run") == 0
    rows = metrics_log.read_rows(tmp_path / "run/metrics.jsonl")
    _, losses = metrics_log.metric_series(rows, "validation", "loss")
    assert losses[-1] < losses[0]
    assert main("evaluate", tmp_path / "run") == 0
    assert nf.load_run(tmp_path / "run").held_out("test").output_type == ""
    (tmp_path / "one.toml").write_text((tmp_path / "views.toml").read_text().replace("augment", "# augment"))
    capsys.readouterr()
    assert main("train", tmp_path / "one.toml") == 2
    assert "two views of an example need an augmentation" in capsys.readouterr().err


TEXT = """
data = { name = "text", path = "words.txt", block_size = 16, batch_size = 8 }
model = { name = "rnn_lm", vocab_size = 300, dim = 8 }
objective = { name = "language_modelling" }
optimizer = { name = "adamw", learning_rate = 1e-2 }
task = { metrics = ["perplexity", "bits_per_character"] }
train = { steps = 10, best = "min bits_per_character" }
"""


def test_bits_of_characters(tmp_path, capsys):
    (tmp_path / "words.txt").write_text("to be or not to be, that is the question. " * 60)
    (tmp_path / "text.toml").write_text(TEXT)
    assert main("train", tmp_path / "text.toml", "--run", tmp_path / "run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("step ") and " bits_per_character " in line for line in lines)  # while it trains
    validation = json.loads((tmp_path / "run/result.json").read_text())["validation"]
    assert validation["perplexity"] == pytest.approx(np.exp(validation["loss"]), rel=1e-5)
    assert validation["bits_per_character"] == pytest.approx(validation["loss"] / np.log(2), rel=1e-5)
    assert main("evaluate", tmp_path / "run", "--split", "validation") == 0
    printed = capsys.readouterr().out
    assert "question" in printed.partition("The worst examples")[2]  # their text
    assert main("train", tmp_path / "text.toml", "data.codec=bytes") == 2
    assert "task.metrics: bits_per_character needs tokens that are characters" in capsys.readouterr().err


NUMBERS = """
data = { name = "table", source = "prices.csv", label = "price", task = "regression", batch_size = 32 }
model = { name = "mlp", widths = [1, 1] }
objective = { name = "regression" }
optimizer = { name = "sgd", learning_rate = 1e-2 }
task = { metrics = ["mape"] }
train = { steps = 1 }
"""
QUANTILES = '"regression", loss = "quantile", quantiles = [0.25, 0.75, 0.95]'


@pytest.mark.parametrize(
    ("data", "widths", "objective"),
    [
        (", scale_target = true }\nmodel", "[1, 1]", '"regression"'),
        (", log_target = true }\nmodel", "[1, 1]", '"regression"'),
        (" }\nmodel", "[1, 3]", QUANTILES),
    ],
)
def test_reports_and_evaluations_have_the_same_baseline(tmp_path, monkeypatch, capsys, data, widths, objective):
    random = np.random.default_rng(0)
    rows = [f"{x:.4f},{1e5 * (5 + x):.2f}" for x in random.normal(size=100)]
    (tmp_path / "prices.csv").write_text("\n".join(["size,price", *rows]) + "\n")
    config = (
        NUMBERS.replace(" }\nmodel", data)
        .replace("[1, 1]", widths)
        .replace('"regression" }\nopt', f"{objective} }}\nopt")
    )
    (tmp_path / "prices.toml").write_text(config)
    baselines = []
    build = report_run.build_evaluation
    monkeypatch.setattr(report_run, "build_evaluation", lambda *args: baselines.append(args[-1]) or build(*args))
    assert main("train", tmp_path / "prices.toml", "--run", tmp_path / "run") == 0
    assert main("evaluate", tmp_path / "run", "--json", tmp_path / "result.json") == 0
    metrics = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert len(baselines) == 1
    assert baselines[0]["mape"] < 1
    expected = {name: row["baseline"] for name, row in metrics.items() if name != "loss"}
    assert baselines[0] == pytest.approx(expected)
