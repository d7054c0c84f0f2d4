"""Forms of convolutions: which one is traced, where measured ones are saved, and that a run keeps its forms."""

import json
import re
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.command_line import main

import nnfunc as nf
from nnfunc import form_timing, tuning
from nnfunc.commands import evaluate_run, run_training
from nnfunc.commands.tune import Steps
from nnfunc.config import load
from nnfunc.training.checkpointing import saved_forms

KEY = "convolution float32 8x8x8x8, kernel 3x3x8x4, pads 1:1x1:1"
X = jnp.ones((8, 8, 8, 8))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, with measured forms switched on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NNFUNC_TUNING", "")
    return tmp_path / "cache" / "nnfunc" / "tuning.json"


def measure(form, key=KEY):
    tuning.save_measured({key: (form, {"direct": 2.0, form: 1.0})})


def traced_form(model=None):
    """The form of a convolution, from its jaxpr: only "direct" has a derivative of its own."""
    model = model or nf.conv(8, 4, 3)
    params = jax.eval_shape(model.init, jax.random.key(0))
    text = str(jax.make_jaxpr(model.apply)(params, X))
    if "conv_general_dilated" not in text:
        return "patches"
    return "direct" if "custom_jvp_call" in text else "plain"


# The choice


def test_without_pins_the_default_is_traced():
    assert traced_form() == "direct"


@pytest.mark.parametrize("form", ["direct", "patches", "plain"])
def test_a_pinned_form_is_traced(form):
    with tuning.pinned({KEY: form}):
        assert traced_form() == form
    assert traced_form() == "direct"


def test_a_form_that_does_not_exist_is_ignored():
    with tuning.pinned({KEY: "winograd"}):
        assert traced_form() == "direct"


def test_other_shapes_keep_their_form():
    with tuning.pinned({KEY.replace("8x8x8x8", "8x9x9x8"): "patches"}):
        assert traced_form() == "direct"


def test_what_has_one_form_is_not_asked_for():
    with tuning.recorded() as calls:
        for model in (nf.conv(8, 4, 1), nf.conv(8, 4, 2, stride=2)):
            jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), X)
    assert calls == {}


def test_a_jitted_function_is_traced_again_with_other_pins():
    model = nf.conv(8, 4, 3)
    params, traces = model.init(jax.random.key(0)), []
    apply = jax.jit(lambda params, x: traces.append(tuning.pins()) or model.apply(params, x))
    for pins in ({}, {KEY: "patches"}, {}, {KEY: "patches"}):
        with tuning.pinned(pins):
            apply(params, X)
    assert traces == [{}, {KEY: "patches"}]


def test_the_key_names_what_matters():
    with tuning.recorded() as calls:
        model = nf.conv(8, 4, (3, 2), stride=(2, 1), dilation=(1, 2), padding="valid")
        jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), X)
        jax.eval_shape(nf.conv(8, 4, 3).apply, jax.eval_shape(nf.conv(8, 4, 3).init, jax.random.key(0)), X)
    assert list(calls) == ["convolution float32 8x8x8x8, kernel 3x2x8x4, stride 2x1, dilation 1x2", KEY]


@pytest.mark.parametrize("wrap", [lambda model: model, nf.remat])
def test_a_record_knows_whether_the_input_has_a_gradient(wrap):
    model = nf.serial(first=nf.conv(8, 5, 3), second=wrap(nf.conv(5, 4, 3)))
    params = jax.eval_shape(model.init, jax.random.key(0))
    with tuning.recorded() as calls:
        jax.eval_shape(jax.grad(lambda params: model.apply(params, X).sum()), params)
    assert [call.has_input_gradient for call in calls.values()] == [False, True]


# The measured table


def test_measured_forms_are_read_back(cache):
    assert tuning.measured() == {}
    measure("patches")
    measure("plain", "another")
    assert tuning.measured() == {KEY: "patches", "another": "plain"}
    assert list(cache.parent.iterdir()) == [cache]


def test_only_the_forms_of_this_machine_and_jaxlib_count(cache, monkeypatch):
    measure("patches")
    monkeypatch.setattr(tuning, "JAXLIB", "0.0.1")
    assert tuning.measured() == {}
    measure("plain")
    assert len(json.loads(cache.read_text())) == 2
    monkeypatch.undo()


def test_the_switch_ignores_measured_forms(cache, monkeypatch):
    measure("patches")
    monkeypatch.setenv("NNFUNC_TUNING", "off")
    assert tuning.measured() == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"jaxlib": {"convolution": "patches"}}', "\udcff"])
def test_a_damaged_table_is_ignored_by_name(content, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text(content, errors="surrogateescape")
    with pytest.warns(UserWarning, match=f"ignored: {re.escape(str(cache))}"):
        assert tuning.measured() == {}
    with pytest.warns(UserWarning, match="ignored"):
        measure("patches")
    assert tuning.measured() == {KEY: "patches"}


# Measuring


def call():
    model = nf.conv(8, 2, 3)
    x = jax.ShapeDtypeStruct((2, 4, 4, 8), "float32")
    with tuning.recorded() as calls:
        jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), x)
    return next(iter(calls.items()))


