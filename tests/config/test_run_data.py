"""A run owns what it learned from its data: files may change, move or go away."""

import csv
import json
import os
import signal

import numpy as np
import pytest
from helpers.command_line import copy_run, said, train_in
from helpers.command_line import main_with_warnings as main

import nnfunc as nf
from nnfunc.commands.sweep.live_progress import SweepProgress
from nnfunc.config import load
from nnfunc.config.sweep.load_sweep import load_sweep

ROWS = [f"{i % 7}.5,{1.7e9 + 60 * i},{'cat' if (i % 7 + i // 40) % 2 else 'dog'}" for i in range(80)]
HEAD = "weight,time,kind"
CONFIG = """
data = { name = "table", path = "pets.csv", label = "kind", batch_size = 8 }
model = { name = "mlp", widths = [2, 4, 2] }
objective = { name = "classification" }
optimizer = { name = "sgd", learning_rate = 0.1 }
train = { steps = 12, save_every = 4, loop = "step" }
""".replace("path =", "source =")

pytestmark = pytest.mark.usefixtures("no_compilation_cache")


def write(file, rows, head=HEAD):
    file.write_text("\n".join([head, *rows]) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, config and a finished run, and the test metrics that it printed."""
    folder = tmp_path_factory.mktemp("pets")
    write(folder / "pets.csv", ROWS)
    return train_in(folder, "pets.toml", CONFIG)


@pytest.fixture
def work(trained, tmp_path, monkeypatch):
    """A copy of it, whose config names the copy's data; the current directory is another one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return copy_run(trained, tmp_path / "work")


def test_a_run_is_evaluated_and_resumed_from_any_directory(work, capsys):
    metrics = json.loads((work / "run" / "result.json").read_text())["test"]
    assert main("evaluate", work / "run") == 0
    out, err = said(capsys)
    assert f"loss {metrics['loss']:.4g}" in out
    assert err == ""
    assert main("resume", work / "run") == 0
    assert load(work / "run" / "config.toml").tables["data"]["source"] == str(work / "pets.csv")


CHANGES = {
    "appended": (
        [*ROWS, *[f"{i},{i},cat" for i in range(20)]],
        r"80 examples before, 100 now; 20 are new and in no split, the first is example 81",
    ),
    "deleted": (ROWS[3:], "80 examples before, 77 now; 3 are missing"),
    "edited": (
        [*ROWS[:5], "9.25,1,dog", *ROWS[6:]],
        "1 of 80 examples have changed; the first is example 6 of the file",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_changed_data_is_refused_with_what_changed(work, capsys, change, command):
    rows, message = CHANGES[change]
    write(work / "pets.csv", rows)
    before = sorted(path.name for path in (work / "run").iterdir())
    assert main(command, work / "run") == 2
    _, err = said(capsys)
    assert message in err
    assert err.count("\n") == 1
    assert "--changed-data" in err
    assert sorted(path.name for path in (work / "run").iterdir()) == before
    assert main(command, work / "run", "--changed-data") == 0
    _, err = said(capsys)
    assert message in err


def test_other_orders_of_rows_and_columns_change_nothing(work, capsys):
    main("evaluate", work / "run")
    expected, _ = said(capsys)
    rows = [f"x,{kind},{time},{weight}" for weight, time, kind in (r.split(",") for r in ROWS)]
    write(work / "pets.csv", rows[::-1], "note,kind,time,weight")
    assert main("evaluate", work / "run") == 0
    assert said(capsys) == (expected, "")


def test_appended_rows_change_no_metric(work, capsys):
    main("evaluate", work / "run")
    expected, _ = said(capsys)
    write(work / "pets.csv", [*[f"{i},{i},dog" for i in range(30)], *ROWS])
    assert main("evaluate", work / "run", "--changed-data") == 0
    assert said(capsys)[0] == expected


def test_what_no_run_can_go_on_with(work, capsys):
    for rows, head, message in (
        ([*ROWS, "1,2,bird"], HEAD, "line 82 of column 'kind' has the class 'bird', which the run does not have"),
        (ROWS, "mass,time,kind", "has no column 'weight'; there is 'mass'"),
        (ROWS, "mass,hours,kind", "has no columns 'weight', 'time'; columns that it has instead: 'mass', 'hours'."),
        ([f"{i},{i},{'cat' if i % 2 else 'dog'}" for i in range(90)], HEAD, "none of the 80 examples"),
    ):
        write(work / "pets.csv", rows, head)
        for more in ((), ("--changed-data",)):
            assert main("evaluate", work / "run", *more) == 2
            _, err = said(capsys)
            assert message in err
            assert err.count("\n") == 1


def test_a_missing_training_file_is_named_and_predict_needs_none(work, capsys):
    (work / "pets.csv").unlink()
    assert main("evaluate", work / "run") == 2
    assert f"{work / 'pets.csv'} was not found" in said(capsys)[1]
    write(work / "new.csv", [f"{t},a,{w}" for w, t in ((1.5, 1.7e9), (6.5, 1.7e9 + 600))], "time,x,weight")
    assert main("predict", work / "run", work / "new.csv") == 0
    out, err = said(capsys)
    assert err == ""
    head, *lines = out.splitlines()
    assert head == "class,p_cat,p_dog"
    run = nf.load_run(work / "run")
    logits = run.predict({"weight": [1.5, 6.5], "time": [1.7e9, 1.7e9 + 600]})
    assert [line.split(",")[0] for line in lines] == [run.names[i] for i in logits.argmax(-1)]
    np.testing.assert_array_equal(logits, run.predict(np.array([[1.5, 1.7e9], [6.5, 1.7e9 + 600]])))
    rows = [{"weight": 1.5, "time": 1.7e9}, {"time": 1.7e9 + 600, "weight": 6.5}]
    np.testing.assert_array_equal(logits, run.predict(rows, batch_size=1))
    np.savetxt(work / "plain.csv", [[1.5, 1.7e9], [6.5, 1.7e9 + 600]], delimiter=",")
    np.testing.assert_array_equal(logits, run.predict(str(work / "plain.csv")))
    assert (run.classes, run.names) == (2, ("cat", "dog"))
    assert logits[0].tolist() != logits[1].tolist()


def test_predictions_are_those_of_the_test_metrics(work):
    splits = nf.data.table(work / "pets.csv", label="kind")
    model, params, state = run = nf.load_run(work / "run")
    write(work / "pets.csv", [ROWS[0]])
    raw = [row.split(",") for row in ROWS]
    logits = run.predict(np.array([[float(w), float(t)] for w, t, _ in raw]))
    own = np.asarray(model.apply(params, splits.test[0], state=state))
    assert {tuple(np.round(r, 4)) for r in own} <= {tuple(np.round(r, 4)) for r in logits}


def test_rows_without_a_header_may_have_a_bom_and_quotes(work, capsys):
    (work / "plain.csv").write_text("1,2\n3,4\n")
    (work / "marked.csv").write_text('1,"2"\n3,4\n', encoding="utf-8-sig")
    answers = []
    for name in ("plain.csv", "marked.csv"):
        assert main("predict", work / "run", work / name) == 0
        answers.append(said(capsys))
    assert answers[0] == answers[1]


INPUTS = {
    "no such column": ("mass,time\n1,2\n", "has no column 'weight'; there is 'mass'"),
    "a missing value": ("weight,time\n1,2\n,3\n", "a value is missing at line 3 of column 'weight'"),
    "a word": ("weight,time\n1,2\n1,soon\n", "line 3 of column 'time' should hold a number, got 'soon'"),
    "too few": ("1,2,3\n", "the input should have shape (examples, 2)"),
    "an archive": ("", "should be an .npy file, but is an archive of arrays"),
    "a gap": ("1,2\n1,\n", "line 2 of column 2 should hold a finite number, got ''"),
    "a comment": ("1,2\n# 3,4\n", "line 2 of column 1 should hold a finite number, got '# 3'"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_rows_that_cannot_be_predicted(work, capsys, case):
    text, message = INPUTS[case]
    name = "new.npy" if case == "an archive" else "new.csv"
    (work / name).write_text(text)
    if case == "an archive":
        np.savez(work / "new.npz", x=np.ones(2))
        (work / "new.npz").rename(work / name)
    assert main("predict", work / "run", work / name) == 2
    out, err = said(capsys)
    assert message in err
    assert (out, err.count("\n")) == ("", 1), err


def test_a_run_of_an_older_version_reads_its_data_and_says_so(work, capsys):
    (work / "run" / "data.json").unlink()
    (work / "new.csv").write_text("weight,time\n1,2\n")
    for words in (("evaluate", work / "run"), ("predict", work / "run", work / "new.csv")):
        assert main(*words) == 0
        assert "has no record of its data" in said(capsys)[1]


def test_records_that_were_edited(work, capsys):
    for name, content in {"data.json": "[]", "data_rows.npy": "x", "data.json ": "edited"}.items():
        name, edited = name.strip(), content == "edited"
        before = (work / "run" / name).read_bytes()
        if edited:
            content = before.decode().replace('"time"', '"times"')
        (work / "run" / name).write_text(content)
        assert main("evaluate", work / "run") == 2
        _, err = said(capsys)
        assert name in err
        assert err.count("\n") == 1
        (work / "run" / name).write_bytes(before)


def test_relative_paths_belong_to_the_folder_of_the_config(work, capsys, monkeypatch):
    assert load(work / "pets.toml").tables["data"]["source"] == str(work / "pets.csv")
    write(work.parent / "elsewhere" / "pets.csv", ROWS[:40])
    assert load(work / "pets.toml").tables["data"]["source"] == str(work / "pets.csv")
    assert load(work / "pets.toml", ["data.source=pets.csv"]).tables["data"]["source"] == str(
        work.parent / "elsewhere" / "pets.csv"
    )
    (work / "pets.csv").unlink()
    with pytest.warns(UserWarning, match=r"data.source: pets.csv is not in .*work, the folder"):
        tables = load(work / "pets.toml").tables
    assert tables["data"]["source"] == str(work.parent / "elsewhere" / "pets.csv")
    monkeypatch.setenv("NNFUNC_DATA", str(work.parent / "elsewhere"))
    monkeypatch.chdir(work)
    assert load(work / "pets.toml").tables["data"]["source"] == "pets.csv"


def test_a_sweep_owns_its_data_too(work, capsys, tmp_path):
    words = ("optimizer.learning_rate=[0.1, 0.2]", "--run", work / "sweep")
    assert main("sweep", work / "pets.toml", *words) == 0
    assert main("resume", work / "sweep") == 0
    said(capsys)
    assert main("sweep-best", work / "sweep", "--save", work / "saved") == 0
    assert "source = " in said(capsys)[0]
    write(work / "pets.csv", [*ROWS, "1,1,cat"])
    assert main("resume", work / "sweep") == 2
    assert "80 examples before, 81 now" in said(capsys)[1]
    assert main("resume", work / "sweep", "--changed-data") == 0
    said(capsys)
    assert main("evaluate", work / "saved") == 2
    assert "80 examples before, 81 now" in said(capsys)[1]
    (work / "pets.csv").unlink()
    assert len(nf.load_run(work / "saved").predict([[1.0, 1.7e9]])) == 1


def test_a_sweep_of_relative_paths_resumes_from_any_directory(work, capsys, tmp_path, monkeypatch):
    """One file lies beside the config, the other where the sweep was started."""
    write(tmp_path / "elsewhere" / "more.csv", ROWS[:60])
    swept = 'data.source=["pets.csv", "more.csv"]'
    sources = [str(work / "pets.csv"), str(tmp_path / "elsewhere" / "more.csv")]
    assert load_sweep(work / "pets.toml", [swept]).space == {"data.source": sources}
    call, reports = SweepProgress.__call__, []

    def report_and_stop(self, report):
        call(self, report)
        reports.append(report)
        if len(reports) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(SweepProgress, "__call__", report_and_stop)
        assert main("sweep", work / "pets.toml", swept, "--execution", "loop", "--run", work / "sweep") == 143
    said(capsys)
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    assert main("resume", work / "sweep") == 0
    with (work / "sweep" / "table.csv").open() as file:
        assert sorted(row["data.source"] for row in csv.DictReader(file)) == sorted(sources)
