"""Data files that are damaged or made to do harm: one message of ours each, at once, in little memory."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.hostile_files import LOADERS, SAMPLES, edited, not_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nnfunc as nf
from nnfunc.config import ConfigError
from nnfunc.data import download
from nnfunc.errors import NnfuncError

pytest.importorskip("PIL")
pytest.importorskip("pyarrow")


def refused(load, file):
    """The message of a mistake; "" where loading works. Any other exception is a fault."""
    try:
        load(file)
    except ConfigError as error:
        return str(error)
    except (ValueError, OSError) as error:
        if not isinstance(error, NnfuncError):
            raise
        return str(error)
    return ""


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_edited_files_load_or_are_refused_in_words(name, data):
    content = data.draw(edited(SAMPLES[name]()))
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, "one"), Path(root, "two")]  # the classes, of images
        for folder in folders:
            folder.mkdir()
            (folder / name).write_bytes(SAMPLES[name]())
        (folders[0] / name).write_bytes(content)
        message = refused(LOADERS[name], folders[0] / name)
    assert "Traceback" not in message
    assert not message or "\n" not in message or name == "config.toml"


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_themselves_load(tmp_path, name):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / name).write_bytes(SAMPLES[name]())
    assert refused(LOADERS[name], tmp_path / "one" / name) == ""


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.startswith("1.")])
def test_what_is_no_file_is_refused_at_once(tmp_path, name):
    for what, path in not_files(tmp_path).items():
        if what == "folder" and name in ("pets.npz", "stored.npz", "tokens.npy", "tokens.bin"):
            continue  # a folder may hold such files
        if Path(name).suffix in (".parquet", ".npy") and what != "device":
            path = path.rename(tmp_path / name)
        assert refused(LOADERS[name], path), what
        if Path(path).name == name:
            path.rename(tmp_path / what)


def test_no_pipe_or_broken_link_among_images(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "1.png").write_bytes(SAMPLES["1.png"]())
    os.mkfifo(folder / "2.png")
    assert "2.png cannot be read: it is a pipe, not a file." in refused(LOADERS["1.png"], folder / "1.png")
    (folder / "2.png").unlink()
    (folder / "2.png").symlink_to("2.png")
    assert "Too many levels of symbolic links" in refused(LOADERS["1.png"], folder / "1.png")


def test_paths_that_no_system_has():
    for path in ("a\0b.csv", "a\udcff.csv", "a" * 5000, "~no such user/a.csv"):
        assert "data.table: " in refused(LOADERS["pets.csv"], path)


# Bombs.


def zeros(opened, count):
    for _ in range(count):
        opened.write(bytes(1 << 20))


@pytest.fixture
def small(monkeypatch):
    """Files may unpack to 4 MiB, or to 250 times their size."""
    monkeypatch.setattr(download, "SMALL", 1 << 22)


def test_gzip_bombs_are_refused(tmp_path, small):
    file = tmp_path / "a.gz"
    with gzip.open(file, "wb") as opened:
        zeros(opened, 8)
    honest = file.read_bytes()
    liar = honest[:-4] + (100).to_bytes(4, "little")  # its last bytes say how long it is
    many = gzip.compress(bytes(1 << 20)) * 8
    for content in (honest, liar, many):
        file.write_bytes(content)
        for name in ("pets.csv", "text.txt", "digits.idx", "codec.json"):
            assert "unpacks to more than 250 times its" in refused(LOADERS[name], file)
        assert "unpacks to more" in refused(lambda path: nf.data.cifar10(path=path), file)


def test_gzip_of_several_parts_is_read(tmp_path):
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(b"one ") + gzip.compress(b"two") + b"\0\0")
    assert download.read_bytes("here", file) == b"one two"
    for content in (gzip.compress(b"one")[:-3], gzip.compress(b"one") + b"two"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="gzip file that cannot be unzipped"):
            download.read_bytes("here", file)


def npz_with(file, **heads):
    """An .npz file with arrays y and z, and others of zeros, MiB long, of which the head tells more."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, (shape, count) in heads.items():
            with packed.open(f"{name}.npy", "w") as opened:
                head = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(opened, head)
                zeros(opened, count)
        for name, array in {"y": np.arange(12) % 2, "z": np.ones((12, 2))}.items():
            with packed.open(f"{name}.npy", "w") as opened:
                np.save(opened, array)
    return file


