"""`nnfunc profile`: the parts of a step, its operations by layer, memory by layer, and a trace."""

import pytest
from helpers.command_line import main

from nnfunc.commands.list_runs.collect_runs import collect_runs
from nnfunc.commands.profile_steps import operation_layers, profile

CONFIG = """
seed = 0
data = { name = "digits", batch_size = 64 }
model = { name = "mlp", widths = [64, 32, 10] }
objective = { name = "classification" }
optimizer = { name = "adamw", learning_rate = 1e-2 }
train = { steps = 20 }
"""


def test_what_a_step_takes(tmp_path, capsys):
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "runs").mkdir()
    result = profile(tmp_path / "config.toml", [], tmp_path / "runs" / "trace")
    assert set(result.once) == {"data", "trace", "compile"}
    assert set(result.step) == {"data", "host", "device"}
    assert all(seconds > 0 for seconds in [*result.once.values(), *result.step.values()])
    weight = (64 * 32 + 32) * 4
    assert result.memory["hidden_0/linear"] == {"parameters": weight, "optimizer": 2 * weight, "outputs": 64 * 32 * 4}
    assert result.memory["head"]["outputs"] == 64 * 10 * 4
    assert any(name.startswith("hidden_0/linear: ") for name in result.operations)
    assert any(name.startswith("head backward: ") for name in result.operations)
    times = list(result.operations.values())
    assert times == sorted(times, reverse=True)
    assert list(result.folder.rglob("perfetto_trace.json.gz"))
    assert collect_runs(tmp_path / "runs") == []  # a trace is no run
    printed = capsys.readouterr().out
    assert "of a run of 20 steps" in printed
    assert "hidden_0/linear" in printed


def test_blocks_of_a_repeat_count_together(tmp_path):
    text = """
    data = { name = "text", path = "TEXT", block_size = 8, batch_size = 4 }
    model = { name = "gpt", vocab_size = 64, block_size = 8, layers = 3, heads = 2, dim = 8 }
    objective = { name = "language_modelling" }
    optimizer = { name = "sgd", learning_rate = 1e-2 }
    train = { steps = 20 }
    """
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    (tmp_path / "config.toml").write_text(text.replace("TEXT", str(tmp_path / "text.txt")))
    memory = profile(tmp_path / "config.toml", [], tmp_path / "trace").memory
    assert memory["blocks/mlp/up"]["parameters"] == 3 * (8 * 32 + 32) * 4
    assert memory["blocks/mlp/up"]["outputs"] == 3 * 4 * 8 * 32 * 4


@pytest.mark.parametrize(
    ("op_name", "expected"),
    [
        ("jit(step)/jvp(blocks)/while/body/closed_call/attend_norm/div", "blocks/attend_norm: div"),
        ("jit(step)/transpose(jvp(norm))/jvp(norm)/checkpoint/reduce_sum", "norm backward: reduce_sum"),
        ("jit(step)/jvp(blocks)/attend/...td,...sd->...ts/dot_general", "blocks/attend: dot_general"),
        ("jit(step)/add", "step: add"),
    ],
)
def test_names_of_instructions_name_layers(op_name, expected):
    assert operation_layers(f'  ROOT %x.1 = f32[2]{{0}} add(%a), metadata={{op_name="{op_name}"}}\n') == {
        "x.1": expected
    }


@pytest.mark.parametrize("opcode", ["while", "conditional"])
def test_loops_and_branches_do_not_count_beside_what_they_run(opcode):
    inside = '  %x.1 = f32[2]{0} add(%a), metadata={op_name="jit(step)/while/body/add"}\n'
    around = f'  %y.1 = (s32[], f32[2]{{0}}) {opcode}(%a), body=%b, metadata={{op_name="jit(step)/while"}}\n'
    assert operation_layers(inside + around) == {"x.1": "step: add"}


def test_a_mistake_is_one_line(tmp_path, capsys):
    (tmp_path / "config.toml").write_text(CONFIG.replace("mlp", "mpl"))
    assert main("profile", tmp_path / "config.toml", "--run", tmp_path / "trace") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "trace").exists()
