"""The plan of a step: what it takes on each of many devices, and the least time of it on a chip."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.command_line import main, run_process

from nnfunc.commands import plan_run as plan_command
from nnfunc.commands.plan_run import plan_step
from nnfunc.config import load
from nnfunc.distributed.chips import CHIPS, Chip, bounds, link_seconds
from nnfunc.distributed.collectives import Collective, _group, collective_bytes
from nnfunc.layers.attention.backends import planned_for_gpu
from nnfunc.layers.attention.functional import attend

CONFIG = """
data = { name = "digits", batch_size = 32 }
model = { name = "mlp", widths = [64, 16, 10] }
objective = { name = "classification" }
optimizer = { name = "adamw", clip = 1.0 }
schedule = { name = "constant", value = 1e-2 }
train = { steps = 40 }
average = { name = "ema", decay = 0.9 }
"""
PARAMS = 4 * (64 * 16 + 16 + 16 * 10 + 10)
MATRICES = 4 * (64 * 16 + 16 * 10)
CHIP = Chip(100.0, 50.0, 1000, 10.0, 4.0, 1.0, 2, "by hand")


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(CONFIG)
    return file


def step(file, axes, **settings):
    mesh = "mesh={" + ", ".join(f"{name}={size}" for name, size in axes.items()) + "}"
    return plan_step(load(file, [mesh, *(f"{name}={value}" for name, value in settings.items())]), axes)


def test_data_parallel_by_hand(config):
    alone, result = step(config, {"data": 1}), step(config, {"data": 4})
    assert result.memory["parameters"] == PARAMS
    assert PARAMS <= result.memory["averages"] <= PARAMS + 8  # and a counter
    assert 2 * PARAMS <= result.memory["optimizer state"] <= 2 * PARAMS + 32  # and counters
    assert alone.collectives == []
    assert PARAMS <= collective_bytes(result.collectives)["all-reduce"] < PARAMS + 100
    assert {part.group for part in result.collectives} == {(0, 1, 2, 3)}
    products = 32 * 64 * 16 + 2 * 32 * 16 * 10  # forward, and the gradients of all weights and of the hidden layer
    flops = sum(alone.flops.values())
    assert 2 * (2 * products) < flops < 1.5 * 2 * (2 * products)
    assert sum(result.flops.values()) == pytest.approx(flops / 4, rel=0.1)
    assert result.flops["bfloat16"] == 0


def test_fsdp_divides_the_state(config):
    result = step(config, {"data": 4}, shard='"fsdp"')
    assert result.memory["parameters"] == PARAMS - MATRICES + MATRICES // 4
    assert {"all-gather", "reduce-scatter"} <= set(collective_bytes(result.collectives))


def test_bfloat16_is_counted(config):
    result = step(config, {"data": 2}, task='{precision="bfloat16"}')
    assert result.flops["bfloat16"] > 0.7 * sum(result.flops.values())


def test_attention_is_fused_where_a_gpu_fuses_it(tmp_path):
    file = tmp_path / "gpt.toml"
    (np.arange(8000) % 50).astype(np.uint16).tofile(tmp_path / "it.bin")
    model = 'model = { name = "gpt", vocab_size = 50, block_size = 512, layers = 1, heads = 8, dim = 64 }'
    data = 'data = { name = "tokens", path = "it.bin", block_size = 512, vocab_size = 50, batch_size = 4 }'
    rest = CONFIG.replace("classification", "language_modelling").splitlines()[3:]
    file.write_text("\n".join([data, model, *rest, 'task = { precision = "bfloat16" }']))
    config = load(file, ["mesh.data=1"])
    plain, fused = (plan_step(config, {"data": 1}, gpu=gpu) for gpu in (False, True))
    scores = 4 * 8 * 512 * 512 * 4  # bytes in float32, which the gradient needs twice
    assert plain.temporaries - fused.temporaries > scores
    assert (fused.memory, fused.flops) == (plain.memory, plain.flops)


@pytest.mark.parametrize("shard", ["replicated", "fsdp"])
def test_a_part_of_the_mesh_stands_for_all_of_it(config, shard, monkeypatch):
    expected = step(config, {"data": 4}, shard=f'"{shard}"')
    monkeypatch.setattr(plan_command, "LARGEST", 2)
    result = step(config, {"data": 4}, shard=f'"{shard}"')
    assert result.compiled == {"data": 2}
    check_equal_plans(result, expected)


def check_equal_plans(result, expected):
    assert (result.memory, result.batch_size, result.updated) == (
        expected.memory,
        expected.batch_size,
        expected.updated,
    )
    assert result.flops == expected.flops
    totals, expected_totals = (collective_bytes(plan.collectives) for plan in (result, expected))
    assert totals == pytest.approx(expected_totals, rel=0.02, abs=200)
    assert {part.group for part in result.collectives} == {part.group for part in expected.collectives}
    assert result.temporaries == pytest.approx(expected.temporaries, rel=0.3)  # parts of gradients


MANY = """
import json, sys
from pathlib import Path
import jax
import jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 64)
from nnfunc.commands import plan_run as plan
from nnfunc.config import load
from nnfunc.distributed.collectives import collective_bytes
for largest in (2048, 8):
    plan.LARGEST = largest
    for axes in ({"data": 16}, {"data": 64}, {"data": 16, "model": 4}):
        mesh = "mesh={" + ", ".join(f"{n}={s}" for n, s in axes.items()) + "}"
        one = plan.plan_step(load(sys.argv[1], [mesh, "data.batch_size=64", 'shard="fsdp"']), axes)
        groups = sorted({part.group for part in one.collectives})
        bytes = collective_bytes(one.collectives)
        print(json.dumps([one.memory, bytes, groups, one.temporaries, sum(one.flops.values())]))
