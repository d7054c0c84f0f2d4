"""Configs: the function is the schema, numbers come from the hypers, mistakes are told in words."""

import contextlib
import math
import re
import subprocess
import sys
import tomllib

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import ROOT
from hypothesis import strategies as st

from nnfunc.config import ConfigError, factories, load, resolve
from nnfunc.config.schema import TASK_TABLES, get_schema
from nnfunc.training.step import trainer

FOLDER = ROOT / "configs"
CONFIGS = sorted(set(FOLDER.glob("*.toml")) - set(FOLDER.glob("compare_*.toml")))

TEXT = """
seed = 0
data = { name = "digits", batch_size = 64 }
model = { name = "mlp", widths = [64, 16, 10], dropout = 0.2 }
objective = { name = "classification", label_smoothing = 0.1 }
optimizer = { name = "adamw", weight_decay = 1e-2 }
schedule = { name = "warmup_cosine", peak = 3e-3, warmup_steps = 50 }
train = { steps = 1000 }
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


def without(text, word):
    return "\n".join(line for line in text.splitlines() if not line.startswith(word))


def problems(path, *overrides):
    """What is wrong, line by line."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    lines = [str(problem) for problem in caught.value.problems]
    assert str(caught.value) == "\n".join(lines)
    return lines


def problem(path, *overrides):
    """The one thing that is wrong, without the name of the file."""
    (line,) = problems(path, *overrides)
    return line.removeprefix(f"{path}: ")


# What a config gives


def test_the_tables_are_what_the_file_says_and_the_defaults(file):
    config = load(file)
    assert config.tables["model"] == {
        "name": "mlp",
        "widths": [64, 16, 10],
        "activation": "relu",
        "dropout": 0.2,
        "gain": 1.0,
    }
    assert config.tables["schedule"] == {"name": "warmup_cosine", "peak": 3e-3, "warmup_steps": 50, "final": 0.0}
    assert config.train == {"steps": 1000, "best": "min loss", "loop": "auto", "rollback": 0, "rollback_factor": 0.5}
    assert jnp.all(jax.random.key_data(config.key()) == jax.random.key_data(jax.random.key(0)))


def test_hypers_are_every_number_that_may_be_traced(file):
    hypers = load(file).hypers
    given = {
        "model.dropout": 0.2,
        "model.gain": 1.0,
        "objective.label_smoothing": 0.1,
        "optimizer.weight_decay": 0.01,
        "schedule.peak": 3e-3,
        "schedule.warmup_steps": 50.0,
        "schedule.total_steps": 1000.0,
        "schedule.final": 0.0,
    }
    assert given.items() <= hypers.items()
    assert all(type(value) is float for value in hypers.values())
    assert "objective.gamma" not in hypers  # its default is None
    assert "optimizer.learning_rate" not in hypers  # the schedule gives it


def test_sections_and_inline_tables_are_the_same(file, tmp_path):
    sections = tmp_path / "sections.toml"
    sections.write_text(without(TEXT, "model") + '\n[model]\nname = "mlp"\nwidths = [64, 16, 10]\ndropout = 0.2\n')
    assert load(sections) == load(file)


def test_overrides_are_toml_and_else_text(file):
    overrides = [
        "schedule.peak=1e-2",
        "model.widths=[64, 32, 10]",
        "seed=3",
        "model.activation=gelu",
        "train.best=max accuracy",
        "train.save_every = 7",
    ]
    config = load(file, overrides)
    assert config.hypers["schedule.peak"] == 1e-2
    assert config.tables["model"]["widths"] == [64, 32, 10]
    assert config.tables["model"]["activation"] == "gelu"
    assert config.tables["seed"] == 3
    assert config.train["best"], config.train["save_every"] == ("max accuracy", 7)
    whole = load(file, ['optimizer={name="sgd"}'])
    assert whole.tables["optimizer"]["name"] == "sgd"


def test_a_rate_takes_the_place_of_a_schedule(tmp_path):
    path = tmp_path / "rate.toml"
    path.write_text(without(TEXT, "schedule"))
    config = load(path, ["optimizer.learning_rate=0.5"])
    assert config.hypers["optimizer.learning_rate"] == 0.5
    assert float(config.build(config.hypers).optimizer.learning_rate(7)) == 0.5


