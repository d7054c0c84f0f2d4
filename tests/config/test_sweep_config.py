"""Sweeps from a file and the command line: what is drawn, the runs that come of it, the mistakes."""

import dataclasses
import functools
import inspect
import time
import tomllib

import hypothesis
import jax
import numpy as np
import pytest
import tomli_w
from hypothesis import strategies as st

import nnfunc as nf
from nnfunc.commands import train
from nnfunc.config import ConfigError, factories, load
from nnfunc.config.key_path import parse_key, parse_value, set_value
from nnfunc.config.load import fill_defaults
from nnfunc.config.schema import FIXED_FACTORIES, TASK_TABLES, get_schema, parse_annotation
from nnfunc.config.sweep import sweep_config
from nnfunc.config.sweep.distributions import parse_override
from nnfunc.config.sweep.load_sweep import load_sweep
from nnfunc.config.sweep.sweep_config import SweepConfig
from nnfunc.sweeps.space import Distribution

TEXT = """
seed = 5
data = { name = "digits", batch_size = 64 }
model = { name = "mlp", widths = [64, 16, 10], activation = "gelu", dropout = 0.2 }
objective = { name = "classification", label_smoothing = 0.1 }
optimizer = { name = "adamw", weight_decay = 1e-2 }
schedule = { name = "warmup_cosine", peak = 3e-3, warmup_steps = 50 }
train = { steps = 1000 }
"""

SWEEP = """
[sweep]
"optimizer.weight_decay" = [0.0, 1e-2]
"schedule.peak" = { log = [1e-4, 1e-1] }
"model.dropout" = { uniform = [0.0, 0.5] }
"train.steps" = { int = [100, 400] }
"model.widths" = [[64, 32, 10], [64, 64, 10]]
"model.activation" = { choice = ["relu", "tanh"] }
seed = { range = [0, 8] }
"data.seed" = [0, 1]
trials = 256
method = "sobol"
seeds = 3
best = "max accuracy"
search = { name = "halving", eta = 4 }
"""

NESTED = """
[sweep]
optimizer = { weight_decay = [0.0, 1e-2] }
schedule.peak = { log = [1e-4, 1e-1] }
seed.range = [0, 8]
data.seed = [0, 1]
trials = 256
method = "sobol"
seeds = 3
best = "max accuracy"
search.name = "halving"
search.eta = 4
[sweep.model]
dropout.uniform = [0.0, 0.5]
widths = [[64, 32, 10], [64, 64, 10]]
activation.choice = ["relu", "tanh"]
[sweep.train]
steps = { int = [100, 400] }
"""

