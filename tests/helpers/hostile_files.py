"""Hostile data files as hypothesis strategies: small valid files of every format, and edits to them.

`SAMPLES[name]` makes the bytes of a valid file, `LOADERS[name]` reads one, `edited(data)` draws bytes
near others, `not_files(folder)` makes what is no file at all.
"""

import gzip
import io
import json
import os
import zipfile

import numpy as np
from hypothesis import strategies as st

import nnfunc as nf
from helpers.data_files import idx
from nnfunc.config.load import load

ROWS = "".join(f"{i},{i * i / 8},{'cat' if i % 2 else 'dog'}\n" for i in range(12))
TOML = """data = { name = "digits", batch_size = 64 }
model = { name = "mlp", widths = [64, 10] }
objective = { name = "classification" }
optimizer = { name = "sgd", learning_rate = 0.1 }
train = { steps = 2 }
"""
# Pieces that trip readers: quotes, marks, numbers of other languages, heads that claim too much.
PIECES = [
    b'"',
    b"\0",
    b"\r",
    b"\n\n",
    b",",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"1_000",
    "\uff11".encode(),
    b"1e999",
    b"nan",
    b"0x10",
    b"-",
    b"\xe9",
    b"\x80\x04",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"{'descr': '|O', ",
    b"%!PS-Adobe",
    b"PK\x03\x04",
    b"\x1f\x8b\x08",
    b"A" * 5000,
    b"[" * 2000,
    "\U0001f600".encode(),
]


def _picture(ending):
    from PIL import Image

    target, pixels = io.BytesIO(), np.random.RandomState(0).randint(0, 256, (6, 8, 3))
    form = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending)
    Image.fromarray(pixels.astype(np.uint8)).save(target, form)
    return target.getvalue()


def _npz(compression=zipfile.ZIP_DEFLATED):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as packed:
        for name, array in {"x": np.ones((12, 2), np.float32), "y": np.arange(12) % 2}.items():
            packed.writestr(f"{name}.npy", _npy(array))
    return target.getvalue()


def _npy(array):
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


def _parquet():
    import pyarrow
    from pyarrow import parquet

    target = io.BytesIO()
    columns = {"weight": list(range(12)), "height": [i / 8 for i in range(12)], "kind": ["a", "b"] * 6}
    parquet.write_table(pyarrow.table(columns), target)
    return target.getvalue()


SAMPLES = {
    "pets.csv": lambda: f"weight,height,kind\n{ROWS}".encode(),
    "pets.csv.gz": lambda: gzip.compress(f"weight,height,kind\n{ROWS}".encode(), mtime=0),
    "pets.parquet": _parquet,
    "pets.npz": _npz,
    "stored.npz": lambda: _npz(zipfile.ZIP_STORED),
    "tokens.npy": lambda: _npy(np.arange(60, dtype=np.uint16)),
    "tokens.bin": lambda: np.arange(60, dtype="<u2").tobytes(),
    "text.txt": lambda: b"to be or not to be, " * 8,
    "codec.json": lambda: json.dumps({"codec": "characters", "characters": " abc"}).encode(),
    "digits.idx": lambda: idx(np.arange(48, dtype=np.uint8).reshape(3, 4, 4)),
    "config.toml": TOML.encode,
} | {f"1.{ending}": lambda ending=ending: _picture(ending) for ending in ("png", "jpg", "gif", "bmp", "tif")}


def _images(file):
    """The folder above as the only class of a folder."""
    return nf.data.images(file.parents[1], size=4, validation=0, test=0)


def _table(file):
    return nf.data.table(file, label="kind", validation=0, test=0)


LOADERS = {name: _images for name in SAMPLES if name.startswith("1.")} | {
    "pets.csv": _table,
    "pets.csv.gz": _table,
    "pets.parquet": _table,
    "pets.npz": lambda file: nf.data.npz(file, validation=0, test=0),
    "stored.npz": lambda file: nf.data.npz(file, validation=0, test=0),
    "tokens.npy": lambda file: nf.data.tokens(file, block_size=4),
    "tokens.bin": lambda file: nf.data.tokens(file, block_size=4),
    "text.txt": lambda file: nf.data.text(file, block_size=4),
    "codec.json": nf.data.load_codec,
    "digits.idx": nf.data.read_idx,
    "config.toml": load,
}


@st.composite
def edited(draw, data):
    """Bytes near the given ones: flipped, cut, doubled, moved, with pieces put in; sometimes others."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=80))
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        # damage to a head does more
        early = draw(st.booleans())
        at = draw(st.integers(0, min(len(found), 64) if early else len(found)))
        end = min(len(found), at + draw(st.integers(1, 40)))
        match draw(st.integers(0, 5)):
            case 0:
                del found[at:]
            case 1:
                del found[at:end]
            case 2:
                found[end:end] = found[at:end] * draw(st.integers(1, 3))
            case 3:
                found[at:end] = draw(st.sampled_from(PIECES))
            case 4:
                found[at:at] = draw(st.sampled_from(PIECES))
            case 5 if at < len(found):
                found[at] = draw(st.integers(0, 255))
    return bytes(found)


def not_files(folder):
    """{what: path} of a pipe, a folder, a device, links to nothing and to themselves."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "gone").symlink_to(folder / "nothing")
    (folder / "loop").symlink_to(folder / "loop")
    paths = {name: folder / name for name in ("folder", "pipe", "gone", "loop")}
    return paths | {"device": "/dev/zero"}