def test_the_schedule_ends_with_the_run_unless_it_says_otherwise(file):
    assert load(file, ["train.steps=70"]).hypers["schedule.total_steps"] == 70
    config = load(file, ["train.steps=70", "schedule.total_steps=60"])
    assert config.hypers["schedule.total_steps"] == 60


def test_lists_of_numbers_are_hypers_too(file):
    schedule = 'schedule={name="multistep", start=1.0, milestones=[3, 5.5]}'
    config = load(file, [schedule])
    assert config.hypers["schedule.milestones[0]"] == 3.0
    rate = config.build(config.hypers | {"schedule.milestones[1]": 9.0}).optimizer.learning_rate
    np.testing.assert_allclose([rate(2), rate(4), rate(8), rate(9)], [1, 0.1, 0.1, 0.01], rtol=1e-6)


@pytest.mark.parametrize("overrides", [[], ["seed=5", "data.seed=7", "schedule.total_steps=2000"]])
def test_what_is_dumped_loads_as_the_same(file, tmp_path, overrides):
    config = load(file, overrides)
    config.dump(tmp_path / "resolved.toml")
    again = load(tmp_path / "resolved.toml")
    assert again == config
    assert again.hypers == config.hypers
    assert again.build == config.build


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_of_this_project_load_and_come_back(path, tmp_path):
    config = load(path)
    config.dump(tmp_path / "resolved.toml")
    assert load(tmp_path / "resolved.toml") == config
    assert path.read_text().startswith("#")
    command = "sweep" if "[sweep]" in path.read_text() else "train"
    assert f"nnfunc {command} configs/{path.name}" in path.read_text().splitlines()[0]


def test_data_and_test_are_of_the_data_table(file):
    batch = jax.jit(lambda data: data.batch(0))  # the data set is an argument: it compiles once
    config = load(file)
    x, labels = batch(config.data())
    assert x.shape == (64, 64)
    assert config.data().validation is not None
    test_x, test_labels = config.test()
    assert len(test_x) == len(test_labels) > 100
    other, own = load(file, ["seed=1"]).data(), load(file, ["seed=1", "data.seed=0"]).data()
    assert not np.array_equal(labels, batch(other)[1])
    np.testing.assert_array_equal(labels, batch(own)[1])


# The build


@pytest.mark.slow
def test_a_config_names_the_newer_factories(file):
    overrides = [
        'model.activation="hard_tanh"',
        'optimizer={name="nadam", momentum_decay=0.1}',
        'schedule={name="cyclic", start=0.1, peak=0.5, rise_steps=2, mode="triangular2"}',
    ]
    config = load(file, overrides)
    assert config.hypers["optimizer.momentum_decay"] == 0.1
    init, step = trainer(config.build)
    batch = (jax.random.normal(jax.random.key(1), (8, 64)), jnp.arange(8) % 10)
    state = init(config.hypers, jax.random.key(0))
    state, metrics = jax.jit(step)(config.hypers, state, batch)
    assert np.isfinite(metrics["loss"])
    rates = config.build(config.hypers).optimizer.learning_rate(jnp.arange(7))
    np.testing.assert_allclose(rates, [0.1, 0.3, 0.5, 0.3, 0.1, 0.2, 0.3], rtol=1e-6)
    joined = load(file, ['schedule={name="join", schedules=[0.1, 0.5], boundaries=[3]}'])
    rates = joined.build(joined.hypers).optimizer.learning_rate(jnp.arange(5))
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.1, 0.5, 0.5], rtol=1e-6)
    assert {"adadelta", "adagrad", "adamax", "radam"} <= set(factories("optimizer"))
    lines = problems(file, 'schedule={name="cyclic", start=0.1, peak=0.5, rise_step=2}')
    assert any("did you mean 'rise_steps'" in line for line in lines)