WORDS = [
    "optimizer.weight_decay=[0.0, 1e-2]",
    "schedule.peak=log(1e-4,1e-1)",
    "model.dropout=uniform(0.0, 0.5)",
    "train.steps=int(100,400)",
    "model.widths=[[64,32,10],[64,64,10]]",
    "model.activation=choice(relu,tanh)",
    "seed=0:8",
    "data.seed=[0, 1]",
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


def plain(values):
    """What values are drawn from, to compare."""
    if isinstance(values, Distribution):
        return values.name, [values.at(u) for u in (0.0, 0.3, 0.99)]
    return values


def space(sweep):
    return {path: plain(values) for path, values in sweep.space.items()}


# What is drawn


@pytest.mark.parametrize(
    "text, expected",
    {
        "log(1e-4, 1e-1)": nf.log_uniform(1e-4, 1e-1),
        " log (1, 10) ": nf.log_uniform(1, 10),
        "uniform(-1, 0.5)": nf.uniform(-1, 0.5),
        "int(1, 4)": nf.int_uniform(1, 4),
        "{ log = [1e-4, 1e-1] }": nf.log_uniform(1e-4, 1e-1),
        "0:8": [0, 1, 2, 3, 4, 5, 6, 7],
        "0:80:20": [0, 20, 40, 60],
        "3:0:-1": [3, 2, 1],
        "range(0, 3)": [0, 1, 2],
        "choice(relu, tanh)": ["relu", "tanh"],
        'choice("a, b", 0.5, true)': ["a, b", 0.5, True],
        "choice([64, 10], [64, 8, 10])": [[64, 10], [64, 8, 10]],
        '["relu", "tanh"]': ["relu", "tanh"],
        '[{ name = "sgd" }, { name = "adamw" }]': [{"name": "sgd"}, {"name": "adamw"}],
        "0.1": None,
        "relu": None,
        '{ name = "sgd" }': None,
    }.items(),
)
def test_what_a_word_draws_from(text, expected):
    assert plain(parse_override(text, None)) == plain(expected)


def test_text_may_look_like_a_form_only_where_text_belongs():
    text = parse_annotation(str)
    assert parse_override("lo(1, 2)", text) is None
    assert parse_override("07:32", text) == parse_override("07:32", None) == list(range(7, 32))
    assert parse_override("a:b", text) is None
    assert parse_override("log(1", text) is None


def test_the_file_and_the_command_line_say_the_same(file):
    words = load_sweep(file, WORDS)
    file.write_text(TEXT + SWEEP)
    table = load_sweep(file)
    file.write_text(TEXT + NESTED)
    nested = load_sweep(file)
    assert space(words) == space(table) != {}
    assert dict(sorted(space(nested).items())) == dict(sorted(space(table).items()))
    assert list(table.space)[:2] == ["optimizer.weight_decay", "schedule.peak"]
    assert (
        nested.options
        == table.options
        == {
            "trials": 256,
            "method": "sobol",
            "seeds": 3,
            "best": "max accuracy",
            "search": {"name": "halving", "eta": 4},
        }
    )
    assert words.options == {}
    assert table.tables == words.tables == tomllib.loads(TEXT)
    assert table.where == str(file)


def test_the_command_line_goes_before_the_file(file):
    file.write_text(TEXT + SWEEP)
    words = ["schedule.peak=[1, 2]", "model.dropout=0.3", "objective.label_smoothing=0.2"]
    sweep = load_sweep(file, words, {"trials": 4, "seeds": None, "execution": "loop"})
    assert sweep.space["schedule.peak"] == [1, 2]
    assert "model.dropout" not in sweep.space
    assert sweep.tables["model"]["dropout"] == 0.3
    assert sweep.tables["objective"]["label_smoothing"] == 0.2
    assert (sweep.options["trials"], sweep.options["seeds"], sweep.options["execution"]) == (4, 3, "loop")


def test_a_list_is_one_value_where_the_field_is_a_list(file):
    sweep = load_sweep(file, ["model.widths=[64, 32, 10]", "seed=0:2"])
    assert sweep.tables["model"]["widths"] == [64, 32, 10]
    assert list(sweep.space) == ["seed"]
    words = ['optimizer.decay_on=["matrices"]', "model.widths=choice([64, 10])", "seed=0:2"]
    sweep = load_sweep(file, words)
    assert sweep.tables["optimizer"]["decay_on"] == ["matrices"]
    assert sweep.space["model.widths"] == [[64, 10]]
    sweep = load_sweep(file, ["model.widths=[[64, 32, 10]]"])
    assert sweep.space == {"model.widths": [[64, 32, 10]]}
    table = 'model=[{name="mlp", widths=[64, 10]}, {name="mlp", widths=[64, 8, 10]}]'
    sweep = load_sweep(file, [table, "model.widths=[64, 12, 10]"])  # over either
    assert sweep.space["model.widths"] == [[64, 12, 10]]
    assert sweep.config({"model": {"name": "mlp", "widths": [64, 10]}} | {"model.widths": [64, 12, 10]}).tables[
        "model"
    ]["widths"] == [64, 12, 10]


def test_whole_tables_come_before_what_is_in_them(file):
    words = ["optimizer.momentum=[0.0, 0.9]", 'optimizer=[{name="sgd"}, {name="rmsprop"}]']
    sweep = load_sweep(file, words)
    assert list(sweep.space) == ["optimizer.momentum", "optimizer"]
    words = ["optimizer.momentum=0.5", 'optimizer={name="sgd"}', "seed=0:2"]
    assert load_sweep(file, words).tables["optimizer"] == {"name": "sgd", "momentum": 0.5}


def test_a_table_may_come_from_one_override(file):
    words = ["augment.shift.pixels=[1, 2]", "lookahead.every=[2, 3]", "task.sharpness=[0.1]"]
    sweep = load_sweep(file, words)
    assert list(sweep.space) == ["augment.shift.pixels", "lookahead.every", "task.sharpness"]
    trial = sweep.trial({"augment.shift.pixels": 2, "lookahead.every": 3}, 0)
    assert trial.hypers["augment.shift.pixels"] == 2
    assert trial.hypers["lookahead.slow_rate"] == 0.5


def test_a_schedule_may_stand_in_the_table(file):
    rate = '[sweep.model.dropout]\nschedule = "linear"\nstart = 0.0\nfinal = 0.5\n'
    file.write_text(TEXT + "[sweep]\nseed = [1, 2]\n" + rate)
    dropout = load_sweep(file).tables["model"]["dropout"]
    assert dropout == {"schedule": "linear", "start": 0.0, "final": 0.5}


def test_what_the_table_fixes_is_of_the_config(file):
    file.write_text(TEXT + '[sweep]\n"train.steps" = 200\nmodel.activation = "tanh"\nseed = [1, 2]')
    sweep = load_sweep(file)
    assert sweep.space == {"seed": [1, 2]}
    assert (sweep.tables["train"]["steps"], sweep.tables["model"]["activation"]) == (200, "tanh")


@pytest.mark.parametrize(
    "word, name, more",
    [
        ("groups.rates[head/**]=log(0.1, 1)", "groups.rates[head/**]", []),
        ("groups.rates.head/**=log(0.1, 1)", "groups.rates[head/**]", []),
        (
            "schedule.milestones[1]=300:500",
            "schedule.milestones[1]",
            ['schedule={name="multistep", start=0.1, milestones=[100, 400]}'],
        ),
        (
            "model.dropout.final=uniform(0, 0.5)",
            "model.dropout.final",
            ['model.dropout={schedule="linear", start=0.0, final=0.2}'],
        ),
        (
            "optimizer.weight_decay[head/*]=uniform(0, 0.5)",
            "optimizer.weight_decay[head/*]",
            ['optimizer.weight_decay={"head/*"=0.1}'],
        ),
    ],
)
def test_paths_have_the_names_of_the_hypers(file, word, name, more):
    sweep = load_sweep(file, [*more, word])
    assert list(sweep.space) == [name]
    value = sweep.space[name][7] if isinstance(sweep.space[name], list) else 0.25
    trial = sweep.trial({name: value}, 0)
    assert trial.hypers[name] == value
    run = load(file, [*more, f"{name}={value}"])  # nnfunc train has the same names
    assert (trial.hypers, trial.build) == (run.hypers, run.build)


def test_overrides_of_one_run_name_elements_too(file):
    word = 'groups.rates[head/**]={schedule="linar", start=0}'
    with pytest.raises(ConfigError, match=r"^the command line: groups\.rates\[head/\*\*\]\.schedule"):
        load(file, [word])
    config = load(file, ["groups.rates[head/**]=0.5"])
    assert config.tables["groups"]["rates"] == {"head/**": 0.5}


def test_tables_by_pattern_in_the_table(file):
    groups = '[sweep.groups.rates]\n"head/**" = { log = [0.1, 1.0] }\n'
    weights = '[sweep.optimizer.weight_decay]\n"head/*" = [0.1, 0.2]\n'
    file.write_text(TEXT.replace("= 1e-2", '= { "head/*" = 0.1 }') + groups + weights)
    assert list(load_sweep(file).space) == ["groups.rates[head/**]", "optimizer.weight_decay[head/*]"]


# The runs


def as_words(settings):
    return [
        f"{path}={tomli_w.dumps({'v': v}).partition(' = ')[2]}"
        if not isinstance(v, dict)
        else f"{path}={{{', '.join(tomli_w.dumps(v).splitlines())}}}"
        for path, v in settings.items()
    ]


TRIALS = [
    {},
    {"schedule.peak": 0.02, "model.dropout": 0.35, "objective.label_smoothing": 0.0},
    {"seed": 3},
    {"seed": 3, "data.seed": 9},
    {"optimizer.clip": 0.7, "optimizer.b2": 0.9, "model.gain": 2, "schedule.total_steps": 700},
    {"schedule.warmup_steps": 10, "train.steps": 300},
    {"model.widths": [64, 8, 8, 10], "model.activation": "tanh", "model.norm": "layer"},
    {"data.batch_size": 32, "data.seed": 1, "task.accumulate": 2},
    {"optimizer": {"name": "sgd", "momentum": 0.9}, "optimizer.weight_decay": 0.25},
    {"optimizer.name": "adam"},
    {"average": {"name": "ema", "decay": 0.9}, "average.start": 20},
    {"augment.shift": {"pixels": 1}, "augment.shift.pixels": 2, "augment.mixup.alpha": 0.3},
    {"objective": {"name": "classification", "gamma": 2.0}, "objective.label_smoothing": 0},
    {"model.dropout": {"schedule": "linear", "start": 0.0, "final": 0.5}, "model.dropout.final": 0.4},
]


@pytest.mark.parametrize("settings", TRIALS, ids=str)
def test_a_trial_is_the_run_of_the_same_values(file, tmp_path, settings):
    words = as_words({"data.seed": 5} | settings)  # the order of the data stays that of the file
    run = load(file, words)
    sweep = load_sweep(file, ["seed=0:2"])
    trial = sweep.trial(settings, 0)
    assert trial.settings == settings
    assert trial.build == run.build
    assert trial.hypers == run.hypers
    assert np.array_equal(*map(jax.random.key_data, (trial.key, run.key())))
    assert trial.order == settings.get("data.seed")
    data = trial.data
    if trial.order is not None:
        data = dataclasses.replace(data, seed=nf.data.shuffle.as_uint32(trial.order))
    for mine, theirs in zip(data.batch(3), run.data().batch(3), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert data.validation is not None

    config = sweep.config(settings)
    assert (config, config.build, config.hypers) == (run, run.build, run.hypers)
    assert {"seed", "name"} < set(config.tables["data"])
    config.dump(tmp_path / "resolved.toml")
    again = load(tmp_path / "resolved.toml")
    assert again == config
    assert again.tables == config.tables


def test_nf_train_of_both_ends_in_the_same_weights(file):
    settings = {"schedule.peak": 0.02, "model.dropout": 0.35, "seed": 3}
    sweep = load_sweep(file, ["seed=0:2", "train.steps=4", "schedule.warmup_steps=1"])
    trial, run = sweep.trial(settings, 0), sweep.config(settings)
    both = [
        nf.train(trial.build, trial.hypers, trial.data, key=trial.key, steps=trial.intervals.steps),
        nf.train(run.build, run.hypers, run.data(), key=run.key(), steps=run.train["steps"]),
    ]
    mine, theirs = (jax.tree.leaves(state.params) for state, _ in both)
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_hypers_follow_the_steps(file):
    sweep = load_sweep(file, ["train.steps=[200, 400]"])
    first, second = (sweep.trial({"train.steps": steps}, 0) for steps in (200, 400))
    assert (first.hypers["schedule.total_steps"], second.hypers["schedule.total_steps"]) == (200, 400)
    assert first.build is second.build
    own = sweep.trial({"train.steps": 400, "schedule.total_steps": 300}, 0)
    assert own.hypers["schedule.total_steps"] == 300
    assert own.build is first.build


def test_reports_come_after_each_tenth_unless_the_file_says(file):
    sweep = load_sweep(file, ["train.steps=[205]"])
    assert sweep.trial({"train.steps": 205}, 0).intervals == (205, 20, 20, 20, None)
    assert sweep.trial({"train.steps": 5}, 0).intervals == (5, 1, 1, 1, None)
    sweep = load_sweep(file, ["seed=0:2", "train.log_every=7", "train.evaluate_every=9"])
    assert sweep.trial({}, 0).intervals == (1000, 7, 9, 100, None)


def test_trials_share_the_data_and_its_order(file):
    sweep = load_sweep(file, ["seed=0:3", "data.batch_size=[32, 64]"])
    data = [
        sweep.trial({"seed": seed, "data.batch_size": size} | order, 0).data
        for seed in range(3)
        for size in (32, 64)
        for order in ({}, {"data.seed": 8})
    ]
    assert len({id(one) for one in data}) == 2
    assert {int(one.seed) for one in data} == {5}


def test_data_is_loaded_once(file, monkeypatch):
    loaded = []
    digits = factories("data")["digits"]

    @functools.wraps(digits)
    def counted(**arguments):
        loaded.append(arguments)
        return digits(**arguments)

    monkeypatch.setitem(factories("data"), "digits", counted)
    config = load(file, ["augment.shift.pixels=1"])  # it asks the data for its background
    config.data()
    assert len(loaded) == 1
    words = ["augment.shift.pixels=1", "model.activation=choice(relu,tanh,gelu)", "data.seed=0:9"]
    sweep = load_sweep(file, words)
    for place, activation in enumerate(["relu", "tanh", "gelu"]):
        sweep.trial({"model.activation": activation, "data.seed": place, "seed": place}, place)
    assert len(loaded) == 2


def test_a_thousand_trials_check_their_tables_once_a_combination(file, monkeypatch):
    checked = []

    def counted(tables, mistakes):
        checked.append(tables)
        return fill_defaults(tables, mistakes)

    words = [*WORDS, "optimizer.clip=log(0.1,1)", "schedule.warmup_steps=[5, 50]"]
    words.remove("train.steps=int(100,400)")
    sweep = load_sweep(file, words)
    monkeypatch.setattr(sweep_config, "fill_defaults", counted)
    rng = np.random.default_rng(0)
    drawn = [
        {
            path: v.at(rng.random()) if isinstance(v, Distribution) else v[rng.integers(len(v))]
            for path, v in sweep.space.items()
        }
        for _ in range(1000)
    ]
    start = time.perf_counter()
    made = [sweep.trial(settings, place) for place, settings in enumerate(drawn)]
    assert time.perf_counter() - start < 10  # 0.2 s where nothing else runs
    assert len(checked) == 4  # widths and activation
    assert len({id(trial.build) for trial in made}) == 4
    for settings, trial in list(zip(drawn, made, strict=True))[::100]:
        run = sweep.config(settings)
        assert (trial.hypers, trial.build) == (run.hypers, run.build)


def whole(table, name, arguments):
    """A config in which a table names a factory."""
    tables = tomllib.loads(TEXT)
    if table == "augment":
        return tables | {"augment": {name: arguments}}
    return tables | {table: arguments if table in FIXED_FACTORIES else {"name": name} | arguments}


def traced_numbers():
    """Every number of every factory: (path, tables, steps of the path)."""
    for table in TASK_TABLES:
        for name, factory in factories(table).items():
            own = get_schema(table, name)
            needed = [
                key
                for key, parameter in inspect.signature(factory).parameters.items()
                if parameter.default is inspect.Parameter.empty
                and key in own.types
                and not (table == "optimizer" and key == "learning_rate")
            ]
            arguments = {key: parse_value(own.types[key].example) for key in needed}
            start = f"augment.{name}" if table == "augment" else table
            for key, kind in own.types.items():
                if not kind.traced or (table, key) == ("optimizer", "learning_rate"):
                    continue
                if "a number" in kind.singular:
                    yield f"{start}.{key}", whole(table, name, arguments)
                elif kind.may_be_list and "table" not in kind.singular:
                    yield f"{start}.{key}[1]", whole(table, name, arguments | {key: [0.1, 0.2]})
                else:
                    own_table = arguments | {key: {"head/**": 0.1}}
                    yield f"{start}.{key}[head/**]", whole(table, name, own_table)


def test_every_number_of_every_factory_may_be_swept():
    seen = 0
    for path, tables in traced_numbers():
        sweep = SweepConfig(tables, {}, {}, "config")
        one, other = (sweep.trial({path: value}, 0) for value in (0.25, 0.5))
        assert (one.hypers[path], other.hypers[path]) == (0.25, 0.5), path
        assert one.hypers | {path: 0.5} == other.hypers, path
        assert one.build is other.build, path
        set_value(tables, parse_key(path), 0.25)
        seen += 1
    assert seen > 150
    bare = SweepConfig({k: v for k, v in tomllib.loads(TEXT).items() if k != "schedule"}, {}, {}, "config")
    assert bare.trial({"optimizer.learning_rate": 0.5}, 0).hypers["optimizer.learning_rate"] == 0.5


def test_the_tables_stay_as_they_were(file):
    sweep = load_sweep(file, ["seed=0:2"])
    for settings in TRIALS:
        sweep.trial(settings, 0)
        sweep.config(settings)
    assert sweep.tables == tomllib.loads(TEXT)


def test_a_trial_that_is_no_config_is_named(file):
    sweep = load_sweep(file, ["seed=0:2", "schedule.warmup_steps=[5, 2000]", "train.steps=[9, 9000]"])
    with pytest.raises(ConfigError, match=r"small\.toml: trial 7: model\.norm: .*'layer'"):
        sweep.trial({"model.norm": "layr"}, 7)
    with pytest.raises(ConfigError, match=r"trial 7: schedule\.peak: should be at least 0, got -1"):
        sweep.trial({"schedule.peak": -1}, 7)
    with pytest.raises(ConfigError, match=r"trial 7: average\.start: .* below train\.steps = 1000"):
        sweep.trial({"average": {"name": "swa"}, "average.start": 2000}, 7)
    with pytest.raises(ConfigError, match=r"trial 7: train: steps should be at least 1, got 0"):
        sweep.trial({"train.steps": 0}, 7)
    with pytest.raises(ConfigError, match=r"trial 7: seed is a value, not a table"):
        sweep.trial({"seed.x": 0}, 7)
    refused = {"schedule.warmup_steps": 2000, "train.steps": 9}
    trial = sweep.trial(refused, 0)
    with pytest.raises(ValueError, match="warmup_cosine"):
        trial.build(trial.hypers)
    with pytest.raises(ConfigError, match="too few"):
        sweep.config(refused)


# The mistakes


def problems(path, *words, **options):
    with pytest.raises(ConfigError) as caught:
        load_sweep(path, words, options)
    lines = [str(problem) for problem in caught.value.problems]
    assert str(caught.value) == "\n".join(lines)
    return lines


WRONG = {
    "schedule.pek=log(1, 2)": "schedule.pek: warmup_cosine has no such key, got 1.0; did you mean 'peak'?",
    "optimiser.learning_rate=0:3": "optimiser: there is no such table; did you mean 'optimizer'?",
    "sed=0:3": "sed: there is no such key; did you mean 'seed'?",
    "average.decay=uniform(0, 1)": "average.decay: there is no table average; write average = { name = "
    '"ema", decay = 0.999 }.',
    "schedule.peak=log(0,1)": "schedule.peak: log: low should be above 0, got 0.",
    "schedule.peak=log(1e-4)": "schedule.peak: log should have two numbers, such as log(1e-4, 1e-1), got 1 value.",
    "schedule.peak=log(1e-4,1e999)": "schedule.peak: log: high should be a finite number, got inf (float).",
    "schedule.peak=log(1e-60,1)": "schedule.peak: log: the ends should be 0 or, without the sign, from "
    "1.2e-38 to 3.4e+38, the range of float32.",
    "schedule.peak=log(a,b)": "schedule.peak: log: low should be a finite number, got 'a' (str).",
    "model.dropout=uniform(1,0)": "model.dropout: uniform: low should be at most high, got 1 and 0.",
    "model.dropout=uniform(0,2)": "model: dropout: rate should be in [0, 1], got 2.0.",
    "schedule.warmup_steps=int(1,2.5)": "schedule.warmup_steps: int: high should be an integer, got 2.5 (float).",
    "schedule.warmup_steps=int(0,99999999999999999999)": "schedule.warmup_steps: int: high should be from -2**31 to 2**31 - 1, got 99999999999999999999.",
    "schedule.warmup_steps=int(-9000000000000000000,9000000000000000000)": "schedule.warmup_steps: int: low should be from -2**31 to 2**31 - 1, got -9000000000000000000.",
    "seed=0:0": "seed: a range should have at least one number, got 0:0. The end does not belong to the range.",
    "seed=0:8:0": "seed: the step of a range should not be 0, got 0:8:0.",
    "seed=0:1.5": "seed: a range should have integers, such as 0:8 or 0:80:10, got '0:1.5' (str).",
    "seed=0:99999999": "seed: a range should have at most 1,000,000 numbers, got 0:99999999. Use int(0, 99999998).",
    "seed=-3:3": "seed: should be an integer from 0 to 2**32 - 1, got -3 (int).",
    "data.seed=[0, 0.5]": "data.seed: should be an integer from 0 to 2**32 - 1, got 0.5 (float).",
    "seed=uniform(0, 3)": "seed: should have a distribution of integers, got uniform(0, 3). Use int(1, 4), or a list.",
    "data.batch_size=log(8, 64)": "data.batch_size: should have a distribution of integers, got log_uniform(8, 64). Use int(1, 4), or a list.",
    "model.dropout=[]": "model.dropout: the list should have at least one option, got [].",
    "model.dropout=choice()": "model.dropout: choice should have at least one option, got none.",
    "model.dropout=log(0.1, 1": "model.dropout: should end with a bracket, such as log(1e-4, 1e-1), got 'log(0.1, 1' (str).",
    "model.dropout=[0.1, 0.2": "model.dropout: should be a list or table in TOML, got '[0.1, 0.2' (str).",
    "model.dropout={log=3}": "model.dropout: log should be a list, such as { log = [1e-4, 1e-1] }, got 3 (int).",
    "model.dropout=lo(0.1, 1)": "model.dropout: there is no lo(...); did you mean 'log'?",
    "model.activation=lo(1,2)": "model: activation: there is no activation 'lo(1,2)'; ",
    'model.activation=["relu", "rleu"]': "model: activation: there is no activation 'rleu'; did you mean 'relu'",
    'model.norm=["batch", "layr"]': "model.norm: should be one of 'batch', 'layer', 'rms', got 'layr' (str); did you mean 'layer'?",
    'optimizer.name=["adamw", "lionn"]': "got 'lionn'; did you mean 'lion'?",
    'optimizer=[{name="sgd", momntum=0.9}, {name="adamw"}]': "optimizer.momntum: sgd has no such key, got 0.9; did you mean 'momentum'?",
    "model.activation=log(1,2)": "model.activation: should be text, got 1.0 (float).",
    "model.widths=[[64, 10], [64, 0.5]]": "model.widths: should be a list of integers, got [64, 0.5] (list).",
    "train.steps=[100, 20, 1000]": "train.steps = 20 is too few for schedule.warmup_steps = 50.",
    "model.widths.x=0:2": "model.widths.x: model.widths is a value, not a table.",
    "schedule.peak[0]=0:2": "schedule.peak[0]: schedule.peak is a value, not a table.",
    "model.widths[9]=0:2": "model.widths[9]: model.widths has 3 values, so there is no index 9.",
    'model.dropout={schedule="linar", start=0}': "model.dropout.schedule: should be one of",
    "seed=1": "there is nothing to sweep. Give distributions, ",
    "trials=3": "trials: is not a setting of the config; write --trials 3.",
    "sweep.seed=0:3": "sweep.seed: is not a setting of the config; leave out 'sweep.'.",
    "seed": "a setting should be key=value, such as seed=0:8 or train.steps=2000, got 'seed'.",
    f"model{'.x' * 2000}=0:8": "a setting should be key=value, such as seed=0:8",
    "=0:8": "a setting should be key=value",
}


@pytest.mark.parametrize("word", WRONG, ids=lambda word: word[:60])
def test_a_wrong_word_is_one_line_that_names_it(file, word):
    fixed = word.startswith(("model.activation=lo(", "model.dropout={sch"))
    more = ["data.seed=0:2"] if fixed else []
    (line,) = problems(file, word, *more)
    assert WRONG[word] in line
    assert line.startswith(("the command line: ", f"{file}"))


WRONG_TABLES = {
    '"schedule.peak" = { lgo = [1e-4, 1e-1] }': "sweep.schedule.peak: should be such as { log = [1e-4, 1e-1] }, "
    "got {'lgo': [0.0001, 0.1]} (dict); did you mean 'log'?",
    '"schedule.peak" = { log = [1e-4, 1e-1], base = 10 }': "sweep.schedule.peak: should be such as { log",
    '"schedule.peak" = { log = [1e-4] }': "sweep.schedule.peak: log should have two numbers",
    "seed = { range = [0] }": "sweep.seed: range should have two or three integers, such as 0:8 or 0:80:10, got 0.",
    "seed = { range = [0, true] }": "sweep.seed: range should have two or three integers",
    '"seed" = { range = 8 }': "sweep.seed: range should be a list, such as { range = [0, 8] }, got 8 (int).",
    "trals = 3\nseed = [0]": "sweep.trals: there is no such key; did you mean 'trials'?",
    "trials = 0.5\nseed = [0]": "sweep.trials: should be an integer from 1 to 1,000,000, got 0.5 (float).",
    "chunk = true\nseed = [0]": "sweep.chunk: should be an integer from 1 to 1,000,000, got True (bool).",
    'method = "grd"\nseed = [0]': "sweep.method: should be one of 'random', 'grid', 'sobol', 'latin', got 'grd' (str); did you mean 'grid'?",
    'best = "accuracy"\nseed = [0]': "sweep.best: should be such as 'min loss' or 'max accuracy', got 'accuracy' (str).",
    "search = 3\nseed = [0]": 'sweep.search: should be a name or a table, such as { name = "halving", eta = 4 }, got 3 (int).',
    "execution = 3\nseed = [0]": "sweep.execution: should be one of 'auto', 'vmap', 'loop', 'threads', 'devices', got 3 (int)",
    '"model.dropot" = [0.1, 0.2]': "model.dropot: mlp has no such key, got 0.1; did you mean 'dropout'?",
    '"model.dropout" = [0.1]\nmodel.dropout = [0.2]': "sweep.model.dropout: is written twice; leave out one of the two.",
    '"model..dropout" = [0.1]': "sweep: each key should be the dotted key of a setting, got 'model..dropout'.",
    "": "there is nothing to sweep.",
}


@pytest.mark.parametrize("table", WRONG_TABLES)
def test_a_wrong_table_is_one_line_that_names_it(file, table):
    file.write_text(f"{TEXT}[sweep]\n{table}")
    (line,) = problems(file)
    assert line.removeprefix(f"{file}: ").startswith(WRONG_TABLES[table])


def test_a_sweep_that_is_no_table(file):
    file.write_text("sweep = 3" + TEXT)
    (line,) = problems(file)
    assert "sweep: should be a table, such as sweep = {" in line


def test_all_mistakes_are_told_together(file):
    file.write_text(TEXT.replace("steps = 1000", "stps = 1000") + "[sweep]\nmembrs = 3\n")
    lines = problems(
        file,
        "seed=0:0",
        "seed=1",
        "schedule.peak=log(0,1)",
        "model.dropot=[0.1, 0.2]",
        'model.norm=["btch", "layr"]',
        "optimizer.b1=lo(1)",
        trials=0,
        chnk=2,
    )
    wanted = [
        "membrs",
        "seed: is written",
        "peak: log",
        "lo(...)",
        "--trials",
        "--chnk",
        "dropot",
        "'btch'",
        "'layr'",
        "train.stps",
        "train.steps",
    ]
    for word in wanted:
        assert sum(word in line for line in lines) == 1, (word, lines)
    assert len(lines) == len(wanted)


def test_an_option_that_fits_some_of_the_others_is_let_through(file):
    words = ["schedule.warmup_steps=[500, 10]", "train.steps=[100, 1000]"]
    assert list(load_sweep(file, words).space) == ["schedule.warmup_steps", "train.steps"]
    (line,) = problems(file, 'optimizer.name=["sgd", "adamw"]', "optimizer.momentum=[0.0, 0.9]")
    assert "optimizer.momentum: adamw has no such key" in line


def test_a_comparison_is_no_sweep(file):
    file.write_text("[every]\n[models]\n")
    (line,) = problems(file, "seed=0:2")
    assert "this is a comparison of several models" in line
    (line,) = problems(file.with_name("smal.toml"))
    assert "did you mean 'small.toml'?" in line


# A file with a sweep, trained


def test_train_passes_over_the_sweep(file, tmp_path):
    alone = load(file)
    file.write_text(TEXT + SWEEP)
    assert load(file) == alone
    folder = train.train(file, ["train.steps=2", "schedule.warmup_steps=1"], tmp_path / "run")
    assert "sweep" not in tomllib.loads((folder / "config.toml").read_text())
    with pytest.raises(ConfigError, match=r"sweep\.trials: a single run has no table sweep. Use it with: .*sweep"):
        load(file, ["sweep.trials=3"])
    file.write_text(TEXT + "[swep]\ntrials = 3")
    with pytest.raises(ConfigError, match="swep: there is no such table; did you mean 'sweep'"):
        load(file)


# Anything at all

PATHS = st.sampled_from(
    [
        "seed",
        "data.seed",
        "model.dropout",
        "model.widths",
        "model.activation",
        "optimizer",
        "schedule.peak",
        "train.steps",
        "schedule.milestones[0]",
        "groups.rates[a/*]",
        "augment.shift.pixels",
        "model",
        "trials",
    ]
)
NUMBERS = st.sampled_from(
    [
        "0",
        "1",
        "2",
        "-1",
        "1e-4",
        "0.5",
        "1e400",
        "nan",
        "inf",
        "9999999999999999999999",
        "true",
        "x",
        "[1]",
        "''",
        "0x1",
    ]
)
PIECES = st.sampled_from([*"()[]{},:=.\"'-+ \n", *["log", "uniform", "int", "choice", "range", "lo"]])
CALLS = st.builds(
    "{}({})".format,
    st.sampled_from(["log", "uniform", "int", "choice", "range", "lo"]),
    st.lists(NUMBERS, max_size=3).map(",".join),
)
RANGES = st.lists(NUMBERS, min_size=2, max_size=3).map(":".join)
LISTS = st.lists(NUMBERS, max_size=3).map(lambda items: f"[{', '.join(items)}]")
PIECED = st.lists(PIECES | NUMBERS, max_size=7).map("".join)
VALUES = CALLS | RANGES | LISTS | PIECED | st.text(max_size=12)


def told(path, words, options=None):
    """What is wrong, or a sweep."""
    try:
        sweep = load_sweep(path, words, options)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    assert all(isinstance(v, Distribution) or len(v) for v in sweep.space.values())
    return [f"{len(sweep.space)} settings"] if sweep.space else []


def check_told(lines):
    assert lines
    assert all(line.isprintable() for line in lines)


@hypothesis.example(["trials=\ud7fc", "seed=0:2\n", "model.dropout=log(1\n,2)"])
@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.lists(st.builds("{}={}".format, PATHS | st.text(max_size=6), VALUES), max_size=3))
def test_no_words_give_anything_but_a_config_error(tmp_path_factory, words):
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_text(TEXT)
    check_told(told(path, words))


TOML = st.recursive(
    st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["log", "uniform", "int", "range", "choice", "peak", "x"]) | st.text(max_size=4),
            inner,
            max_size=2,
        )
    ),
    max_leaves=5,
)
OPTIONS = st.sampled_from(["trials", "method", "seeds", "best", "search", "chunk", "execution"])


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.dictionaries(PATHS | OPTIONS | st.text(max_size=5), TOML, max_size=3))
def test_no_table_gives_anything_but_a_config_error(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp() / "fuzz_table.toml"
    path.write_bytes(tomli_w.dumps(tomllib.loads(TEXT) | {"sweep": table}).encode())
    check_told(told(path, []))
    check_told(told(path, ["seed=0:2"], table))