"""


@pytest.mark.slow
def test_scaled_plans_equal_those_of_64_devices(config, tmp_path):
    (tmp_path / "many.py").write_text(MANY)
    file = tmp_path / "gpt.toml"
    model = '{ name = "mlp", widths = [64, 256, 10] }'
    file.write_text(CONFIG.replace('{ name = "mlp", widths = [64, 16, 10] }', model))
    done = run_process(str(tmp_path / "many.py"), str(file))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for expected, actual in zip(lines[:3], lines[3:], strict=True):
        assert actual[0] == expected[0]
        assert actual[1] == pytest.approx(expected[1], rel=0.05, abs=400)
        assert actual[2] == expected[2]
        assert actual[3] == pytest.approx(expected[3], rel=0.4)  # of the gradients a part, an eighth at most
        assert actual[4] == expected[4]


def test_the_command_prints_all_parts(config, capsys):
    before = len(jax.live_arrays())
    command = ("plan", config, "--devices", 4, "--shard", "fsdp", "--chip", "h100")
    assert main(*command) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert "data = 4 (4 devices), shard fsdp" in text
    for part in ("parameters", "optimizer state", "averages", "temporaries", "FLOPs", "all-gather", "over data"):
        assert part in text
    for words in ("the bound is", "it fits", CHIPS["h100"].source):
        assert words in text
    assert len(jax.live_arrays()) < before + 60  # the data set and the numbers, no state of 4 devices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--devices", 4, "--mesh", "data=2"), "the mesh should have 4 devices, got 2 of data = 2"),
        (("--chip", "h10"), "got 'h10'; did you mean 'h100'"),
        (("--mesh", "data:2"), "mesh should be axes with sizes, such as data=8,model=8, got 'data:2'"),
        (("--mesh", "data=-1"), "--devices should be a multiple of 1, for one axis of -1 in data = -1"),
        (("--mesh", "data=3"), "the 3 devices of the mesh axis 'data' should divide batch_size, got 32"),
        (("--mesh", "data=2", "--shard", "fspd"), "did you mean 'fsdp'"),
        (("--mesh", "data=0"), "data should be at least 1, got 0"),
        (("--mesh", "data=2", "--shard", "tensor"), "the mesh should have an axis 'model' for 'tensor'"),
    ],
)
def test_a_mistake_is_told_in_one_line(config, capsys, options, message):
    assert main("plan", config, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_pattern_that_does_not_divide(config, capsys):
    assert main("plan", config, "--mesh", "data=4", 'shard={"head/weight"=["", "data"]}') == 2
    assert "should divide the axis of size 10" in capsys.readouterr().err


def part(operation, size, group, count=1):
    return Collective(operation, size, len(group), count, "", tuple(group))


@pytest.mark.parametrize(
    ("collective", "seconds"),
    [
        (part("all-gather", 80, (0, 1)), 10.0),  # half of it, over 4 bytes/s
        (part("all-reduce", 80, (0, 1), count=3), 60.0),  # twice, three times
        (part("all-gather", 80, (0, 2)), 40.0),  # on two nodes, one device of each: half of it over 1 byte/s
        (part("reduce-scatter", 80, (0, 1, 2, 3)), 20.0),  # half of it by the two of a node; 10 s within the node
        (part("all-to-all", 80, (0, 1, 2, 3)), 40.0),  # two of four parts go to the other node
        (part("collective-permute", 80, (0, 1)), 20.0),
        (part("collective-permute", 80, (1, 2)), 80.0),
        (part("all-reduce", 80, (3,)), 0.0),
    ],
)
def test_seconds_of_a_link_by_hand(collective, seconds):
    assert link_seconds(CHIP, collective) == pytest.approx(seconds)


def test_bounds_by_hand():
    parts = [part("all-gather", 80, (0, 1)), part("all-gather", 8, (0, 2))]
    assert bounds(CHIP, {"bfloat16": 300.0, "float32": 100.0}, 70, parts) == (5.0, 7.0, 14.0)


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_is_consistent(name):
    chip = CHIPS[name]
    assert chip.network < chip.link < chip.bandwidth < chip.float32 <= chip.bfloat16
    assert chip.source
    assert math.isfinite(sum(chip[:7]))


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups=[2,4]<=[8], use", (0, 1, 2, 3)),
        ("replica_groups=[2,4]<=[4,2]T(1,0), use", (0, 2, 4, 6)),
        ("replica_groups={{0,2},{1,3}}, use", (0, 2)),
        ("source_target_pairs={{0,1},{1,0}}, use", (0, 1)),
        ("source_target_pairs={{0,0},{1,4},{4,1}}, use", (1, 4)),
        ("source_target_pairs={{0,0},{1,1}}, use", ()),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, use", (0, 2)),
        ("channel_id=1", ()),
    ],
)
def test_the_first_group_of_a_collective(text, group):
    assert _group(text) == group


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "window": 3}])
def test_what_stands_for_cudnn_gives_its_values(options):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 256, 2, 8), jnp.bfloat16)
    with planned_for_gpu(True):
        fused = attend(q, k, v, **options)
    plain = attend(q, k, v, **options)
    np.testing.assert_allclose(fused.astype(np.float32), plain.astype(np.float32), atol=2e-2)
