"""Every Python block of README, CONTRIBUTING and docs/ runs, configs load; every command they name is there."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from helpers.project import ROOT

from nnfunc.config import load
from nnfunc.config.dry_run import dry_run

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """(line, text) of each fenced block of a page in one of the languages."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, fence.start(3)), textwrap.dedent(fence[3]))
        for fence in FENCE.finditer(text)
        if fence[2].lower() in languages
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page, tmp_path, monkeypatch):
    """One namespace for a page, in a folder with configs/; a traceback names the page's line."""
    found = blocks(page, "python", "py", "pycon")
    fences = re.findall(r"^\s*```py", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == len(fences), "a Python block does not end, or ends at another indentation"
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, code in found:
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_configs_of_the_page_on_data_fit_their_files(tmp_path):
    np.savez(tmp_path / "measurements.npz", x=np.ones((90, 5), np.float32), y=np.arange(90) % 3)
    (tmp_path / "tokens").mkdir()
    for split in ("train", "val"):
        (np.arange(3000) % 512).astype(np.uint16).tofile(tmp_path / "tokens" / f"{split}.bin")
    configs = blocks(ROOT / "docs" / "your_data.md", "toml")
    assert len(configs) == 2
    for line, text in configs:
        (tmp_path / f"line{line}.toml").write_text(text)
        dry_run(load(tmp_path / f"line{line}.toml"))


def test_the_readme_shows_python():
    assert blocks(ROOT / "README.md", "python")


def test_make_commands_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {
        command for page in PAGES for command in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= shown
    assert shown <= targets, f"the Makefile lacks {', '.join(sorted(shown - targets))}"