def test_npz_bombs_and_heads_that_claim_too_much(tmp_path, small):
    file = npz_with(tmp_path / "a.npz", bomb=((8 << 20,), 8), lie=((1 << 40,), 0))
    assert nf.data.npz(file, x="z", validation=0, test=0).train[0].shape == (12, 2)
    assert "unpacks to more than 250 times" in refused(lambda path: nf.data.npz(path, x="bomb"), file)
    words = r"its header says uint8 [1099511627776], but it has only 128 bytes"
    assert words in refused(lambda path: nf.data.npz(path, x="lie"), file)
    with (tmp_path / "x.npy").open("wb") as opened:
        head = {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
        np.lib.format.write_array_header_1_0(opened, head)
    np.save(tmp_path / "y.npy", np.arange(12))
    assert "its header says float64 [1125899906842624]" in refused(nf.data.npz, tmp_path)
    assert "tokens" in refused(LOADERS["tokens.npy"], tmp_path / "x.npy")


def test_only_the_arrays_that_are_used_are_read(tmp_path, monkeypatch):
    file, names = npz_with(tmp_path / "a.npz", unused=((8,), 1)), []
    own = zipfile.ZipFile.open

    def spy(self, member, *args, **more):
        names.append(getattr(member, "filename", member))
        return own(self, member, *args, **more)

    monkeypatch.setattr(zipfile.ZipFile, "open", spy)
    nf.data.npz(file, x="z")
    assert set(names) == {"y.npy", "z.npy"}


def test_a_file_larger_than_memory_is_not_read(tmp_path):
    with (tmp_path / "a.csv").open("wb") as opened:
        opened.truncate(1 << 42)  # takes no room on the disk
    assert "it has 4.4 TB, but only " in refused(LOADERS["pets.csv"], tmp_path / "a.csv")


def test_archives_inside_archives_and_sparse_members_stay_shut(tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as tar:
        tar.addfile(tarfile.TarInfo("test_batch"))
    (tmp_path / "a.gz").write_bytes(gzip.compress(inner.getvalue()))
    words = refused(lambda path: nf.data.cifar10(path=path), tmp_path / "a.gz")
    assert "it is not an archive that can be unpacked" in words


def test_pictures_larger_than_the_limit_are_refused(tmp_path, monkeypatch):
    from PIL import Image

    file = tmp_path / "one" / "1.png"
    file.parent.mkdir()
    file.write_bytes(SAMPLES["1.png"]())  # 48 pixels
    for most in (47, 20):  # Pillow warns of the first, and refuses the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        assert f"it has more than {most} pixels. Make it smaller" in refused(LOADERS["1.png"], file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48)
    assert "one" in nf.data.images(tmp_path, validation=0, test=0).names


def test_only_named_formats_are_opened(tmp_path, monkeypatch):
    """PostScript would start a program, whatever its file is called."""
    ran = tmp_path / "ran"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    file = tmp_path / "images" / "one" / "1.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n")
    assert "it should be one of PNG, JPEG, BMP" in refused(LOADERS["1.png"], file)
    assert not ran.exists()


@pytest.mark.slow
def test_the_memory_of_a_table_is_at_most_three_times_its_file(tmp_path):
    """Of what reading adds, by either reader; 20,000 columns take no longer than few."""
    row = ",".join(f"{v:.9f}" for v in np.random.RandomState(0).randn(20_000))
    short = row[:240].rpartition(",")[0]
    for name, words, times in (("wide.csv", row, 60), ("long.csv", short, 80_000)):
        names = ",".join(f"c{i}" for i in range(words.count(",") + 1))
        rows = "".join(f"{words},{'ab'[i % 2]}\n" for i in range(times))
        (tmp_path / name).write_text(f"{names},y\n{rows}")
    script = """
        import os, resource, sys
        from pathlib import Path
        import pyarrow.csv
        from nnfunc.data.sources import columns, csv_reader
        file, csv_reader.QUICK = Path(sys.argv[1]), int(sys.argv[2])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        columns.read_columns(file, ",", None, ["y"])
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print((after - before) * 1024 / file.stat().st_size)
    """
    for name, quick in (("long.csv", 1 << 20), ("long.csv", 1 << 40), ("wide.csv", 1 << 20)):
        command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / name), str(quick)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert float(run.stdout) < 3.5, (name, quick)  # pyarrow takes 50 MB for itself, of 15 to 20


