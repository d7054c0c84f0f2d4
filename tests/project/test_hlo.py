"""What the train steps compile to: instructions, FLOPs and memory cannot grow unnoticed.

The steps are those of scripts/bench.py, in their full sizes; nothing is run.
"""

import json
import os
import subprocess
import sys

import pytest
from helpers.project import ROOT

from scripts.speed import frozen, hlo

COMPILE = """
import json, sys
import jax
from scripts.speed import frozen
jax.config.update("jax_platforms", sys.argv[1])
print(json.dumps({name: frozen.of(case) for name, case in getattr(frozen, sys.argv[2]).items()}))
"""


def compiled(group):
    """The figures of all cases of a group, from a process of its own: here programs are compiled
    without optimization."""
    words = (sys.executable, "-c", COMPILE, os.environ.get("JAX_PLATFORMS", "cpu"), group)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def figures():
    return compiled("CASES")


@pytest.mark.parametrize("name", frozen.CASES)
def test_a_step_compiles_to_no_more_than_before(name, figures):
    golden = frozen.known()
    at = frozen.nearest(golden, *hlo.where())
    if at is None:
        pytest.skip(f"nothing is kept for {hlo.where()[0]}: python scripts/bench.py --freeze")
    kept = golden[at[0]][at[1]][name]
    grown = frozen.too_many(figures[name], kept, exact=at == hlo.where())
    assert not grown, f"the {name} step has more than with jax {at[1]}: {grown}. {frozen.RENEW}"


@pytest.mark.slow
def test_depth_adds_no_instructions():
    """The blocks of a Transformer are one loop: 8 layers compile to as many instructions as 4."""
    figures = compiled("DEPTHS")
    four, eight = figures["gpt of 4"], figures["gpt of 8"]
    assert [four[op] for op in ("dot", "while")] == [eight[op] for op in ("dot", "while")]
    assert eight["instructions"] == pytest.approx(four["instructions"], rel=0.01)


def test_instructions_are_counted_by_family():
    text = """HloModule jit_step, is_scheduled=true

%fused_computation (param_0: f32[4]) -> f32[4] {
  %param_0 = f32[4]{0} parameter(0)
  ROOT %add.1 = f32[4]{0} add(%param_0, %param_0)
}

ENTRY %main (a: f32[4,4], b: f32[4]) -> (f32[4], /*index=1*/f32[4]) {
  %a = f32[4,4]{1,0} parameter(0)
  %while.2 = (s32[], f32[4]{0}, /*index=2*/f32[4,4]{1,0}) while(%tuple), condition=%c, body=%b
  %dot.4 = f32[4]{0} dot(%a, %b), lhs_contracting_dims={1}, metadata={op_name="jit(f)/dot(x)"}
  %add_fusion = f32[4]{0} fusion(%dot.4), kind=kLoop, calls=%fused_computation
  ROOT %tuple.1 = (f32[4]{0}, f32[4]{0}) tuple(%dot.4, %add_fusion)
}
"""
    assert hlo.count(text) == {"instructions": 4, "dot": 1, "fusion": 1, "while": 1}


def test_more_is_told_and_less_is_fine():
    kept = {"instructions": 100, "dot": 10, "temporary_bytes": 1000}
    same = {"instructions": 90, "dot": 10, "temporary_bytes": 1090}
    assert frozen.too_many(same, kept, exact=True) == []
    more = {**same, "dot": 11, "copy": 1}
    assert frozen.too_many(more, kept, exact=True) == ["copy 1, was 0", "dot 11, was 10"]
    assert frozen.too_many({**more, "instructions": 115}, kept, exact=False) == []
    assert frozen.too_many({"temporary_bytes": 1200}, kept, exact=False) == ["temporary_bytes 1200, was 1000"]


def test_the_nearest_version_and_machine_is_chosen():
    golden = {"cpu-x86_64": {"0.10": {}, "0.12": {}}, "cuda": {"0.10": {}}}
    assert frozen.nearest(golden, "cpu-x86_64", "0.12") == ("cpu-x86_64", "0.12")
    assert frozen.nearest(golden, "cpu-x86_64", "0.14") == ("cpu-x86_64", "0.12")
    assert frozen.nearest(golden, "cpu-arm64", "0.9") == ("cpu-x86_64", "0.10")
    assert frozen.nearest(golden, "tpu", "0.12") is None