@pytest.mark.slow
def test_every_number_of_the_config_is_traced(file):
    config = load(file, ["schedule.warmup_steps=3", "train.steps=6"])
    init, step = trainer(config.build)
    batch = (jax.random.normal(jax.random.key(1), (8, 64)), jnp.arange(8) % 10)

    @jax.jit
    @jax.vmap
    def run(hypers):
        """Numbers that depend on every hyper: of the parameters after two steps, a late rate."""
        state = init(hypers, jax.random.key(0))
        state = jax.lax.fori_loop(0, 2, lambda i, state: step(hypers, state, batch)[0], state)
        total = sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(state.params))
        return jnp.stack([total, config.build(hypers).optimizer.learning_rate(4)])

    def moved(value):
        return 0.01 if value == 0 or value == math.inf or value < 1e-6 else 0.9 * value

    hypers = {name: jnp.asarray(value) for name, value in config.hypers.items()}
    variants = [hypers | {name: jnp.asarray(moved(value))} for name, value in hypers.items()]
    rows = run(jax.tree.map(lambda *leaves: jnp.stack(leaves), hypers, *variants))
    for name, row in zip(hypers, rows[1:], strict=True):
        assert jnp.any(row != rows[0]), f"{name} changes nothing"


def test_new_numbers_do_not_recompile(file):
    traces = []

    @jax.jit
    def rate(hypers):
        traces.append(1)
        task = config.build(hypers)
        return task.optimizer.learning_rate(jnp.asarray(3))

    config = load(file)
    first = rate(config.hypers)
    second = rate(config.hypers | {"schedule.peak": 6e-3})
    np.testing.assert_allclose(2 * first, second, rtol=1e-6)
    assert len(traces) == 1


def test_configs_that_differ_in_numbers_share_their_build(file):
    config = load(file)
    assert config.build is config.build
    same = load(file, ["schedule.peak=1", "train.steps=99", "seed=3", "optimizer.weight_decay=0"])
    assert same.build == config.build
    assert hash(same.build) == hash(config.build)
    for override in ("model.widths=[64, 10]", "model.activation=tanh", "model.norm=layer"):
        assert load(file, [override]).build != config.build


def test_hypers_may_give_what_the_config_leaves_at_none(file):
    config = load(file, ['model={name="mlp", widths=[64, 16, 10]}'])
    hypers = config.hypers | {"model.dropout": 0.5, "model.widths": [64, 8, 10]}
    params = config.build(hypers).model.init(jax.random.key(0))
    assert params["head"]["weight"].shape == (8, 10)


def test_hypers_that_do_not_fit_are_named(file):
    config = load(file)
    with pytest.raises(ValueError, match=r"build: .*got 'schedule\.peek'; did you mean 'schedule\.peak'"):
        config.build(config.hypers | {"schedule.peek": 1.0})
    with pytest.raises(ValueError, match=r"got 'optimizer\.learning_rate'"):
        config.build(config.hypers | {"optimizer.learning_rate": 1.0})
    with pytest.raises(ValueError, match=r"should have .*'model\.dropout'.*config\.hypers \|"):
        config.build({"schedule.peak": 1.0})


# What is wrong, in words


MODELS = ", ".join(map(repr, factories("model")))

