"""The command line as a user meets it: what it writes, prints, refuses, and the exit codes.

Most commands run in this process, where a compiled program is kept from test to test; processes are
started only for what cannot be seen from inside.
"""

import html.parser
import io
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command_line import CONFIG, content, main, rows, run_process
from PIL import Image

import nnfunc as nf
from nnfunc.commands.constant_baseline import constant_prediction
from nnfunc.config import load

pytestmark = pytest.mark.usefixtures("no_compilation_cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with small.toml and a finished run of it, runs/small-1."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "stdout", io.StringIO())
        assert main("train", "small.toml") == 0
        (folder / "printed").write_text(sys.stdout.getvalue())
    return folder


@pytest.fixture
def work(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def restored(folder, name="best"):
    """The config of a run and the state of a checkpoint, read with the library alone."""
    config = load(folder / "config.toml")
    like = jax.eval_shape(nf.trainer(config.build).init, config.hypers, config.key())
    part = "" if name == "best" else "state"
    return config, nf.checkpoint.load(folder / "checkpoints" / name, like, part=part)


# train


def test_train_fills_a_folder(work):
    run = work / "runs" / "small-1"
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.toml",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "curves.png",
        "report.html",
        "result.json",
    }
    assert load(run / "config.toml") == load(work / "small.toml")
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert checkpoints == ["best", "step-00000030", "step-00000035", "step-00000040"]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["command"] == "nnfunc train small.toml"
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["xla_flags"] == os.environ.get("XLA_FLAGS", "")


def test_metrics_have_a_line_a_report(work):
    found = rows(work / "runs" / "small-1")
    for split, every in (("train", 4), ("validation", 8)):
        assert [row["step"] for row in found if row["split"] == split] == [*range(every, 41, every)]
    assert {"loss", "accuracy", "learning_rate", "gradient_norm", "seconds"} <= set(found[0])
    losses = [row["loss"] for row in found if row["split"] == "validation"]
    assert losses[-1] < 0.8 * losses[0]


def test_train_ends_with_the_test_accuracy_and_the_report(work):
    *lines, trained, test, report = (work / "printed").read_text().splitlines()
    accuracy = json.loads((work / "runs/small-1/result.json").read_text())["test"]["accuracy"]
    assert re.fullmatch(r"trained 40 steps in [\d.]+ (s|min) \(best at step \d+\)", trained)
    assert re.fullmatch(rf"test    loss \d\.\d+  accuracy {accuracy:.2%}", test)
    assert report == "report  runs/small-1/report.html"
    pattern = (
        r"step +\d+/40 \| train loss [\d.]+ acc [\d.]+% \| val loss [\d.]+ acc [\d.]+%"
        r" \| [\d.,]+ steps/s \| \d+:\d\d left"
    )
    data, model, plan, *lines = lines
    assert data == "data    digits: 1,257 training, 180 validation, 360 test examples; 10 classes"
    params = 64 * 12 + 2 * 12 + 12 * 10 + 10  # batch norm in place of a bias
    assert re.fullmatch(rf"model   mlp: {params} parameters \(3.69 kB\); a step needs .* of memory, CPU", model), model
    assert plan == "plan    40 steps of 32 examples (1.02 epochs), adamw at 0.01, warmup_cosine"
    assert len(lines) == 5
    assert all(re.fullmatch(pattern, line) and len(line) <= 100 for line in lines), lines


