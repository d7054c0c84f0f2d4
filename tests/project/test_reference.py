"""Every public name has a docstring that says what each argument is, and a page of reference made from it."""

import inspect
import re
import subprocess
import sys
from types import ModuleType

from helpers.project import ROOT

from scripts import reference

NAMES = reference.public_names()

NO_EXAMPLE = {
    "data.cifar10": "needs the files of the data set",
    "data.fashion_mnist": "needs the files of the data set",
    "data.images": "needs a folder of images and the package pillow",
    "data.mnist": "needs the files of the data set",
    "keep_memory": "a setting of the whole process",
    "load_exported": "needs a file and the package flatbuffers",
    "load_run": "needs the folder of a run",
    "sweeps.optuna": "needs the package optuna",
    "sweeps.ray": "needs the package ray",
    "sweeps.submitit": "needs the package submitit",
}


OTHER_NAMES = {
    "learning_rate": ("rate", "lr", "peak"),
    "vocab_size": ("vocab", "vocabulary", "num_tokens"),
    "block_size": ("max_len", "max_length", "seq_len", "context_length"),
    "top_k": ("topk", "experts_per_token"),
    "num_experts": ("experts", "n_experts"),
    "target": ("targets",),
    "weight": ("weights", "class_weight", "class_weights"),
    "pos_weight": ("positive_weight",),
    "ignore_index": ("ignore", "ignored_label"),
    "label_smoothing": ("smoothing",),
    "classes": ("num_classes", "n_classes"),
    "layers": ("num_layers", "n_layers"),
    "heads": ("num_heads", "n_heads"),
    "eps": ("epsilon",),
    "key": ("rng",),
}
"""The name of an argument (CONTRIBUTING, "Names of arguments") -> names of the same thing that no argument has."""
RATES = {"alpha_dropout", "dropout", "drop_path", "augment.flip", "augment.sometimes", "augment.token_dropout"}
"""`rate` is the fraction of values that these drop or change; `peak` is the largest value of a schedule."""
ORDER = ("start", "peak", "warmup_steps", "total_steps")


def arguments(value):
    """The names of the arguments that a caller may give."""
    if inspect.isclass(value) and not hasattr(value, "__annotations__"):
        return []
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return []
    if inspect.isclass(value) and (issubclass(value, list) or getattr(value, "_is_protocol", False)):
        return []
    return [name for name in parameters if name not in ("self", "cls") and not name.startswith("_")]


def prose(value):
    """The docstring without its examples; that of a class goes on in those that it inherits from."""
    classes = [c for c in value.__mro__ if c.__module__.startswith("nnfunc")] if inspect.isclass(value) else [value]
    return " ".join((inspect.getdoc(c) or "").partition(">>>")[0] for c in classes)


def documented(value):
    return inspect.isfunction(value) or (inspect.isclass(value) and value.__module__.startswith("nnfunc"))


def test_every_public_argument_is_named_in_its_docstring():
    unnamed = {}
    for path, value in NAMES.items():
        if documented(value):
            missing = [name for name in arguments(value) if not re.search(rf"\b{name}\b", prose(value))]
            if missing:
                unnamed[path] = missing
    assert not unnamed


def defines(doc, name):
    """Whether a docstring defines an argument: `name: ...`, its shape `name [...]`, a formula, or the first sentence."""
    word, text = rf"\b{name}\b", " ".join(doc.split())
    listed = re.search(rf"{word}(?:(?:,| and| or)? [\w*]+)*(?:, [^.:;]*)?:", text)  # `b1, b2: in [0, 1).`
    shaped = re.search(rf"{word}(?:,? (?:and )?\w+)* \[", text)
    formula = re.search(rf"^.* -?=.*{word}|`[^`]*{word}[^`]*`|{word}\(.*\) ->", doc, re.MULTILINE)
    return bool(listed or shaped or formula or re.search(word, doc.partition("\n\n")[0]))


def test_every_public_argument_is_defined_in_its_docstring():
    vague = {}
    for path, value in NAMES.items():
        if documented(value):
            missing = [name for name in arguments(value) if not defines(prose(value), name)]
            if missing:
                vague[path] = missing
    assert vague == {}