WRONG = {
    "schedule.pek=0.1": "schedule.pek: warmup_cosine has no such key, got 0.1; did you mean 'peak'?",
    "optimizer.weight_decy=0.1": "optimizer.weight_decy: adamw has no such key, got 0.1; did you mean 'weight_decay'?",
    "train.steps=many": "train.steps: should be an integer, got 'many' (str).",
    "train.steps=1.5": "train.steps: should be an integer, got 1.5 (float).",
    "train.steps=true": "train.steps: should be an integer, got True (bool).",
    "train.steps=0": "train: steps should be at least 1, got 0.",
    "train.log_every=0": "train: log_every should be at least 1, got 0.",
    "train.best=loss": "train: best should be min or max and a metric, such as 'min loss' or 'max accuracy', got 'loss'.",
    "train.loop=scann": "train.loop: should be one of 'auto', 'step', 'scan', got 'scann' (str); did you mean 'scan'?",
    "train.folder=x": "train.folder: train has no such key, got 'x'",
    "model.name=mpl": f"model.name: should be one of {MODELS}, got 'mpl'; did you mean 'mlp'?",
    "model.name=3": f"model.name: should be one of {MODELS}, got 3 (int).",
    "model.widths=3": "model.widths: should be a list of integers, got 3 (int).",
    "model.widths=[1, 1.5]": "model.widths: should be a list of integers, got [1, 1.5] (list).",
    "model.widths=[64]": "model: mlp: widths should be at least those of the input and the output",
    "model.widths=[64, 0]": "model: mlp: widths[1] should be at least 1, got 0.",
    "model.dropout=true": "model.dropout: should be a number, got True (bool).",
    "model.dropout=nan": "model.dropout: should be a number, got nan (float).",
    "model.dropout=1.5": "model: dropout: rate should be in [0, 1], got 1.5.",
    "model.norm=bach": "model.norm: should be one of 'batch', 'layer', 'rms', got 'bach' (str); did you mean 'batch'?",
    "model.activation=gelo": "did you mean 'gelu'",
    "model.weight_init=zeros": "model.weight_init: is an argument of mlp that only Python can give",
    "model=3": 'model: should be a table, such as model = { name = "mlp", widths = [64, 128, 10] }, got 3 (int).',
    "objective.label_smoothing=2": "objective: classification: label_smoothing should be in [0, 1], got 2.",
    "schedule.warmup_steps=5000": "schedule.warmup_steps: train.steps = 1000 is too few for "
    "schedule.warmup_steps = 5000. Set them together, such as train.steps=1000 schedule.warmup_steps=500.",
    "train.steps=40": "train.steps: train.steps = 40 is too few for schedule.warmup_steps = 50. "
    "Set them together, such as train.steps=40 schedule.warmup_steps=20.",
    "schedule.name=plateau": "schedule.name: should be one of 'constant', ",
    "optimizer.learning_rate=0.1": "optimizer.learning_rate: the schedule gives the learning rate; remove one of the two.",
    "data.batch_size=x": "data.batch_size: should be an integer, got 'x' (str).",
    "seed=-1": "seed: should be an integer from 0 to 2**32 - 1, got -1 (int).",
    "seed=abc": "seed: should be an integer from 0 to 2**32 - 1, got 'abc' (str).",
    "optimiser.learning_rate=0.1": "optimiser: there is no such table; did you mean 'optimizer'?",
    "sed=1": "sed: there is no such key; did you mean 'seed'?",
    "model.widths.x=1": "model.widths.x: model.widths is a value, not a table.",
    "model": "an override should be key=value, such as train.steps=2000, got 'model'.",
    ".steps=3": "an override should be key=value",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_mistake_is_one_line_that_names_it(file, override):
    assert problem(file, override).startswith(("the command line: ", f"{file} with overrides: "))
    assert WRONG[override] in problem(file, override)


def test_a_comparison_is_told_in_one_line():
    path = FOLDER / "compare_mnist.toml"
    with pytest.raises(ConfigError, match=f"a comparison of .*nnfunc compare {path}") as found:
        load(path, ["every.train.steps=3"])
    assert len(found.value.problems) == 1


def test_a_mistake_in_the_file_names_the_file(file):
    file.write_text(TEXT.replace("weight_decay", "weight_decy"))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}: optimizer.weight_decy: adamw has no such key, got 0.01; did you mean 'weight_decay'?"
    )


@pytest.mark.parametrize(
    "table, words",
    {
        "data": 'data: is missing; write data = { name = "digits", batch_size = 64 }',
        "model": 'model: is missing; write model = { name = "mlp", widths = [64, 128, 10] }',
        "objective": 'objective: is missing; write objective = { name = "classification" }',
        "optimizer": 'optimizer: is missing; write optimizer = { name = "adamw", learning_rate = 1e-3 }',
        "schedule": "optimizer.learning_rate: is missing; write learning_rate = 1e-3, or a table schedule = { name",
        "train": "train: is missing; write train = { steps = 1000 }",
    }.items(),
)
def test_a_table_that_is_missing(file, table, words):
    file.write_text(without(TEXT, table))
    assert problem(file).startswith(words)


def test_a_key_that_is_missing(file):
    assert problem(file, 'model={name="mlp"}') == (
        "the command line: model.widths: is missing; mlp needs a list of integers: write widths = [10, 10]"
    )
    assert f"model.name: is missing; it should be one of {MODELS}." in problem(file, "model={widths=[1, 2]}")
    assert "train.steps: is missing; train needs an integer" in problem(file, "train={}")


def test_another_factory_by_override_names_the_way(file):
    file.write_text(TEXT.replace("dropout = 0.2", "dropout = 0.2").replace("peak", "start"))
    line = problem(file, "schedule.name=cosine")
    assert line.startswith("schedule.warmup_steps: cosine has no such key, got 50; ")
    assert line.endswith("To replace the whole table: 'schedule={name=\"cosine\", ...}'.")


