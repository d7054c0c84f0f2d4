"""What `import nnfunc` costs, and which file may import which (section 7 of the design)."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A file may import from its own row and from the rows before it. A folder stands for its files.
ROWS = {
    "contract": "base check jax_settings paths leaves taps held xla_flags vector_norm documents "
    "early_signals stopping device_memory",
    "numeric functions": "activations initializers schedules losses metrics backprop flops",
    "layers and combinators": "layers combinators summary generation",
    "models and optimizers": "models optimizers averages",
    "training and data": "training data checkpoint sharding records writers",
    "debugging": "debug",
    "sweep": "sweeps",
    "programs": "compare config cli debugging programs runlog progress report memory sampling interop "
    "testing runstate follow findings dashboard overview merging loading rows study baseline lengthening",
    "public names": "__init__ __main__",
}
ROW_OF = {name: row for row, names in enumerate(ROWS.values()) for name in names.split()}

MEASURE = """
import json, sys, time
start = time.process_time()
import jax
before, middle = set(sys.modules), time.process_time()
import nnfunc
share = (time.process_time() - middle) / (middle - start)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
jax.config.update("jax_num_cpu_devices", 2)   # refused once a computation has run
print(json.dumps([share, sorted(new - set(sys.stdlib_module_names))]))
"""


@pytest.fixture(scope="module")
def imports():
    """[processor time as a share of `import jax`, packages] of `import nnfunc`, three times."""
    command = [sys.executable, "-c", MEASURE]
    runs = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(3)]
    assert not any(run.returncode for run in runs), runs[0].stderr
    return [json.loads(run.stdout) for run in runs]


def test_import_brings_no_package_that_jax_did_not_bring(imports):
    """optax, safetensors and what programs need come when they are first used."""
    assert [packages for _, packages in imports] == 3 * [["nnfunc"]]


def test_import_is_quick(imports):
    """Under 0.1 s where `import jax` takes 0.45; the least of three, for the first may compile files."""
    assert min(share for share, _ in imports) < 0.25


def piece(file: Path) -> str:
    """The name in ROWS that a file of nnfunc belongs to."""
    return file.relative_to(ROOT / "nnfunc").parts[0].removesuffix(".py")


def imported(file: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of all that a file imports from nnfunc, inside functions too."""
    folder = ("nnfunc", *file.relative_to(ROOT / "nnfunc").parent.parts)
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                found += [(node.lineno, alias.name) for alias in node.names]
            case ast.ImportFrom():
                above = folder[: len(folder) + 1 - node.level] if node.level else ()
                start = ".".join([*above, *([node.module] if node.module else [])])
                found += [(node.lineno, f"{start}.{alias.name}") for alias in node.names]
            case ast.Call(args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(node.func).endswith(("import_module", "__import__")):
                    found.append((node.lineno, name))
    return [(line, name) for line, name in found if name.split(".")[0] == "nnfunc"]


def target(name: str) -> str:
    """The name in ROWS that an imported name belongs to: `nnfunc.linear` is of __init__."""
    first = (name.split(".") + ["__init__"])[1]
    return first if first in ROW_OF else "__init__"


def test_every_file_is_in_a_row():
    files = {piece(file) for file in (ROOT / "nnfunc").rglob("*.py")}
    assert files, "no files found"
    missing = sorted(files - set(ROW_OF))
    assert not missing, f"give a row in ROWS to {', '.join(missing)} (design, section 7)"


def test_rows_import_downward_only():
    titles = list(ROWS)
    wrong = []
    for file in sorted((ROOT / "nnfunc").rglob("*.py")):
        row = ROW_OF.get(piece(file), len(ROWS))
        for line, name in imported(file):
            other = ROW_OF[target(name)]
            if other > row:
                where = f"{file.relative_to(ROOT)}:{line}"
                wrong.append(f"{where}: {titles[row]} imports {name}, of {titles[other]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("import nnfunc as nf", ["nnfunc"]),
        ("import nnfunc.sweep, jax", ["nnfunc.sweep"]),
        ("from nnfunc import check, linear", ["nnfunc.check", "nnfunc.linear"]),
        ("def f():\n    from nnfunc.training.loop import train", ["nnfunc.training.loop.train"]),
        ("from .norm import batch_norm", ["nnfunc.layers.norm.batch_norm"]),
        ("from . import norm", ["nnfunc.layers.norm"]),
        ("from ..sweep import space", ["nnfunc.sweep.space"]),
        ("from .. import sweep", ["nnfunc.sweep"]),
        ("m = importlib.import_module('nnfunc.cli')", ["nnfunc.cli"]),
    ],
)
def test_reader_finds_imports(line, expected, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "nnfunc" / "layers" / "linear.py"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    assert [name for _, name in imported(file)] == expected