def test_curves_are_a_picture(work):
    raw = (work / "runs/small-1/curves.png").read_bytes()
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(io.BytesIO(raw)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 600
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50  # not an empty sheet


class Page(html.parser.HTMLParser):
    """What a page opens, closes and links to."""

    void = {"meta", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.open += [] if tag in self.void else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_needs_no_other_file(work):
    run = work / "runs" / "small-1"
    text, page = (run / "report.html").read_text(), Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert {link[:22] for link in page.links} == {"data:image/png;base64,"}
    assert not re.search(r"https?:|url\(|@import|<script[^>]*src|<link", text)
    words = " ".join(page.text)
    result = json.loads((run / "result.json").read_text())
    for figure in (f"{result['test']['accuracy']:.2%}", f"{result['test']['loss']:.4g}"):
        assert figure in words
    for word in ("small-1", "40 steps", "schedule.peak", "0.01", jax.__version__):
        assert word in words


def test_runs_are_numbered(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main("train", work / "small.toml", "train.steps=8", "seed=3") == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["small-1", "small-2"]
    one, two = (tmp_path / "runs" / name / "checkpoints" for name in ("small-1", "small-2"))
    names = [path.name for path in (one / "step-00000008").glob("*.safetensors")]
    assert (one / "step-00000008" / names[0]).read_bytes() == (two / "step-00000008" / names[0]).read_bytes()
    assert tomllib.loads((tmp_path / "runs/small-1/config.toml").read_text())["seed"] == 3


def test_a_folder_that_holds_something_is_left_alone(work, tmp_path, capsys):
    before = content(work)
    assert main("train", "small.toml", "--run", "runs/small-1") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "runs/small-1 exists already" in message
    assert "nnfunc resume runs/small-1" in message
    assert content(work) == before
    (tmp_path / "thesis.txt").write_text("all of it")
    assert main("train", "small.toml", "--run", tmp_path) == 2
    assert content(tmp_path) == {"thesis.txt": b"all of it"}


def test_an_empty_folder_may_be_given(work, tmp_path, capsys):
    assert main("train", "small.toml", "train.steps=8", "--run", tmp_path) == 0
    assert f"report  {tmp_path}/report.html" in capsys.readouterr().out


# summary, evaluate, predict


def test_summary_counts(work, capsys):
    assert main("summary", "small.toml") == 0
    expected = nf.summary(load("small.toml").build(load("small.toml").hypers).model, (32, 64))
    assert capsys.readouterr().out == f"{expected}\n"
    assert main("summary", "small.toml", "model.widths=[64, 7, 10]") == 0
    assert re.search(r"hidden_0/linear +linear +float32\[32,7\] +448 ", capsys.readouterr().out)


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("which, name", [("best", "best"), ("last", "step-00000040")])
def test_evaluate_equals_direct_computation(work, capsys, split, which, name):
    assert main("evaluate", "runs/small-1", "--split", split, "--checkpoint", which) == 0
    printed = capsys.readouterr().out
    config, state = restored(work / "runs/small-1", name)
    x, labels = getattr(nf.data.digits(), split)
    logits = config.build(config.hypers).model.apply(state.params, x, state=state.model_state)
    loss = float(nf.losses.cross_entropy(logits, labels).mean())
    accuracy = float(np.mean(np.argmax(logits, -1) == labels))
    expected = f"{split}  loss {loss:.4g}  accuracy {accuracy:.2%}   "
    assert printed.startswith(f"{expected}({len(labels)} examples, step {int(state.step)})\n\nmetric ")


def test_load_run_gives_the_model_that_was_trained(work):
    model, params, state = nf.load_run("runs/small-1")
    _, best = restored(work / "runs/small-1", "best")
    x = nf.data.digits().test[0]
    config = load("runs/small-1/config.toml")
    expected = config.build(config.hypers).model.apply(best.params, x, state=best.model_state)
    np.testing.assert_array_equal(model.apply(params, x, state=state), expected)


def test_the_report_has_the_figures_of_evaluate(work, capsys):
    main("evaluate", "runs/small-1")
    test = json.loads((work / "runs/small-1/result.json").read_text())["test"]
    assert f"loss {test['loss']:.4g}  accuracy {test['accuracy']:.2%}" in capsys.readouterr().out


@pytest.fixture(scope="module")
def pixels():
    return nf.data.digits().test[0][:21]


@pytest.fixture(scope="module")
def logits(place, pixels):
    config, state = restored(place / "runs/small-1")
    model = config.build(config.hypers).model
    return np.asarray(model.apply(state.params, pixels, state=state.model_state))


def read_csv(text):
    names, *lines = text.splitlines()
    return names.split(","), np.array([[float(word) for word in line.split(",")] for line in lines])


@pytest.mark.parametrize("kind", ["npy", "csv", "float64"])
def test_predict_equals_direct_computation(work, tmp_path, capsys, pixels, logits, kind):
    if kind == "csv":
        np.savetxt(tmp_path / "x.csv", pixels, delimiter=",")
    else:
        np.save(tmp_path / "x.npy", pixels.astype("float64" if kind == "float64" else "float32"))
    file = tmp_path / ("x.csv" if kind == "csv" else "x.npy")
    assert main("predict", "runs/small-1", file) == 0
    names, table = read_csv(capsys.readouterr().out)
    assert names == ["class", *(f"p{i}" for i in range(10))]
    np.testing.assert_array_equal(table[:, 0], logits.argmax(-1))
    np.testing.assert_allclose(table[:, 1:], jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)


def test_predict_writes_files(work, tmp_path, capsys, pixels, logits):
    np.save(tmp_path / "x.npy", pixels)
    for name in ("y.csv", "y.npy"):
        words = ("predict", "runs/small-1", tmp_path / "x.npy", "--output", tmp_path / name)
        assert main(*words) == 0
    assert capsys.readouterr().out == ""
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), logits, rtol=1e-5, atol=1e-6)
    _, table = read_csv((tmp_path / "y.csv").read_text())
    np.testing.assert_array_equal(table[:, 0], logits.argmax(-1))


def test_predict_with_the_last_checkpoint(work, tmp_path, pixels):
    np.save(tmp_path / "x.npy", pixels)
    words = ("--checkpoint", "last", "--output", tmp_path / "y.npy")
    assert main("predict", "runs/small-1", tmp_path / "x.npy", *words) == 0
    config, state = restored(work / "runs/small-1", "step-00000040")
    model = config.build(config.hypers).model
    expected = model.apply(state.params, pixels, state=state.model_state)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)