def test_all_mistakes_are_told_together(file):
    lines = problems(file, "model.widths=x", "train.steps=x", "optimizer.b=1", "seed=x", "objective.label_smoothing=3")
    assert [re.findall(r": ([a-z.]+): ", line)[0] for line in lines] == [
        "seed",
        "model.widths",
        "optimizer.b",
        "train.steps",
        "objective",
    ]


@pytest.mark.parametrize(
    "content, words",
    {
        b"seed = ": r"it is not valid TOML: .* \(at line 1, column 8|at end of document\)",
        b"seed = 0\nmodel = {": r"it is not valid TOML: .*(line 2|end of document)",
        b"seed = 0\nseed = 1": r"it is not valid TOML: Cannot overwrite a value",
        b"seed = \xff": r"it should be text in UTF-8, but line 1 has the byte 0xff \(byte 7 of the file\)",
        "seed = 0".encode("utf-16"): "it should be text in UTF-8, but is in UTF-16. Convert it: iconv",
        b"seed = " + b"[" * 100_000: "it is not valid TOML",
        b"seed = " + b"9" * 5000: "it is not valid TOML",
        b"seed = 0x" + b"f" * 9000: "number too long to write",
    }.items(),
    ids=["value", "table", "twice", "utf8", "utf16", "deep", "long", "hex"],
)
def test_a_file_that_is_not_toml(tmp_path, content, words):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load(path)


def test_a_byte_order_mark_before_a_config(file):
    before = load(file).tables
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(file).tables == before


def test_a_file_that_is_not_there(file, tmp_path):
    assert problem(tmp_path / "smal.toml") == "there is no such file; did you mean 'small.toml'?"
    assert "and no folder" in problem(tmp_path / "none" / "small.toml")
    assert problem(tmp_path) == "it is a folder, not a config file."


def test_data_that_does_not_fit_is_an_error_of_the_config(file):
    with pytest.raises(ConfigError, match=r"small\.toml: data: .*batch_size"):
        load(file, ["data.batch_size=100000"]).data()


# Anything at all

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.integers(-5, 10**30) | st.floats() | st.lists(st.integers(-1, 5), max_size=4)
NAMES = st.sampled_from(["mlp", "classification", "adamw", "sgd", "warmup_cosine", "multistep", "digits"])
WORDS = "name widths dropout steps peak rate warmup_steps milestones batch_size smoothing best"
KEYS = st.sampled_from([*WORDS.split(), "activation", "gain", "total_steps", "seed", "clip", "loop"])
GIVEN = st.dictionaries(KEYS | st.text(max_size=6), NUMBERS | NAMES | VALUES, max_size=5)
GOOD = tomllib.loads(TEXT)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.dictionaries(st.sampled_from([*GOOD, "x"]), GIVEN | VALUES, max_size=3))
def test_no_tables_give_anything_but_a_config_error(changes):
    tables = {
        key: GOOD[key] | value if isinstance(GOOD.get(key), dict) and isinstance(value, dict) else value
        for key, value in (GOOD | changes).items()
    }
    try:
        config = resolve(tables)
    except ConfigError as error:
        lines = [str(problem) for problem in error.problems]
    else:
        lines = ["config: "] if resolve(config.tables) == config else []
    assert lines
    assert all("\n" not in line and line.startswith("config: ") for line in lines)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.lists(st.builds("{}={}".format, KEYS | st.text(max_size=9), st.text()), max_size=3))
def test_no_override_gives_anything_but_a_config_error(tmp_path_factory, overrides):
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_text(TEXT)
    for words in (overrides, [f"schedule.{override}" for override in overrides]):
        with contextlib.suppress(ConfigError):
            load(path, words)


def test_the_callers_tables_stay_as_they_were(file):
    tables = tomllib.loads(TEXT)
    resolve(tables)
    assert tables == GOOD


def test_every_factory_that_may_be_named_has_a_schema():
    for table in (*TASK_TABLES, "data"):
        assert factories(table)
        for name in factories(table):
            own = get_schema(table, name)
            assert all(key in own.types for key in own.defaults)


def test_importing_the_config_imports_no_programs():
    heavy = "{'matplotlib', 'sklearn', 'pandas', 'torch'}"
    code = f"import sys, nnfunc.config; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