def test_every_argument_begins_a_line_of_its_docstring():
    """`x: ... y: ...` on one line hides y; `x, y: ...` is one definition."""
    hidden = {}
    for path, value in NAMES.items():
        if documented(value) and (names := arguments(value)):
            one = "(?:" + "|".join(map(re.escape, names)) + ")"
            lines = (inspect.getdoc(value) or "").partition(">>>")[0]
            if inside := re.findall(rf"(?<=[.;)]) {one}(?:(?:,| and|, and) {one})*: ", lines):
                hidden[path] = inside
    assert hidden == {}


def test_a_mention_is_no_definition():
    doc = "The first line, of x.\n\nIt is scaled by gain when rate says so. b1, b2: in [0, 1). y [n].\nz = 2 * tau\n"
    assert all(defines(doc, name) for name in ("x", "b1", "b2", "y", "tau"))
    assert not any(defines(doc, name) for name in ("gain", "rate"))


def test_arguments_have_one_name_everywhere():
    other = {name: right for right, names in OTHER_NAMES.items() for name in names}
    wrong = {}
    for path, value in NAMES.items():
        if documented(value):
            names = set(arguments(value)) & other.keys()
            names -= {"rate"} if path in RATES or path.startswith("data.") else set()
            names -= {"peak"} if path.startswith("schedules.") else set()
            if {"vocab_size", "padding"} <= set(arguments(value)):
                wrong[f"{path}(padding=)"] = "padding_index"
            wrong |= {f"{path}({name}=)": other[name] for name in names}
    assert wrong == {}


def test_schedules_have_their_arguments_in_one_order():
    for name in reference.nf.schedules.__all__:
        schedule = NAMES[f"schedules.{name}"]
        if inspect.isfunction(schedule):
            parameters = inspect.signature(schedule).parameters.values()
            ordered = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.name in ORDER]
            assert ordered == [word for word in ORDER if word in ordered], name
            assert all(p.kind is p.KEYWORD_ONLY for p in parameters if p.name == "final"), name


def test_every_public_function_has_a_summary_and_an_example():
    lacking = {}
    for path, value in NAMES.items():
        doc = inspect.getdoc(value) or ""
        if documented(value) and not doc.partition("\n")[0].endswith((".", ":")):
            lacking[path] = "the first line is no sentence"
        elif inspect.isfunction(value) and ">>>" not in doc:
            lacking[path] = "no example"
    assert lacking.keys() == NO_EXAMPLE.keys()


def test_the_generator_writes_a_page_for_each_name(tmp_path):
    subprocess.run([sys.executable, ROOT / "scripts/reference.py", tmp_path], check=True, cwd=ROOT)
    pages = {file.name for file in tmp_path.iterdir()}
    assert pages == {reference.file_name(name) for name in NAMES} | {"index.md"}
    assert len({page.lower() for page in pages}) == len(pages)
    links = set(re.findall(r"\]\((.+?\.md)\)", (tmp_path / "index.md").read_text()))
    assert links == pages - {"index.md"}
    for name, value in NAMES.items():
        text = (tmp_path / reference.file_name(name)).read_text()
        assert text.startswith(f"# nf.{name}\n")
        assert (inspect.getdoc(value) or "").partition("\n")[0] in text
        assert " at 0x" not in text, name
        if isinstance(value, ModuleType):
            assert all(f"{name}.{inner}" in text for inner in value.__all__)


def test_a_page_shows_the_signature_and_the_example():
    page = reference.page("linear", NAMES["linear"])
    assert "```python\nnf.linear(\n    in_dim: int,\n    out_dim: int,\n    *,\n    bias: bool = True," in page
    assert ") -> Model\n```" in page
    assert "\n- `in_dim`, `out_dim`: the widths" in page
    assert re.search(r"\n\nRaises: .*\n\n", page)
    assert "```python\n>>> model = nf.linear(3, 2)" in page or "```python\n>>> " in page