def test_one_row_may_be_predicted(work, tmp_path, capsys, pixels):
    np.savetxt(tmp_path / "x.csv", pixels[:1], delimiter=",")
    assert main("predict", "runs/small-1", tmp_path / "x.csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


# what is refused


MISTAKES = {
    "a mistyped key": (("model.droput=0.1",), r"model\.droput: mlp has no such key.*'dropout'"),
    "an unknown table": (("modle.dropout=0.1",), r"modle: there is no such table.*'model'"),
    "an unknown factory": (("model.name=mpl",), r"model.*'mpl'.*'mlp'"),
    "a bad override": (("train.steps",), r"an override should be key=value.* got 'train\.steps'"),
    "a wrong type": (("train.steps=soon",), r"train\.steps: should be an integer, got 'soon'"),
    "a factory's refusal": (("model.dropout=1.5",), r"rate should be in \[0, 1\], got 1\.5"),
    "a large batch": (("data.batch_size=5000",), r"batch_size should be at most .* 1257, got 5000"),
    "too few pixels": (
        ("model.widths=[63, 12, 10]",),
        r"hidden_0/linear: the last axis of x should be 63 \(in_dim\), got shape \(32, 64\)",
    ),
    "too few outputs": (
        ("model.widths=[64, 12, 9]",),
        r"labels should be in \[0, 9\), one of the model's 9 outputs, got 9 at index \d+",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_message_and_leaves_no_folder(work, tmp_path, monkeypatch, capsys, mistake):
    settings, words = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    assert main("train", work / "small.toml", *settings) == 2
    said = capsys.readouterr()
    assert re.search(words, said.err), said.err
    assert said.err.startswith("nnfunc: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert said.out == ""
    assert not list(tmp_path.glob("runs/*"))


def test_all_mistakes_of_a_config_are_told_together(work, capsys):
    assert main("train", "small.toml", "model.droput=1", "train.stps=3", "--run", "runs/never") == 2
    message = capsys.readouterr().err
    assert "model.droput" in message
    assert "train.stps" in message
    assert not Path("runs/never").exists()


def test_files_that_are_no_configs(work, tmp_path, capsys):
    (tmp_path / "bad.toml").write_text("model = { name = ")
    for file, words in {
        "smal.toml": r"smal\.toml: there is no such file; did you mean 'small\.toml'",
        tmp_path / "bad.toml": r"bad\.toml: it is not valid TOML: .*end of document",
        tmp_path: r"it is a folder, not a config file",
    }.items():
        for command in ("train", "summary"):
            assert main(command, file) == 2
            message = capsys.readouterr().err
            assert re.search(words, message), message
            assert message.count("\n") == 1


@pytest.mark.parametrize("command", ["resume", "evaluate", "predict"])
def test_a_folder_that_is_no_run(work, capsys, command):
    more = ("x.npy",) if command == "predict" else ()
    assert main(command, "runs/smal-1", *more) == 2
    message = capsys.readouterr().err
    assert message == "nnfunc: runs/smal-1 does not exist; did you mean 'runs/small-1'?\n"
    assert main(command, ".", *more) == 2
    assert "has no config.toml, so it is not a run" in capsys.readouterr().err


def save_npy(x):
    return lambda path: np.save(path, x)


INPUTS = {
    "too few pixels": ("x.npy", save_npy(np.zeros((2, 63))), r"shape \(examples, 64\).*\(2, 63\)"),
    "one example without its axis": ("x.npy", save_npy(np.zeros(64)), r"got shape \(64,\)"),
    "a number": ("x.npy", save_npy(np.float32(3)), r"got shape \(\)"),
    "no rows": ("x.npy", save_npy(np.zeros((0, 64))), r"at least one example.*\(0, 64\)"),
    "NaN": ("x.npy", save_npy(np.full((2, 64), np.nan)), r"finite.* got nan at index \[0, 0\]"),
    "an infinity in float32": ("x.npy", save_npy(np.full((2, 64), 1e300)), r"finite.* as float32"),
    "words": ("x.npy", save_npy(np.array(["a"])), r"should be numbers, got dtype <U1"),
    "objects": ("x.npy", save_npy(np.array([None])), r"cannot be read"),
    "a damaged file": ("x.npy", lambda p: p.write_bytes(b"\x93NUMPY"), r"cannot be read"),
    "a CSV with names": ("x.csv", lambda p: p.write_text("a,b\n1,2\n"), r"got a first line with names, such as 'a'"),
    "an empty CSV": ("x.csv", lambda p: p.write_text(""), r"at least one example"),
    "NaN in a CSV": (
        "x.csv",
        lambda p: p.write_text(",".join(["nan"] * 64)),
        r"line 1 of column 1 .*finite.* got 'nan'",
    ),
    "another kind of file": ("x.txt", lambda p: p.write_text("1"), r"should be a \.csv, \.jsonl or \.npy file"),
    "no file": ("x.npy", lambda p: None, r"x\.npy does not exist"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_do_not_fit(work, tmp_path, capsys, case):
    name, write, words = INPUTS[case]
    write(tmp_path / name)
    code = main("predict", "runs/small-1", tmp_path / name, "--output", tmp_path / "y.csv")
    said = capsys.readouterr()
    assert code == 2, said
    assert re.search(words, said.err), said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "y.csv").exists()


def test_outputs_and_choices_that_do_not_exist(work, tmp_path, capsys, pixels):
    np.save(tmp_path / "x.npy", pixels)
    for words, message in {
        ("predict", "runs/small-1", tmp_path / "x.npy", "--output", "y.txt"): r"\.csv, \.jsonl, \.parquet or \.npy",
        ("evaluate", "runs/small-1", "--split", "tset"): "'test'",
        ("evaluate", "runs/small-1", "--checkpoint", "bset"): "'best'",
    }.items():
        assert main(*words) == 2
        said = capsys.readouterr().err
        assert re.search(message, said), said
        assert said.count("\n") == 1


def test_the_folders_of_outputs_are_made(work, tmp_path, pixels):
    np.save(tmp_path / "x.npy", pixels)
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{i * i % 7}.5,{i % 2}\n" for i in range(40)))
    run, new = "runs/small-1", tmp_path / "new"
    for words in (
        ("predict", run, tmp_path / "x.npy", "--output", new / "predict" / "y.csv"),
        ("evaluate", run, "--json", new / "evaluate" / "y.json"),
        ("runs", "runs", "--html", new / "page" / "runs.html"),
        ("runs", "runs", "--plot", new / "plot" / "runs.png"),
        ("new", "table", tmp_path / "rows.csv", "--output", new / "config" / "rows.toml"),
    ):
        assert main(*words) == 0
        assert words[-1].is_file()


def test_words_that_are_no_commands(capsys):
    assert main("trian") == 2
    assert "No such command 'trian'" in capsys.readouterr().err
    assert main("train") == 2
    assert "Missing argument 'CONFIG'" in capsys.readouterr().err


# what cannot be seen from inside


def test_a_terminal_has_a_bar(work, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main("train", "small.toml", "--run", tmp_path / "run") == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", sys.stdout.getvalue())
    bars = [line for line in re.split(r"[\r\n]+", text) if "steps/s" in line]
    last = (
        r"\S+ 40/40 train loss [\d.]+  val loss [\d.]+ acc [\d.]+%"
        r" +[\d.,]+ steps/s \d\d:\d\d\s*"
    )
    assert re.fullmatch(last, bars[-1]), bars
    assert all(len(line) <= 100 for line in bars)
    assert "test    loss" in text.splitlines()[-2]


def test_help_is_good_to_read_and_quick():
    program = (
        "import sys, time\n"
        "from nnfunc import cli\n"
        "for words in (['--help'], ['train', '--help']):\n"
        "    sys.argv = ['nnfunc', *words]\n"
        "    try: cli.main()\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "slow = {'optax', 'matplotlib', 'safetensors', 'sklearn', 'nnfunc.commands.train', 'nnfunc.commands.process_setup'}\n"
        "print('imported', sorted(slow & set(sys.modules)), time.process_time())\n"
    )
    done = run_process("-c", program, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    for words in ("train", "resume", "evaluate", "predict", "sample", "summary", "KEY=VALUE", "--run"):
        assert words in done.stdout
    assert "imported [] " in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.slow
def test_the_compilation_cache_is_on_by_default(work, tmp_path):
    words = ("train", "small.toml", "train.steps=8", "--run", str(tmp_path / "run"))
    done = run_process("-m", "nnfunc.cli", *words, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list((tmp_path / "cache" / "nnfunc" / "jax").iterdir())


def test_a_resume_that_is_refused_leaves_the_config_as_it_was(work, tmp_path, capsys):
    """Another length is another schedule: refused, and the run can still be resumed."""
    run = tmp_path / "run"
    shutil.copytree("runs/small-1", run)
    before = (run / "config.toml").read_bytes()
    assert main("resume", run, "train.steps=80") == 2
    said = capsys.readouterr().err
    assert (
        "resume: train.steps=80 changes schedule.total_steps from 40 to 80, and with it the learning rate of " in said
    )
    assert "learning rate of 34 of the 40 trained steps (at step 6 from 0.0099" in said
    assert "Start a new run: the schedule ends at a learning rate of 0, which changes nothing more." in said
    assert said.count("\n") == 1
    assert (run / "config.toml").read_bytes() == before
    (run / "config.toml").write_bytes(before.replace(b"final = 0.0", b"final = 0.001"))
    assert main("resume", run, "train.steps=80") == 2
    assert "Add schedule.total_steps=40 to continue at the final learning rate, 0.001, or" in capsys.readouterr().err
    (run / "config.toml").write_bytes(before)
    assert main("resume", run, "model.dropout=0.3") == 2
    assert "settings should be of the tables train, log, mesh, shard" in capsys.readouterr().err
    assert main("resume", run) == 0
    assert main("resume", run, "train.rollback=1") == 0
    assert load(run / "config.toml").train["rollback"] == 1


SCHEDULES = {
    "constant": '{ name = "constant", value = 0.01 }',
    "stable": '{ name = "warmup_stable_decay", peak = 0.01, warmup_steps = 1, decay_steps = 2 }',
}


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_is_extended_where_its_schedule_allows_it(tmp_path, schedule, capsys):
    """With the last steps of a stable schedule still to come: bit for bit the longer run."""
    file = tmp_path / "c.toml"
    file.write_text(re.sub(r"schedule = .*", f"schedule = {SCHEDULES[schedule]}", CONFIG))
    words = ("train.save_every=2", "train.log_every=2", "train.evaluate_every=2")
    assert main("train", file, *words, "train.steps=8", "--run", tmp_path / "one") == 0
    for step in ("8", "6") if schedule == "stable" else ():  # the decay has begun: it goes back
        (tmp_path / "one" / "checkpoints" / f"step-0000000{step}").rename(tmp_path / step)
    assert main("resume", tmp_path / "one", "train.steps=12") == 0, capsys.readouterr().err
    assert "resume  train.steps 8 -> 12\n" in capsys.readouterr().out
    assert main("train", file, *words, "train.steps=12", "--run", tmp_path / "two") == 0
    one, two = (restored(tmp_path / name, "step-00000012")[1] for name in ("one", "two"))
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_numbers_of_a_library_run_are_named(tmp_path):
    def build(h):
        return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))

    x = np.ones((8, 1), np.float32)
    data = nf.data.arrays((x, x), batch_size=4)
    go = lambda rate, **more: nf.train(
        build, {"decay": 0.0, "rate": rate}, data, steps=2, key=jax.random.key(0), folder=tmp_path / "run", **more
    )
    go(0.5)
    with pytest.raises(ValueError, match=r"the same numbers, got rate 0\.5 -> 0\.25\. Start another"):
        go(0.25, resume=True)
    go(0.25, resume=["rate"])


def test_a_run_says_what_one_answer_for_all_reaches(tmp_path, capsys):
    """Of 97 examples of one class and 3 of another, always the first is right for 97 %."""
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    y = (np.arange(200) % 100 < 3).astype(np.int32)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "c.toml").write_text(
        f"""
data = {{ name = "npz", path = "{tmp_path}/d.npz", batch_size = 8 }}
model = {{ name = "mlp", widths = [2, 2] }}
objective = {{ name = "classification" }}
optimizer = {{ name = "sgd", learning_rate = 1e-9 }}
train = {{ steps = 1, loop = "step" }}
"""
    )
    code = main("train", tmp_path / "c.toml", "--run", tmp_path / "run")
    said = capsys.readouterr()
    assert code == 0, said.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    split, metrics = next(reversed(result["baseline"].items()))
    assert metrics["accuracy"] == pytest.approx(0.97, abs=0.01)
    assert metrics["loss"] == pytest.approx(0.135, abs=0.02)  # -0.97 log 0.97 - 0.03 log 0.03
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Baseline: the same output for every example reaches {split} loss" in page
    beaten = result[split]["accuracy"] > metrics["accuracy"]
    assert beaten != ("does NOT beat it" in page)
    assert beaten != ("warning the model does not beat a constant prediction" in said.out)
    assert main("evaluate", tmp_path / "run") == 0
    assert beaten != ("warning the model does not beat a constant prediction" in capsys.readouterr().out)


def test_one_answer_for_all_is_the_best_of_those_that_count():
    x, y = np.zeros((9, 1), np.float32), np.array([7] * 5 + [0] * 3 + [1])
    data = nf.data.arrays((x, y), batch_size=3)
    answer = constant_prediction("classes", {"ignore_index": 7}, data)
    np.testing.assert_allclose(np.exp(answer[:2]) / np.exp(answer).sum(), [4 / 6, 2 / 6], rtol=1e-5)
    amounts = nf.data.arrays((x, np.array([0, 0, 0, 0, 0, 0, 0, 0, 9], np.float32)), batch_size=3)
    assert constant_prediction("values", {"loss": "mae"}, amounts) == 0
    assert constant_prediction("values", {"loss": "mse"}, amounts) == 1
