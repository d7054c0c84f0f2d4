"""Writes a config for files, and tells what to do with it."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from nnfunc import check
from nnfunc.commands.new_config.draft import render_draft
from nnfunc.commands.new_config.drafts import DRAFTS
from nnfunc.config import load
from nnfunc.documents import make_parent


def new_config(data_type: str, files: Sequence[Path], *, output: Path | None = None, **columns: str | None) -> Path:
    """Write a commented config that trains as it is, and return its path.

    data_type: a key of DRAFTS.
    files: one file or folder; without it the only one of that type here.
    output: the config; by default NAME.toml here, by the name of the file.
    columns: label, the column to predict, or several with commas; text and time; each for the types of data that
        have such a column.
    Raises: FileExistsError when the config exists; ValueError when the files are of another type.
    """
    check.choice("new", tuple(DRAFTS), type=data_type)
    source = _source(data_type, files)
    output = output or Path(f"{source.resolve().name.partition('.')[0]}.toml")
    if output.exists():
        hint = "Choose another with --output, or remove it."
        check.fail("new", f"{output} exists already.", hint=hint, exc_type=FileExistsError)
    make_draft, known = DRAFTS[data_type][0], {name: value for name, value in columns.items() if value is not None}
    for name in known:
        if name not in inspect.signature(make_draft).parameters:
            types = [key for key, (make, _) in DRAFTS.items() if name in inspect.signature(make).parameters]
            hint = f"Types of data with it: {check.join_names(types)}."
            check.fail("new", f"{data_type} has no --{name}.", hint=hint)
    draft = make_draft(source, **known)
    path = source.resolve()
    is_near = path.is_relative_to(output.resolve().parent)
    key = "source" if "source" in draft.tables["data"] else "path"
    draft.tables["data"][key] = str(path.relative_to(output.resolve().parent) if is_near else path)
    text = render_draft(draft, str(output), f"runs/{output.stem}-1")
    make_parent(output)
    with open(output, "x", encoding="utf-8") as file:
        file.write(text)
    load(output)
    print(text, end="")
    print(f"\nwrote {output}   train with: nnfunc train {output}")
    return output


def _source(data_type: str, files: Sequence[Path]) -> Path:
    """The file or folder that is given, or the only one here."""
    endings = DRAFTS[data_type][1]
    if len(files) > 1:
        hint = "Put them into one folder."
        check.fail("new", expected="there should be one file or folder", actual=f"{len(files)} files", hint=hint)
    if files:
        if not files[0].exists():
            near = check.nearest(str(files[0]), [str(path) for path in files[0].parent.glob("*")])
            check.fail("", f"The input {files[0]} does not exist{near}", exc_type=FileNotFoundError)
        return files[0]
    names = [path for path in sorted(Path().iterdir()) if not path.name.startswith(".")]
    if endings:
        matches = [path for path in names if path.is_file() and path.name.lower().endswith(endings)]
    else:
        matches = [path for path in names if path.is_dir() and any(child.is_dir() for child in path.iterdir())]
    if len(matches) != 1:
        expected = f"there should be one {' or '.join(endings) or 'folder of class folders'} here"
        actual = check.join_names([str(path) for path in matches]) if matches else "none"
        check.fail("new", expected=expected, actual=actual, hint=f"Name it: nnfunc new {data_type} FILE")
    return matches[0]