@pytest.mark.slow
@pytest.mark.parametrize("cell, options", [("digits", {}), ("decimal", {}), ("category", {"categorical": ["a"]})])
def test_the_splits_of_short_rows_take_three_times_their_file(tmp_path, cell, options):
    """Of which the splits are 16 bytes for a row of 8.9 or 9."""
    draw = np.random.RandomState(0)
    forms = {"digits": "{0:06}", "decimal": "{1:.4f}", "category": "k{0:05}"}
    words = [forms[cell].format(i, i / 1e4) for i in range(10_000)]
    for name, rows in (("small.csv", 300_000), ("large.csv", 4_000_000)):
        codes = draw.randint(0, 10_000, rows).tolist()
        labels = draw.randint(0, 3, rows).tolist()
        (tmp_path / name).write_text("a,y\n" + "".join(f"{words[i]},{y}\n" for i, y in zip(codes, labels, strict=True)))
    script = """
        import json, sys
        from pathlib import Path
        import nnfunc as nf
        folder, options, status = Path(sys.argv[1]), json.loads(sys.argv[2]), Path("/proc/self/status")
        memory = lambda name: int(status.read_text().split(name)[1].split()[0])
        nf.data.table(folder / "small.csv", label="y", **options)  # libraries take memory once
        Path("/proc/self/clear_refs").write_text("5")
        before, size = memory("VmRSS:"), (folder / "large.csv").stat().st_size
        splits = nf.data.table(folder / "large.csv", label="y", **options)
        print((memory("VmHWM:") - before) * 1024 / size)
    """
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is reset through /proc")
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), json.dumps(options)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 3


def test_rows_to_predict_are_as_careful(tmp_path):
    from nnfunc.data.prediction_inputs import load_inputs

    file = tmp_path / "pets.csv"
    file.write_bytes(SAMPLES["pets.csv"]())
    preprocessing = LOADERS["pets.csv"](file).preprocessing
    x, _ = load_inputs(preprocessing, {"height": [1.0], "weight": [2.0]})
    assert x.shape == (1, 2)
    masked = np.ma.masked_equal([[1.0, 2.0]], 2)
    for rows in (masked, {"height": masked[0], "weight": masked[0]}):
        assert "should hold no masked values" in refused(lambda r: load_inputs(preprocessing, r), rows)
    for name in ("a.csv", "a.npy", "a.parquet"):
        os.mkfifo(tmp_path / name)
        assert "it is a pipe, not a file" in refused(lambda p: load_inputs(preprocessing, p), tmp_path / name)
    with (tmp_path / "x.npy").open("wb") as opened:
        head = {"descr": "<f8", "fortran_order": False, "shape": (1 << 50, 2)}
        np.lib.format.write_array_header_1_0(opened, head)
    assert "its header says float64" in refused(lambda p: load_inputs(preprocessing, p), tmp_path / "x.npy")
    file.write_bytes("weight,height\n1,2\n".encode("utf-16"))
    assert "it should be text in UTF-8, but is in UTF-16" in refused(lambda p: load_inputs(preprocessing, p), file)
