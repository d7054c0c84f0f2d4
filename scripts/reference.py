"""Write a page of reference for each public name, from its signature and docstring.

python scripts/reference.py FOLDER

writes FOLDER/index.md, FOLDER/linear.md, FOLDER/losses.mse.md, FOLDER/Model-class.md and so on.
"""

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import nnfunc as nf


def public_names() -> dict[str, Any]:
    """{"linear": nf.linear, "losses.mse": nf.losses.mse, ...}: what users reach from `import nnfunc as nf`."""
    names = {}
    for name in nf.__all__:
        value = getattr(nf, name)
        names[name] = value
        if isinstance(value, ModuleType):
            names |= {f"{name}.{inner}": getattr(value, inner) for inner in value.__all__}
    return names


def file_name(name: str) -> str:
    """The file of a name: where two differ in the case of a letter alone, some systems take them for one file."""
    capital = name.rpartition(".")[2][:1].isupper()
    return f"{name}-class.md" if capital else f"{name}.md"


def page(name: str, value: Any) -> str:
    """The page of one public name in Markdown: heading, signature, docstring, examples as a block of Python."""
    doc = inspect.getdoc(value) or ""
    parts = [f"# nf.{name}"]
    if isinstance(value, ModuleType):
        links = [(inner, file_name(f"{name}.{inner}"), getattr(value, inner)) for inner in value.__all__]
        lines = [f"- [{inner}]({file}): {_first(inspect.getdoc(item))}" for inner, file, item in links]
        return "\n\n".join([*parts, _text(doc), "\n".join(lines)]) + "\n"
    if callable(value):
        parts.append(f"```python\n{_signature(name, value)}\n```")
    return "\n\n".join([*parts, _text(doc)]) + "\n"


def index(names: Mapping[str, Any]) -> str:
    """The list of all pages, each with its first sentence."""
    lines = [f"- [nf.{name}]({file_name(name)}): {_first(inspect.getdoc(value))}" for name, value in names.items()]
    return "# Reference\n\n" + "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Write the page of each public name and the index into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = public_names()
    for name, value in names.items():
        (folder / file_name(name)).write_text(page(name, value), encoding="utf-8")
    (folder / "index.md").write_text(index(names), encoding="utf-8")


def _signature(name: str, value: Any) -> str:
    """`nf.linear(in_dim: int, ...) -> Model`, an argument a line where it is long."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return f"nf.{name}"
    parameters = [_parameter(p) for p in signature.parameters.values()]
    first_named = next((i for i, p in enumerate(signature.parameters.values()) if p.kind is p.KEYWORD_ONLY), None)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    if first_named is not None and not variadic:
        parameters.insert(first_named, "*")
    returns = "" if signature.return_annotation is signature.empty else f" -> {_type(signature.return_annotation)}"
    line = f"nf.{name}({', '.join(parameters)}){returns}"
    return line if len(line) <= 100 else f"nf.{name}(\n    " + ",\n    ".join(parameters) + f",\n){returns}"


def _parameter(parameter: inspect.Parameter) -> str:
    star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotated = parameter.annotation is not parameter.empty
    text = star + parameter.name + (f": {_type(parameter.annotation)}" if annotated else "")
    if parameter.default is parameter.empty:
        return text
    default = getattr(parameter.default, "__name__", None) or repr(parameter.default)
    if " at 0x" in default:
        default = default.split(" ")[0].strip("<")
    return f"{text} = {default}" if annotated else f"{text}={default}"


def _type(annotation: Any) -> str:
    """A type as it is written in code: without the paths of modules."""
    for known, name in _TYPES.items():
        if annotation == known:
            return name
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", text).replace("NoneType", "None")


_TYPES = {nf.base.Layer: "Layer", nf.base.Scalar: "Scalar", nf.base.Schedule: "Schedule"}


def _text(doc: str) -> str:
    """A docstring in Markdown: its examples are blocks of Python."""
    lines: list[str] = []
    for block in doc.split("\n\n"):
        lines.append(f"```python\n{block}\n```" if block.lstrip().startswith(">>>") else _list(block))
    return "\n\n".join(lines)


def _list(block: str) -> str:
    """A paragraph in Markdown: its lines `name: meaning` are items of a list, and Raises and the like begin another."""
    lines: list[str] = []
    in_list = False
    for line in block.split("\n"):
        if match := re.match(r"(\*{0,2}[a-z_]\w*(?:(?:,| and|, and) \*{0,2}[a-z_]\w*)*): ", line):
            names = re.sub(r"\*{0,2}\b(?!and\b)\w+", r"`\g<0>`", match[1])
            lines += ([""] if lines and not in_list else []) + [f"- {names}: {line[match.end() :]}"]
            in_list = True
        else:
            ends = in_list and not line.startswith(" ")
            begins = bool(lines and lines[-1] and re.match(r"(Shapes|Returns|Raises|Source): ", line))
            lines += ([""] if ends or begins else []) + [line]
            in_list = in_list and not ends
    return "\n".join(lines)


def _first(doc: str | None) -> str:
    """The first line of a docstring."""
    return (doc or "").partition("\n")[0]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]))
