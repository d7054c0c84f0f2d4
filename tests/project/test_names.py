"""Names inside the package are the field's: the words of this list may not come back."""

import ast
import re

from helpers.project import ROOT

FORBIDDEN = {
    "own": "the noun: compiled, params, rows, trial",
    "mine": "the noun",
    "found": "result, matches, state",
    "made": "result, or a verb",
    "seen": "the noun: visited, tokens",
    "told": "report, notify",
    "given": "arguments, values",
    "held": "static, cached, locked",
    "kept": "cached, saved",
    "taken": "the noun",
    "place": "index, path, position, field, key",
    "places": "indices, paths, positions, fields, keys",
    "spot": "position",
    "kind": "dtype, cell_type, layer_name, exc_type",
    "kinds": "the same, in the plural",
    "cure": "hint",
    "wanted": "expected",
    "got": "actual",
    "words": "message, text",
    "figure": "metric",
    "figures": "metrics",
    "member": "trial",
    "members": "trials",
    "unit": "setting",
    "way": "execution",
    "ways": "executions",
    "lane": "trial",
    "lanes": "trials",
    "pack": "batch",
    "packs": "batches",
    "going": "running",
    "track": "trial_state",
    "tracks": "trial_states",
    "leg": "steps",
    "judge": "evaluate",
    "took": "timings",
    "left": "stop_reason, remaining",
    "behind": "ranks_last",
    "drawn": "samples, initial_setting",
    "adopt": "load",
    "share": "fraction",
}
"""Word -> what to write instead. A name is split at underscores and capitals."""

ALLOWED = {
    "figures": "matplotlib's, and HTML's",
    **dict.fromkeys(["figure", "save_figure", "make_figure", "_draw_figure", "_render_figure"], "matplotlib's"),
    **dict.fromkeys(
        ["held_out", "_held_out", "_check_held_out", "held_out_rows", "HeldOut"], "examples that are not trained on"
    ),
    "left_dim": "bilinear's left and right input",
}
"""Names that have such a word for a reason."""


def definitions(tree):
    """Every name that a file defines: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def parts(name):
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_no_name_has_a_word_of_the_list():
    wrong = []
    for file in sorted((ROOT / "nnfunc").rglob("*.py")):
        for line, name in definitions(ast.parse(file.read_text(encoding="utf-8"))):
            for word in sorted(parts(name) & FORBIDDEN.keys()):
                if name not in ALLOWED:
                    wrong.append(f"{file.relative_to(ROOT)}:{line}: {name}: say {FORBIDDEN[word]}")
    assert not wrong, "\n".join(wrong)


def test_files_have_names_of_their_own():
    """A traceback shows the end of a path, so the name of a file should say where it is."""
    names = [file.name for file in (ROOT / "nnfunc").rglob("*.py") if file.name not in ("__init__.py", "__main__.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_classes_have_names_of_their_own():
    names = []
    for file in (ROOT / "nnfunc").rglob("*.py"):
        names += re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_tests_have_names_of_at_most_60_characters():
    long = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        long += [name for name in re.findall(r"^ *def (test_\w+)", file.read_text(), re.MULTILINE) if len(name) > 60]
    assert long == []


def test_the_formatter_is_rarely_switched_off():
    """The reason stands behind the comment, as in nnfunc/distributed/chips.py."""
    switch = "# fmt" + ": "
    files = [file for folder in ("nnfunc", "tests", "scripts", "examples") for file in (ROOT / folder).rglob("*.py")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if switch in line]
    assert len(lines) <= 20
    assert [line for line in lines if not re.search(r"skip  # \w+ \w+", line)] == []


def test_parts_of_a_name():
    assert parts("_own_rows") == {"own", "rows"}
    assert parts("TrackOfMembers") == {"track", "of", "members"}
    assert parts("download") == {"download"}
