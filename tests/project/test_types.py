"""The package ships its types: pyright sees those of `nf.*` in a user's script."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.project import ROOT

SCRIPT = """
import jax
import nnfunc as nf

model = nf.serial(nf.linear(3, 2), jax.nn.relu)
reveal_type(model)
reveal_type(model.apply_train)
x = jax.numpy.ones((4, 3))
reveal_type(nf.losses.mse(model.apply({}, x), x))
reveal_type(nf.optimizers.adamw(1e-3))
reveal_type(nf.schedules.cosine(1.0, 10))
nf.linear(3)
nf.linear("3", 2)
"""
PYRIGHT = shutil.which("pyright", path=Path(sys.executable).parent) or shutil.which("pyright")


def test_the_package_says_that_it_has_types():
    assert (ROOT / "nnfunc" / "py.typed").exists()


@pytest.mark.slow
@pytest.mark.skipif(PYRIGHT is None, reason="pyright is not installed")
def test_a_users_script_has_types(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    command = [PYRIGHT, "--outputjson", "--pythonpath", sys.executable, "-p", tmp_path]
    output = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["generalDiagnostics"]
    revealed = [re.sub(r'.* is "(.*)"$', r"\1", d["message"]) for d in output if d["severity"] == "information"]
    assert revealed[0] == "Model"
    assert revealed[1].startswith("(params:")
    assert revealed[1].endswith("-> tuple[Any, Any]")
    assert revealed[2:4] == ["Array", "Optimizer"]
    assert revealed[4] == "Schedule" or "Array" in revealed[4]
    assert [d["rule"] for d in output if d["severity"] == "error"] == ["reportCallIssue", "reportArgumentType"]
