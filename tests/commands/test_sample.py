"""`nnfunc sample`: text from a trained run, and what it refuses."""

import io
import sys

import jax
import numpy as np
import pytest
from helpers.command_line import main, run_process

import nnfunc as nf
from nnfunc.data.tokenizers import load_codec

pytestmark = pytest.mark.usefixtures("no_compilation_cache")

TEXT = "to be or not to be, that is the question\n" * 60
CONFIG = """
data = { name = "text", path = "text.txt", block_size = 12, batch_size = 8 }
model = { name = "gpt", vocab_size = 15, block_size = 16, layers = 1, heads = 2, dim = 16 }
objective = { name = "language_modelling" }
optimizer = { name = "adamw", learning_rate = 1e-2 }
train = { steps = 60, log_every = 30, loop = "step" }
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two finished runs on text, and one on images."""
    folder = tmp_path_factory.mktemp("sampling")
    (folder / "text.txt").write_text(TEXT)
    assert len(set(TEXT)) == 15
    (folder / "gpt.toml").write_text(CONFIG)
    digits = """
        data = { name = "digits" }
        model = { name = "mlp", widths = [64, 10] }
        objective = { name = "classification" }
        optimizer = { name = "sgd", learning_rate = 0.1 }
        train = { steps = 2, log_every = 2, loop = "step" }
    """
    (folder / "digits.toml").write_text(digits)
    recurrent = "model = { name = 'rnn_lm', vocab_size = 20, dim = 16 }"
    (folder / "rnn.toml").write_text(CONFIG.replace(CONFIG.splitlines()[2], recurrent))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "stdout", io.StringIO())
        for name in ("gpt", "rnn", "digits"):
            assert main("train", f"{name}.toml") == 0
    return folder


@pytest.fixture
def work(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def printed(capsys, *words):
    assert main("sample", *words) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.endswith("\n")
    return said.out[:-1]


@pytest.mark.parametrize("run", ["runs/gpt-1", "runs/rnn-1"])
def test_greedy_text_equals_generate(work, capsys, run):
    found = printed(capsys, run, "--prompt", "to be", "--steps", 9, "--temperature", 0)
    codec = load_codec(f"{run}/codec.json")
    out = nf.generate(*nf.load_run(run)[:2], codec.encode("to be"), 9)
    assert found == codec.decode(np.asarray(out.tokens))
    assert found.startswith("to be")
    assert len(found) == 14


def test_text_beyond_the_block(work, capsys):
    found = printed(capsys, "runs/gpt-1", "--prompt", "to be", "--steps", 40)
    assert len(found) == 45
    assert set(found) <= set(TEXT)


@pytest.mark.slow
def test_seeds_and_samples(work, capsys):
    words = ("runs/gpt-1", "--prompt", "th", "--steps", 12, "--temperature", 1.5)
    one, again = printed(capsys, *words), printed(capsys, *words)
    other = printed(capsys, *words, "--seed", 1)
    assert one == again
    assert one != other
    three = printed(capsys, *words, "--samples", 3).split("\n" + "-" * 40 + "\n")
    assert three[0] == one
    assert len(set(three)) == 3
    assert [len(text) for text in three] == [14, 14, 14]


@pytest.mark.slow
def test_settings_are_passed_on(work, capsys):
    words = ("runs/gpt-1", "--prompt", "th", "--steps", 12)
    greedy = printed(capsys, *words, "--temperature", 0)
    assert printed(capsys, *words, "--top-k", 1, "--temperature", 1.5) == greedy
    assert printed(capsys, *words, "--top-p", 0, "--temperature", 1.5) == greedy
    last = printed(capsys, *words, "--temperature", 0, "--stop", greedy[5])
    assert last == greedy[: greedy.index(greedy[5], 2) + 1]
    assert printed(capsys, *words, "--checkpoint", "last", "--top-k", 3)


def test_prompts_from_standard_input_and_by_default(work, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("not to"))
    words = ("runs/gpt-1", "--steps", 4, "--temperature", 0)
    assert printed(capsys, *words, "--prompt", "-").startswith("not to")
    assert printed(capsys, *words).startswith("\n")


@pytest.mark.filterwarnings("default")
def test_a_prompt_longer_than_the_block_is_cut_with_a_word(work, capsys):
    assert main("sample", "runs/gpt-1", "--prompt", "to be or not to be", "--steps", 3) == 0
    said = capsys.readouterr()
    assert said.err == ("nnfunc: The prompt has 18 tokens; the model reads only the last 12 of them, its block_size.\n")
    assert len(said.out) == 22


def test_tokens_without_text_are_never_drawn(work):
    from nnfunc.commands.sample import sample

    (text,) = sample(work / "runs" / "rnn-1", "to", steps=300, temperature=np.inf)
    assert set(text) == set(TEXT)


REFUSED = {
    "unknown characters": (("--prompt", "to é"), "among the 15 of the codec, got 'é' at index 3"),
    "an empty prompt": (("--prompt", ""), "prompt should have at least one token"),
    "no steps": (("--steps", 0), "steps should be at least 1, got 0"),
    "no samples": (("--samples", 0), "samples should be at least 1, got 0"),
    "a cold temperature": (("--temperature", -1), "temperature should be at least 0"),
    "a share above one": (("--top-p", 1.5), r"top_p should be in [0, 1], got 1.5"),
    "no likeliest": (("--top-k", 0), "top_k should be at least 1"),
    "a long stop": (("--stop", "be"), "stop should be one token, got 'be', which is 2"),
    "a checkpoint": (("--checkpoint", "bset"), "'bset'"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_gets_one_message(work, capsys, mistake):
    settings, words = REFUSED[mistake]
    assert main("sample", "runs/gpt-1", *settings) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("nnfunc: ")
    assert said.err.count("\n") == 1
    assert words in said.err


def test_runs_that_are_not_on_text(work, capsys):
    assert main("sample", "runs/digits-1") == 2
    message = capsys.readouterr().err
    assert "runs/digits-1 has no codec.json" in message
    assert not (work / "runs/digits-1/codec.json").exists()
    assert main("sample", "runs/gtp-1") == 2
    assert "runs/gtp-1 does not exist; did you mean 'runs/gpt-1'" in capsys.readouterr().err


def test_a_model_of_nan_says_so(work, tmp_path, monkeypatch):
    from nnfunc.commands import sample as sample_command
    from nnfunc.config import restore

    model, params, state = nf.load_run("runs/gpt-1")
    broken = restore.TrainedModel(model, jax.tree.map(lambda leaf: leaf * np.nan, params), state)
    monkeypatch.setattr(restore, "load_run", lambda *args: broken)
    with pytest.raises(ValueError, match=r"the logits of the model are NaN"):
        sample_command.sample(work / "runs" / "gpt-1", "to", steps=2)


@pytest.mark.slow
def test_the_command_keeps_memory_and_says_so(work, tmp_path):
    words = ("train", "gpt.toml", "train.steps=2", "--run", str(tmp_path / "run"))
    line = "memory  kept between steps (NNFUNC_MALLOC=default returns it to the system)"
    done = run_process("-m", "nnfunc.cli", *words, XDG_CACHE_HOME=str(tmp_path), NNFUNC_MALLOC="")
    assert done.stderr == ""
    assert (line in done.stdout.splitlines()) is sys.platform.startswith("linux")
    words = (*words[:-1], str(tmp_path / "other"))
    done = run_process("-m", "nnfunc.cli", *words, XDG_CACHE_HOME=str(tmp_path), NNFUNC_MALLOC="default")
    assert line not in done.stdout
