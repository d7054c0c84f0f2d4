"""Folders of images: which of them are splits, which are classes, and which are neither."""

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from nnfunc import check
from nnfunc.data.download import file_size

__all__ = ["ENDINGS", "find_images", "list_images"]

WHERE = "data.images"
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
ENDS = "(set|data|dataset|images?|imgs?)?"  # of a word, as in trainset
HIDDEN = {"__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"}


def list_images(root: Path) -> dict[str, dict[str, list[Path]]]:
    """{split: {class: files}}; only "train" where there are no folders for splits.

    A folder is named as a split is when one word of its name is the split's: Train, seg_train,
    test_set, val2017. Beside folders of other names it may also be a class (train/1.png beside
    plane/1.png): there it counts when train/ or two splits hold folders, when two have no other word
    in their names, or when it holds folders of the others' names. Hidden files and folders are passed
    over.
    """
    if not root.is_dir():
        check.fail(WHERE, f"{root} should be a folder, with a folder for each class.")
    inside = _folders(root)
    named = {folder: part for folder in inside if (part := _part(folder.name))}
    held = {part: _folders(folder) for folder, part in named.items() if _folders(folder)}
    whole = {part for folder, part in named.items() if folder.name.lower() in PARTS[part]}
    others = [folder for folder in inside if folder not in named]
    again = {f.name for inner in held.values() for f in inner} & {f.name for f in others}
    sure = ("train" in whole and ("train" in held or len(whole) > 1)) or len(held) > 1 or again
    if not named or (others and not sure):
        return {"train": _classes(root)}
    names = _listed(list(named))
    if "train" not in named.values():
        hint = "If they are classes and no splits, rename them."
        check.fail(WHERE, f"{root} has {names}, but no train/ to learn from.", hint=hint)
    parts = {part: [f for f, own in named.items() if own == part] for part in PARTS}
    for part, folders in parts.items():
        if len(folders) > 1:
            both = " and ".join(f"{folder.name}/" for folder in folders)
            check.fail(WHERE, f"{root} has {both}, both of them for {part}. Leave one of them.")
    if others:
        problem = f"{WHERE}: {root} has {parts['train'][0].name}/, so it is read by splits"
        warnings.warn(f"{problem}, and {_listed(others)} beside it left out.", stacklevel=3)
    return {part: _classes(folders[0], part) for part, folders in parts.items() if folders}


def _part(name: str) -> str | None:
    """The split that one word of a folder's name says, None for none or several."""
    text = re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())
    result = {
        part for part, own in PARTS.items() if any(re.fullmatch(f"({'|'.join(own)}){ENDS}", word) for word in text)
    }
    return result.pop() if len(result) == 1 else None


def _listed(folders: list[Path]) -> str:
    names = ", ".join(f"{folder.name}/" for folder in folders[:5])
    return f"{names} and {len(folders) - 5} more" if len(folders) > 5 else names


def _classes(folder: Path, part: str | None = None) -> dict[str, list[Path]]:
    """part: the split of the folder; one folder of that name in it, as archives have, is no class."""
    inside = _folders(folder)
    while part and len(inside) == 1 and _part(inside[0].name) == part and _folders(inside[0]):
        folder, inside = inside[0], _folders(inside[0])
    result = {}
    for inner in inside:
        result[inner.name] = sorted(find_images(inner))
        if not result[inner.name]:
            problem = f"{inner} should hold the images of a class, but holds none that end in"
            check.fail(WHERE, f"{problem} {', '.join(sorted(ENDINGS))}.")
    if not result:
        expected = "with a folder for each class: cat/1.png, dog/1.png"
        hint = f" If it is a class and not the {part} split, rename it." if part else ""
        check.fail(WHERE, f"{folder} should be a folder {expected}, but has no folders.{hint}")
    return result


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not _hidden(p.name))
    except OSError as error:
        _unreadable(error)


def find_images(folder: Path) -> Iterator[Path]:
    """The images of a folder and of those inside, each of them a file."""
    for base, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in names:
            file = Path(base, name)
            if file.suffix.lower() in ENDINGS and not _hidden(name):
                file_size(WHERE, file)
                yield file


def _hidden(name: str) -> bool:
    """Whether systems and programs put such a name into folders of their own accord."""
    return name.startswith(".") or name.casefold() in HIDDEN


def _unreadable(error: OSError) -> NoReturn:
    check.fail(WHERE, f"{error.filename} cannot be read: {error.strerror}.", exc_type=OSError)
