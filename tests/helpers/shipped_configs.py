"""The shipped configs beside data that the scripts of scripts/data write, in small."""

import functools
import importlib.util
import shutil
from pathlib import Path

from helpers.project import ROOT

CONFIGS = sorted(file for file in (ROOT / "configs").glob("*.toml") if "../data/" in file.read_text())
TEXTS = ["calendar", "configparser", "fractions", "mailbox", "pathlib", "smtplib", "tempfile"]  # each is a class
SMALL = {  # what the constants of a script are, or how many rows its tables have
    "docstrings": {"PACKAGES": {name: [f"{name}.py"] for name in TEXTS}, "SHORTEST": 20},
    "labels": {"articles": 600},
    "python_tags": {"FILES": ["calendar", "heapq", "queue"]},
    "sales": {"SHOPS": 2, "DAYS": 500},
    "shapes": {"COUNT": 12},
    "tables": {"payments": 2000, "deliveries": 500, "rents": 500},
}


def load_script(name, **small):
    """The module of a script of scripts/data, which writes less. small: a value of SMALL."""
    spec = importlib.util.spec_from_file_location(f"data_{name}", ROOT / "scripts" / "data" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for key, value in small.items():
        before = getattr(module, key)
        setattr(module, key, functools.partial(before, rows=value) if callable(before) else value)
    return module


def copy_configs(folder):
    """The copies of the shipped configs, in a folder with their data; the path of the folder of the copies."""
    for name, small in SMALL.items():
        load_script(name, **small).main(folder / "data")
    return Path(shutil.copytree(ROOT / "configs", folder / "configs"))
