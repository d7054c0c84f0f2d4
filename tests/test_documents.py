"""Files that are written completely or not at all."""

from pathlib import Path

import pytest

from nnfunc.documents import write_file


def test_two_writers_at_the_same_time(tmp_path, monkeypatch):
    replace = Path.replace

    def replace_later(self, target):
        monkeypatch.setattr(Path, "replace", replace)
        write_file(target, b"second")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_later)
    write_file(tmp_path / "it.json", b"first")
    assert [file.name for file in tmp_path.iterdir()] == ["it.json"]
    assert (tmp_path / "it.json").read_bytes() == b"first"


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "it").mkdir()
    with pytest.raises(OSError, match="it"):
        write_file(tmp_path / "it", b"content")
    assert [file.name for file in tmp_path.iterdir()] == ["it"]