@pytest.mark.parametrize("looped", [False, True])
def test_each_form_is_timed(looped):
    times = form_timing.time_forms(*call(), 0.01, looped=looped)
    assert set(times) == {"direct", "patches", "plain"}
    assert min(times.values()) > 0


FORMS_OF = {
    "lstm": (nf.lstm(3, 4), (2, 5, 3), {"fast", "plain"}),
    "masked": (nf.gru(3, 4), nf.RecurrentInput(np.ones((2, 5, 3), np.float32), np.array([2, 5])), {"fast", "plain"}),
    "attention": (nf.attention(8, 2, causal=True), (2, 4, 8), {"plain", "xla"}),
    "layer_norm": (nf.layer_norm(8), (2, 4, 8), {"products", "plain"}),
    "rms_norm": (nf.rms_norm(8), (2, 4, 8), {"products", "plain"}),
    "groups": (nf.conv(8, 4, 3, groups=2), (2, 4, 4, 8), {"groups", "plain"}),
    "depthwise": (nf.depthwise_conv(8, 3), (2, 4, 4, 8), {"depthwise", "groups", "plain"}),
}


@pytest.mark.parametrize("name", FORMS_OF)
def test_the_forms_of_other_layers_are_equal_and_timed(name):
    model, x, forms = FORMS_OF[name]
    x = jax.random.normal(jax.random.key(1), x) if isinstance(x, tuple) and not hasattr(x, "lengths") else x
    params = model.init(jax.random.key(0))
    loss = jax.value_and_grad(lambda params: jnp.sum(jnp.sin(model.apply(params, x))))
    with tuning.recorded() as calls:
        expected = loss(params)
    key, choice = next((key, choice) for key, choice in calls.items() if choice.function is not None)
    assert set(choice.options) == forms
    assert set(form_timing.time_forms(key, choice, 0.01)) == forms
    programs = set()
    for form in forms:
        with tuning.pinned({key: form}):
            programs.add(str(jax.make_jaxpr(loss)(params)))
            chex.assert_trees_all_close(loss(params), expected, atol=1e-5)
    assert len(programs) == len(forms)


def test_blocks_are_written_out_where_that_was_measured():
    model = nf.repeat(nf.serial(nf.linear(4, 4), jnp.tanh), 3)
    params, x = model.init(jax.random.key(0)), jnp.ones((2, 4))
    with tuning.recorded() as calls:
        expected = model.apply(params, x)
    ((key, choice),) = calls.items()
    assert choice.default == "scanned"
    assert choice.function is None
    unrolled = {}
    for form in choice.options:
        with tuning.pinned({key: form}):
            unrolled[form] = "unroll=3" in str(jax.make_jaxpr(model.apply)(params, x))
            chex.assert_trees_all_close(model.apply(params, x), expected, atol=1e-6)
    assert unrolled == {"scanned": False, "unrolled": True}


def test_the_default_stays_unless_another_form_is_clearly_faster(monkeypatch):
    key, choice = call()
    monkeypatch.setattr(form_timing, "time_forms", lambda key, call, seconds, looped: {"direct": 1.0, "patches": 0.5})
    assert form_timing.choose_form(key, choice, {"direct": 1.0, "patches": 0.96}, 0) == "direct"
    assert form_timing.choose_form(key, choice, {"direct": 1.0, "patches": 0.9}, 0) == "patches"
    assert form_timing.choose_form(key, choice, {"patches": 1.0}, 0) == "patches"  # no memory for direct
    assert form_timing.choose_form(key, choice, {}, 0) == "direct"


def test_another_form_has_to_be_fastest_in_a_loop_too(monkeypatch):
    key, choice = call()
    times = {"direct": 1.0, "patches": 0.9, "plain": 0.5}
    monkeypatch.setattr(form_timing, "time_forms", lambda key, call, seconds, looped: times)
    assert form_timing.choose_form(key, choice, times, 0) == "plain"
    monkeypatch.setattr(form_timing, "time_forms", lambda key, call, seconds, looped: times | {"plain": 25.0})
    assert form_timing.choose_form(key, choice, times, 0) == "patches"


CONFIG = """
data = { name = "digits", batch_size = 32, layout = "image" }
model = { name = "cnn", image_size = 8, classes = 10, widths = [8, 8], hidden = 8 }
objective = { name = "classification" }
optimizer = { name = "adamw", learning_rate = 1e-3 }
train = { steps = 4 }
"""


@pytest.fixture
def work(tmp_path, monkeypatch, no_compilation_cache, cache):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(CONFIG)
    return tmp_path


def test_tune_prints_and_saves_the_fastest(work, capsys):
    assert main("tune", "small.toml", "--seconds", 0.1) == 0
    printed = capsys.readouterr().out
    assert "3x3x8x8" in printed
    assert "tuning.json" in printed
    forms = tuning.measured()
    assert {key.split(" ")[0] for key in forms} <= {"convolution", "loop"}
    assert set(forms.values()) <= {"direct", "patches", "plain", "step", "scan"}
    assert ("not reached" in printed) == (len(forms) < 3)


