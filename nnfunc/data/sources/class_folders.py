"""Folders of images or texts: which of them are splits, and which are classes."""

import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from nnfunc import check
from nnfunc.data.download import file_ending, file_size

PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
SUFFIXES = "(set|data|dataset|images?|imgs?)?"  # of a word, as in trainset
SYSTEM_NAMES = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "lost+found",
    "system volume information",
}


class ClassFolders(NamedTuple):
    """Files in folders, with a folder for each class.

    where: begins the message of an error.
    what: the files, "images" or "texts".
    endings: of their names.
    """

    where: str
    what: str
    endings: frozenset[str]

    def splits(self, root: Path) -> dict[str, dict[str, list[Path]]]:
        """{split: {class: files}} of the folder `root`; only "train" if it has no folders for splits.

        The name of a split's folder has a word for the split: Train, seg_train, test_set, val2017. If there are
        folders with other names too, such a folder may also be a class (train/1.png and plane/1.png). It is a split
        if train/ or two splits have folders, if the names of two have no other word, or if it has folders with the
        names of the others. Hidden files and folders are skipped.
        """
        if not root.is_dir():
            check.fail(self.where, f"{root} should be a folder with a folder for each class.")
        folders = self._folders(root)
        split_folders = {folder: part for folder in folders if (part := split_name(folder.name))}
        classes = {part: inner for folder, part in split_folders.items() if (inner := self._folders(folder))}
        exact = {part for folder, part in split_folders.items() if folder.name.lower() in PARTS[part]}
        others = [folder for folder in folders if folder not in split_folders]
        is_repeated = {f.name for inner in classes.values() for f in inner} & {f.name for f in others}
        are_splits = ("train" in exact and ("train" in classes or len(exact) > 1)) or len(classes) > 1 or is_repeated
        if not split_folders or (others and not are_splits):
            self._warn_of_repeated(root)
            return {"train": self._classes(root)}
        if "train" not in split_folders.values():
            hint = "If they are classes and not splits, rename them."
            check.fail(self.where, f"{root} has {_join(split_folders)}, but no train/.", hint=hint)
        parts = {part: [folder for folder, name in split_folders.items() if name == part] for part in PARTS}
        for part, same in parts.items():
            if len(same) > 1:
                names = " and ".join(f"{folder.name}/" for folder in same)
                check.fail(self.where, f"{root} has {names} for {part}.", hint="Remove or rename all but one.")
        if others:
            problem = f"{self.where}: {root} has {parts['train'][0].name}/, so its folders are read as splits"
            warnings.warn(f"{problem}, and {_join(others)} is ignored.", stacklevel=3)
        return {part: self._classes(same[0], part) for part, same in parts.items() if same}

    def _warn_of_repeated(self, root: Path) -> None:
        """Warn of classes that all have folders of the same names: they may be splits with other names."""
        folders = self._folders(root)
        inner = [{folder.name for folder in self._folders(folder)} for folder in folders]
        repeated = set[str]().union(*inner).intersection(*inner)
        if len(folders) > 1 and len(repeated) > 1:
            problem = f"{self.where}: {_join(folders)} of {root} are read as classes, and each has folders with the"
            names = check.join_names([f"{name}/" for name in sorted(repeated)], 5)
            hint = "If they are splits, name them train/, validation/ and test/."
            warnings.warn(f"{problem} same names, {names}. {hint}", stacklevel=4)

    def _classes(self, folder: Path, part: str | None = None) -> dict[str, list[Path]]:
        """{class: files} of a folder. part: its split; a single inner folder of that split is not a class."""
        folders = self._folders(folder)
        while part and len(folders) == 1 and split_name(folders[0].name) == part and self._folders(folders[0]):
            folder, folders = folders[0], self._folders(folders[0])
        classes = {inner.name: sorted(self.find(inner)) for inner in folders}
        for name, files in classes.items():
            if not files:
                problem = f"{folder / name} should contain the {self.what} of a class, but has no file that ends in"
                check.fail(self.where, f"{problem} {', '.join(sorted(self.endings))}.")
        if not classes:
            hint = f"If it is a class and not the {part} split, rename it." if part else ""
            ending = min(self.endings, key=lambda ending: ending != ".png")
            problem = f"{folder} should have a folder for each class, such as cat/1{ending} and dog/1{ending}"
            check.fail(self.where, f"{problem}, but has no folders.", hint=hint)
        return classes

    def find(self, folder: Path) -> Iterator[Path]:
        """The files in a `folder` and its subfolders."""
        for base, folders, names in os.walk(folder, onerror=self._unreadable):
            folders[:] = [name for name in folders if not _hidden(name)]
            for name in names:
                file = Path(base, name)
                if file.suffix.lower() in self.endings and not _hidden(name):
                    file_size(self.where, file)
                    yield file

    def _folders(self, folder: Path) -> list[Path]:
        try:
            return sorted(p for p in folder.iterdir() if p.is_dir() and not _hidden(p.name))
        except OSError as error:
            self._unreadable(error)

    def _unreadable(self, error: OSError) -> NoReturn:
        check.fail(self.where, f"{error.filename} cannot be read: {error.strerror}.", exc_type=OSError)


IMAGES = ClassFolders(
    "data.images",
    "images",
    frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}),
)


def split_files(where: str, root: Path, endings: Collection[str]) -> dict[str, Path]:
    """{split: file} of a folder with files such as train.csv and test.csv; a file is "train".

    where: begins the message of an error.
    root: the file or folder.
    endings: of the names of the files, which may also end in .gz after that.
    """
    if not root.is_dir():
        return {"train": root}
    files = sorted(file for file in root.iterdir() if file_ending(file) in endings and not _hidden(file.name))
    parts = {part: [file.name for file in files if split_name(file.stem) == part] for part in PARTS}
    for part, names in parts.items():
        if len(names) > 1 or (part == "train" and not names):
            expected = f"{root} should have one file for {part}, such as {part}{sorted(endings)[0]}"
            actual = check.join_names(names) or f"none that ends in {', '.join(sorted(endings))}"
            check.fail(where, expected=expected, actual=actual)
    return {part: root / names[0] for part, names in parts.items() if names}


def split_name(name: str) -> str | None:
    """The split that a word of a folder's name stands for; None for no split or several."""
    spaced = re.sub("(?<=[a-z])(?=[A-Z])", " ", name)  # trainData, and as it stands: tRaIn
    tokens = re.findall("[a-z]+", f"{spaced} {name}".lower())
    patterns = {part: f"({'|'.join(synonyms)}){SUFFIXES}" for part, synonyms in PARTS.items()}
    parts = [part for part, pattern in patterns.items() if any(re.fullmatch(pattern, token) for token in tokens)]
    return parts[0] if len(parts) == 1 else None


def _join(folders: Iterable[Path]) -> str:
    return check.join_names([f"{folder.name}/" for folder in folders], 5)


def _hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or was created by the operating system."""
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES
