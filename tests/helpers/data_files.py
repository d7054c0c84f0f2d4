"""Small files in the formats of real data sets, and damage to them."""

import gzip
import io
import pickle
import struct
import tarfile

import numpy as np

from nnfunc.errors import NnfuncError

COUNT = 40


def idx(array, kind=8):
    """The bytes of an IDX file."""
    head = struct.pack(">BBBB", 0, 0, kind, array.ndim)
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def digit_arrays(count=COUNT, seed=0):
    draw = np.random.RandomState(seed)
    return draw.randint(0, 256, (count, 28, 28)).astype(np.uint8), np.arange(count, dtype=np.uint8) % 10


def mnist_files(folder, zipped=True, dots=False):
    """A folder of four small IDX files, and what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {}
    for part, seed in (("train", 0), ("t10k", 1)):
        held[part] = digit_arrays(seed=seed)
        for what, axes, array in zip(("images", "labels"), (3, 1), held[part], strict=True):
            name = f"{part}-{what}{'.' if dots else '-'}idx{axes}-ubyte{'.gz' if zipped else ''}"
            data = idx(array)
            (folder / name).write_bytes(gzip.compress(data, mtime=0) if zipped else data)
    return held


def cifar_rows(count=20):
    draw = np.random.RandomState(3)
    return {
        name: (draw.randint(0, 256, (count, 3072)).astype(np.uint8), np.arange(count) % 10)
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    }


def old_pickle(x, y):
    """As Python 2 and its NumPy wrote them: protocol 2, texts as bytes."""
    table = {
        b"batch_label": b"a batch",
        b"labels": [int(v) for v in y],
        b"data": x,
        b"filenames": [b"a_%d.png" % i for i in range(len(y))],
    }
    return pickle.dumps(table, protocol=2)


def cifar_files(folder, form="bin"):
    """A folder of batches in one of the two forms."""
    folder = folder / f"cifar-10-batches-{form}"
    folder.mkdir(parents=True)
    for name, (x, y) in cifar_rows().items():
        if form == "bin":
            rows = np.concatenate([y[:, None].astype(np.uint8), x], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            (folder / name).write_bytes(old_pickle(x, y))
    (folder / "readme.html").write_text("hello")
    return folder


def archive(folder, target):
    """A folder as a .tar.gz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    target.write_bytes(packed.getvalue())
    return target


def damage(data, draw):
    """The bytes cut short, with some flipped, some left out, or something else altogether."""
    kind = draw.randint(5)
    if kind == 0:
        return data[: draw.randint(len(data))]
    if kind == 1:
        return draw.bytes(draw.randint(1, 60))
    found = bytearray(data)
    early = draw.randint(2)  # damage to a head does more
    for _ in range(draw.randint(1, 5)):
        at = draw.randint(min(len(found), 64) if early else len(found))
        if kind == 2:
            found[at] ^= 1 << draw.randint(8)
        elif kind == 3:
            found[at] = draw.randint(256)
        else:
            del found[at]
    return bytes(found)


def only_mistakes(load, file, times, name=None):
    """Damage a file again and again: loading works, or fails with an error of ours that names it."""
    draw, errors = np.random.RandomState(0), []
    whole = file.read_bytes()
    for _ in range(times):
        file.write_bytes(damage(whole, draw))
        try:
            load()
        except Exception as error:
            errors.append(error)
    file.write_bytes(whole)
    strange = [e for e in errors if not isinstance(e, NnfuncError) or (name or file.name) not in str(e)]
    assert not strange, f"{len(strange)} such: {strange[0]!r}"
    assert len(errors) > times // 5