def test_the_largest_calls_of_a_step_come_first(work):
    calls = Steps(load(work / "small.toml")).find_calls()
    assert [(key.split(", ")[1], call.count, call.has_input_gradient) for key, call in calls.items()] == [
        ("kernel 3x3x8x8", 1, True),
        ("kernel 3x3x1x8", 1, False),
        ("batch 32x8x8x1", 1, False),
    ]


def test_the_loop_is_measured_and_recorded(work, capsys):
    model = '"cnn", image_size = 8, classes = 10, widths = [8, 8], hidden = 8'
    text = CONFIG.replace('"image"', '"flat"').replace(model, '"mlp", widths = [64, 8, 10]')
    (work / "small.toml").write_text(text)
    ((key, call),) = Steps(load(work / "small.toml")).find_calls().items()
    assert key == "loop 610 parameters, batch 32x64, 32"
    assert call.default == "scan"
    assert main("tune", "small.toml", "--seconds", 0.1) == 0
    assert set(tuning.measured()) == {key}
    tuning.save_measured({key: ("step", {})})
    assert main("train", "small.toml", "--run", "run") == 0
    assert saved_forms(work / "run") == {key: "step"}


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_tune_refuses_a_time(seconds, work, capsys):
    assert main("tune", "small.toml", "--seconds", seconds) == 2
    assert "tune: seconds" in capsys.readouterr().err


def test_tune_says_that_it_is_off(work, capsys, monkeypatch):
    monkeypatch.setenv("NNFUNC_TUNING", "off")
    assert main("tune", "small.toml") == 2
    assert "NNFUNC_TUNING=off" in capsys.readouterr().err


# A run


def build(h):
    model = nf.serial(first=nf.conv(8, 4, 3), act=jax.nn.gelu, flat=nf.flatten, head=nf.linear(256, 2))
    return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["rate"]))


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(32, 8, 8, 8)).astype(np.float32), np.arange(32) % 2
    return nf.data.arrays((x, y), batch_size=8, validation=(x[:8], y[:8]))


def train(data, folder=None, **options):
    options = {"loop": "step", "save_every": 2, "evaluate_every": 2} | options
    return nf.train(build, {"rate": 0.1}, data, steps=6, key=jax.random.key(0), folder=folder, **options)


def stop_at_2(step):
    return step >= 2


def bits(run):
    state, history = run
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((state.params, history.validation["loss"]))]


@pytest.mark.parametrize("form, other", [("patches", "direct"), ("direct", "patches")])
def test_a_resumed_run_keeps_its_forms(form, other, data, cache, tmp_path):
    measure(other)
    unlike = bits(train(data))
    measure(form)
    expected = bits(train(data))
    assert expected[:-1] != unlike[:-1]  # rounded differently, or this test would show nothing
    train(data, tmp_path / "run", should_stop=stop_at_2)
    measure(other)
    assert bits(train(data, tmp_path / "run", resume=True)) == expected
    assert saved_forms(tmp_path / "run") == {KEY: form}


def test_a_run_without_measured_forms_resumes_without(data, cache, tmp_path):
    expected = bits(train(data))
    train(data, tmp_path / "run", should_stop=stop_at_2)
    measure("patches")
    assert bits(train(data, tmp_path / "run", resume=True)) == expected
    assert saved_forms(tmp_path / "run") == {}


def test_forms_pinned_by_the_caller_come_before_measured_ones(data, cache, tmp_path):
    measure("plain")
    with tuning.pinned({KEY: "patches"}):
        train(data, tmp_path / "run")
    assert saved_forms(tmp_path / "run") == {KEY: "patches"}


def test_the_best_checkpoint_has_the_forms_too(data, cache, tmp_path):
    assert saved_forms(tmp_path / "run") is None
    measure("patches")
    train(data, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    nf.checkpoint.remove(checkpoints, nf.checkpoint.steps(checkpoints))
    assert saved_forms(tmp_path / "run") == {KEY: "patches"}


def test_a_table_that_is_damaged_does_not_stop_a_run(data, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("{")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(data)
    assert [str(cache) in str(warning.message) for warning in caught] == [True]


def test_commands_evaluate_with_the_forms_of_the_run(work, cache, monkeypatch):
    key = "convolution float32 32x4x4x8, kernel 3x3x8x8, pads 1:1x1:1"
    used = []

    def split_metrics(*args):
        used.append(tuning.pins())
        return evaluate_run.split_metrics(*args)

    measure("patches", key)
    monkeypatch.setattr(run_training, "split_metrics", split_metrics)
    assert main("train", "small.toml", "--run", "run") == 0
    assert saved_forms(work / "run") == {key: "patches"}
    assert used == [{key: "patches"}]  # of the test split; the validation split was evaluated in training
    measure("direct", key)
    original = evaluate_run.split_metrics
    monkeypatch.setattr(evaluate_run, "split_metrics", lambda *args: used.append(tuning.pins()) or original(*args))
    assert main("evaluate", "run") == 0
    assert used == 2 * [{key: "patches"}]
