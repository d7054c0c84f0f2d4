"""What `import nnfunc` costs, and which file may import which (section 7 of the design)."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.project import ROOT

PICTURE = """
cli
-> commands
-> config interop reports testing
-> debug sweeps
-> training
-> data distributed evaluation generation layers models optimizers runs
-> checkpoint schedules
"""
"""The folders of nnfunc: each may import those of the rows below, and the flat modules, which import
only each other. It is in CONTRIBUTING, too."""
ROWS = [row.split() for row in PICTURE.replace("->", "").strip().splitlines()]
DEPTH = {name: depth for depth, row in enumerate(ROWS) for name in row}
FLAT = len(ROWS)
TOP = ("__init__", "__main__")  # the public names, of any folder

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


def files() -> list[Path]:
    return sorted((ROOT / "nnfunc").rglob("*.py"))


def piece(name: str) -> str:
    """The folder, or the flat module, of a dotted name: `nnfunc.linear` is of __init__."""
    first = (name.split(".") + ["__init__"])[1]
    there = (ROOT / "nnfunc" / first).is_dir() or (ROOT / "nnfunc" / f"{first}.py").is_file()
    return first if there else "__init__"


def module(file: Path) -> str:
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


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


@pytest.fixture(scope="module")
def edges():
    """{(file, file that it imports): line}, by their dotted names."""
    modules = {module(file) for file in files()}
    found = {}
    for file in files():
        for line, name in imported(file):
            while name not in modules:
                name = name.rpartition(".")[0]
            found[module(file), name] = line
    return found


def test_the_picture_is_of_what_is_there():
    folders = {file.parent.name for file in (ROOT / "nnfunc").glob("*/__init__.py")}
    assert set(DEPTH) == folders | {"cli"}
    shown = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert PICTURE.strip() in shown


def test_imports_go_down_in_the_picture(edges):
    wrong = []
    for (name, other), line in edges.items():
        above, below = piece(name), piece(other)
        if above != below and above not in TOP:
            falls = DEPTH.get(below, FLAT) - DEPTH.get(above, FLAT)
            same_row = above == "models" and below == "layers"
            if below in TOP or not (falls > 0 or same_row or DEPTH.get(above, FLAT) == FLAT == DEPTH.get(below, FLAT)):
                wrong.append(f"{name}:{line} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_no_two_folders_import_each_other(edges):
    pairs = {(piece(name), piece(other)) for name, other in edges} - {(p, p) for p in DEPTH}
    both = sorted(pair for pair in pairs if pair[::-1] in pairs and pair[0] in DEPTH)
    assert not both


def test_no_file_is_in_a_circle(edges):
    """Files that import none of those that are left are taken away, until no file is left."""
    below = {}
    for name, other in edges:
        below.setdefault(name, set()).add(other)
    left = set(below)
    while free := {name for name in left if not below[name] & left}:
        left -= free
    assert not left, f"these files are in a circle, or import one: {sorted(left)}"


@pytest.mark.parametrize(
    "line, expected",
    [
        ("import nnfunc as nf", ["nnfunc"]),
        ("import nnfunc.sweep, jax", ["nnfunc.sweep"]),
        ("from nnfunc import check, linear", ["nnfunc.check", "nnfunc.linear"]),
        ("def f():\n    from nnfunc.training.train_run import train", ["nnfunc.training.train_run.train"]),
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
