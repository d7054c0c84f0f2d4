"""Data sets from files: found, fetched, read, and refused with a clear error when they are damaged.

Nothing is downloaded: what is fetched comes from a server of this process.
"""

import gzip
import hashlib
import http.server
import os
import pickle
import re
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import (
    archive,
    cifar_files,
    cifar_rows,
    digit_arrays,
    idx,
    mnist_files,
    old_pickle,
    only_mistakes,
)

import nnfunc as nf
from nnfunc.config import ConfigError, factories, resolve
from nnfunc.config.schema import get_schema
from nnfunc.data import download
from nnfunc.data.sources import mnist as idx_module

FROZEN_COUNTS = [493, 562, 496, 511, 487, 452, 493, 522, 488, 496]
BODY = b"what the file holds" * 1000
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    """Nothing is found but what a test puts there, and no other machine is asked."""
    monkeypatch.delenv("NNFUNC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    real = socket.getaddrinfo

    def local_only(host, *rest, **more):
        if host not in ("127.0.0.1", "localhost"):
            raise socket.gaierror(-2, "Name or service not known")
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", local_only)


class Handler(http.server.BaseHTTPRequestHandler):
    asked: list = []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/broken":
            return self.wfile.write(b"nonsense\r\n\r\n")
        body = BODY if self.path != "/wrong" else BODY[::-1]
        self.send_response(200)
        if self.path != "/silent":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:5000] if self.path in ("/cut", "/silent") else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        thread.join()


# Places.


def test_places_of_each_system(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "cache" / "nnfunc" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    for platform, inside in {"linux": ".cache", "darwin": "Library/Caches"}.items():
        monkeypatch.setattr("sys.platform", platform)
        assert download.cache_folder() == tmp_path / inside / "nnfunc" / "data"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert download.cache_folder() == tmp_path / "local" / "nnfunc" / "data"
    monkeypatch.setenv("NNFUNC_DATA", str(tmp_path / "mine"))
    assert download.data_folders()[0] == tmp_path / "mine"


def test_the_named_folder_comes_before_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NNFUNC_DATA", str(tmp_path / "mine"))
    in_cache = tmp_path / "cache" / "nnfunc" / "data" / "it.txt"
    in_cache.parent.mkdir(parents=True)
    in_cache.write_text("cache")
    assert download.find("here", ["it.txt"]) == in_cache
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "other.txt").write_text("mine")
    assert download.find("here", ["it.txt", "other.txt"]) == tmp_path / "mine" / "other.txt"
    assert download.resolve("here", "it.txt") == in_cache


def test_a_missing_file_is_one_error_with_all_that_helps(tmp_path, monkeypatch):
    monkeypatch.setenv("NNFUNC_DATA", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError) as caught:
        nf.data.mnist()
    words = str(caught.value)
    assert words.startswith("data.mnist: train-images-idx3-ubyte.gz was not found in ")
    assert f"{tmp_path}/none/mnist, " in words
    assert f"{tmp_path}/cache/nnfunc/data/mnist" in words
    assert "which is not a folder" in words
    assert words.count("no connection (Name or service not known)") == 2
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz"
    put = tmp_path / "none" / "mnist" / "train-images-idx3-ubyte.gz"
    assert words.endswith(f"Download {url} and save it as {put}.")


def test_a_path_that_is_not_there_names_the_near_ones(tmp_path):
    (tmp_path / "train.csv").write_text("a")
    with pytest.raises(FileNotFoundError, match=r"tried .*/tran.csv; did you mean 'train.csv'"):
        download.resolve("data.table", tmp_path / "tran.csv")
    with pytest.raises(FileNotFoundError, match="did you mean 'tinyshakespeare'"):
        nf.data.text("tinyshakespear", block_size=3)


def test_a_user_without_a_home(monkeypatch):
    def none():
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(FileNotFoundError, match="there is no cache folder"):
        nf.data.mnist()


# Fetching.


def fetched(tmp_path, *urls, checksum=MD5):
    target = tmp_path / "deep" / "er" / "file.gz"
    troubles = download.fetch(download.Source(urls, checksum), target)
    left = [p.name for p in target.parent.iterdir()]
    assert left == ([] if troubles else ["file.gz"])  # nothing half done
    return troubles or target.read_bytes()


def test_a_file_is_fetched_and_found_from_then_on(tmp_path, server):
    sha = f"sha256:{hashlib.sha256(BODY).hexdigest().upper()}"
    for checksum in (MD5, sha):
        assert fetched(tmp_path, f"{server}/right", checksum=checksum) == BODY
    Handler.asked.clear()
    source = download.Source((f"{server}/missing", f"{server}/right"), MD5)
    found = [download.find("here", ["set/file.gz", "file.gz"], source) for _ in range(2)]
    assert found == 2 * [tmp_path / "cache" / "nnfunc" / "data" / "set" / "file.gz"]
    assert Handler.asked == ["/missing", "/right"]


@pytest.mark.parametrize(
    "path,words",
    {
        "wrong": f"its md5 should be {MD5[4:]}, got {hashlib.md5(BODY[::-1]).hexdigest()}; it was not saved",
        "cut": f"the connection was cut after 5000 of {len(BODY)} bytes",
        "silent": "its md5 should be ",
        "missing": r"the server answered 404 \(Not Found\)",
        "broken": "",
    }.items(),
)
def test_what_is_not_right_is_not_kept(tmp_path, server, path, words):
    (trouble,) = fetched(tmp_path, f"{server}/{path}")
    assert re.fullmatch(f"{server}/{path}: .*{words}.*", trouble)


def test_a_refused_connection_and_the_next_mirror(tmp_path, server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused = f"http://127.0.0.1:{port}/x"
    (trouble,) = fetched(tmp_path, refused)
    assert trouble == f"{refused}: no connection (Connection refused)"
    assert fetched(tmp_path, refused, f"{server}/cut", f"{server}/right") == BODY


def test_a_server_that_says_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        (trouble,) = fetched(tmp_path, f"http://127.0.0.1:{mute.getsockname()[1]}/x")
    assert "timed out" in trouble


def test_a_cache_that_cannot_be_written(tmp_path, server):
    (tmp_path / "deep").write_text("a file where a folder should be")
    source = download.Source((f"{server}/right",), MD5)
    (trouble,) = download.fetch(source, tmp_path / "deep" / "file.gz")
    assert trouble.endswith(("Not a directory", "File exists"))


def test_mnist_is_fetched_when_it_is_missing(tmp_path, monkeypatch, server):
    held = mnist_files(tmp_path / "served")
    bodies = {p.name: p.read_bytes() for p in (tmp_path / "served").iterdir()}

    class Serve(Handler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bodies[self.path[1:]])

    sums = {name.split("-idx")[0]: hashlib.md5(body).hexdigest() for name, body in bodies.items()}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serve) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{found.server_address[1]}/"
        md5 = {stem: sums[stem] for stem in idx_module._MNIST.md5}
        monkeypatch.setattr(idx_module, "_MNIST", idx_module._MNIST._replace(md5=md5, mirrors=(url,)))
        splits = nf.data.mnist(validation=10)
        found.shutdown()
        thread.join()
    np.testing.assert_array_equal(splits.test[0][..., 0], held["t10k"][0])
    again = nf.data.mnist(validation=10)  # from the cache
    np.testing.assert_array_equal(again.train[0], splits.train[0])


# IDX.


@pytest.mark.parametrize(
    "inside,zipped,dots",
    [("mnist", True, False), ("MNIST/raw", False, False), ("", False, True), ("MNIST", True, True)],
)
def test_mnist_in_every_usual_layout(tmp_path, monkeypatch, inside, zipped, dots):
    held = mnist_files(tmp_path / "data" / inside, zipped, dots)
    monkeypatch.setenv("NNFUNC_DATA", str(tmp_path / "data"))
    splits = nf.data.mnist(validation=10)
    assert [part[0].shape for part in splits[:3]] == [(30, 28, 28, 1), (10, 28, 28, 1), (40, 28, 28, 1)]
    assert (splits.train[0].dtype, splits.train[1].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(splits.test[0][..., 0], held["t10k"][0])
    np.testing.assert_array_equal(splits.test[1], held["t10k"][1])
    # training and validation images together are the training file
    together = np.concatenate([splits.train[0], splits.validation[0]])[..., 0]
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(held["train"][0], axis=0))
    assert np.bincount(splits.validation[1]).tolist() == 10 * [1]
    assert nf.data.mnist(path=tmp_path / "data" / inside, validation=0).validation is None


def test_fashion_is_not_mistaken_for_mnist(tmp_path, monkeypatch):
    mnist_files(tmp_path / "mnist")
    monkeypatch.setenv("NNFUNC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="fashion"):
        nf.data.fashion_mnist()
    mnist_files(tmp_path / "FashionMNIST" / "raw", zipped=False)
    splits = nf.data.fashion_mnist(validation=10, flip=True, shift=2)
    assert (splits.names[9], splits.classes) == ("Ankle boot", 10)
    assert splits.transform == nf.data.Normalise((0.2860,), (0.3530,))


def test_layouts_and_shuffled_pixels(tmp_path):
    mnist_files(tmp_path)

    def train(**more):
        return nf.data.mnist(path=tmp_path, validation=0, **more).train[0]

    image, flat, rows = (train(layout=name) for name in ("image", "flat", "rows"))
    assert (image.shape, flat.shape, rows.shape) == ((40, 28, 28, 1), (40, 784), (40, 28, 28))
    np.testing.assert_array_equal(image.reshape(40, -1), flat)
    np.testing.assert_array_equal(image[..., 0], rows)
    shuffled, again, other = (train(layout="flat", shuffle_pixels=True, shuffle_seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(shuffled, again)
    assert not np.array_equal(shuffled, other)
    order = np.random.RandomState(0).permutation(784)  # one order, for every image
    np.testing.assert_array_equal(shuffled, flat[:, order])
    np.testing.assert_array_equal(train(shuffle_pixels=True).reshape(40, -1), shuffled)
    with pytest.raises(ValueError, match="Leave out shuffle_pixels"):
        train(shuffle_pixels=True, shift=1)
    with pytest.raises(ValueError, match="layout should be one of 'image', 'flat', 'rows'"):
        train(layout="columns")
    with pytest.raises(ValueError, match="no training example remains of 40 with validation = 5000"):
        nf.data.mnist(path=tmp_path)


def test_batches_are_normalised_and_stay_bytes_on_the_device(tmp_path):
    mnist_files(tmp_path)
    data = nf.data.mnist(path=tmp_path, validation=10).data(8, seed=3)
    assert data.arrays[0].dtype == np.uint8
    x, y = data.batch(2)
    at = np.asarray(nf.data.indices(3, 2, 8, 30))
    raw = np.asarray(data.arrays[0])[at].astype(np.float64)
    np.testing.assert_allclose(x, (raw / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y, np.asarray(data.arrays[1])[at])
    (held,) = data.split("validation", 10)
    assert held[0].dtype == np.float32


@pytest.mark.parametrize("kind,dtype", [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_every_type_of_idx(tmp_path, kind, dtype):
    array = np.arange(-6, 6).reshape(3, 2, 2).astype(dtype)
    (tmp_path / "a").write_bytes(idx(array, kind))
    found = nf.data.read_idx(tmp_path / "a")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")


X, Y = digit_arrays()
WRONG = {
    "cut": (idx(X)[:-1], r"images-idx3-ubyte: it should have 31376 bytes, for 40 x 28 x 28 values, got 31375"),
    "long": (idx(X) + b"!", "got 31377"),
    "zip": (gzip.compress(idx(X))[:-100], "gzip file that cannot be unzipped"),
    "page": (b"<!DOCTYPE html><html>", "magic number of IDX, .* got a web page. It is damaged or cut short"),
    "magic": (b"\1" + idx(X)[1:], "got 01 00 08 03"),
    "type": (idx(X, 7), "got 00 00 07 03"),
    "empty": (b"", "got nothing"),
    "head": (idx(X)[:10], "header should have 16 bytes, but the file has 10"),
    "labels": (idx(Y), r"should contain images, uint8 with 3 axes, got uint8 with 1 axes \(labels\?\). Check"),
    "sides": (idx(X[:, :20]), "images should be 28 x 28, got 20 x 28"),
    "fewer": (idx(X[:7]), "has 7 images, but .*labels-idx1-ubyte has 40 labels"),
    "floats": (idx(X.astype(">f4"), 13), "got float32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_damaged_images_are_named(tmp_path, name):
    mnist_files(tmp_path, zipped=False)
    content, words = WRONG[name]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        nf.data.mnist(path=tmp_path)
    assert str(caught.value).startswith(f"data.mnist: {tmp_path}/train-images-idx3-ubyte: ")


def test_mislabelled_digits_are_named(tmp_path):
    mnist_files(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.where(Y == 3, 10, Y).astype(np.uint8)))
    with pytest.raises(
        ValueError, match=r"t10k-labels-idx1-ubyte: labels should be in \[0, 10\), got .* of 4 such labels among 40"
    ):
        nf.data.mnist(path=tmp_path, validation=10)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(X))
    with pytest.raises(ValueError, match=r"should contain labels, .*\(images\?\)"):
        nf.data.mnist(path=tmp_path, validation=10)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"should contain t10k-labels-idx1-ubyte.gz or t10k-labels-idx1-ubyte, but"
    ):
        nf.data.mnist(path=tmp_path, validation=10)
    (tmp_path / "t10k-labels-idx1-ubyte").mkdir()
    with pytest.raises(OSError, match="cannot be read: it is a folder, not a file"):
        nf.data.mnist(path=tmp_path, validation=10)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_damage_to_idx_gives_anything_but_our_error(tmp_path, zipped):
    mnist_files(tmp_path, zipped)
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        file = tmp_path / f"{name}{'.gz' if zipped else ''}"
        only_mistakes(lambda: nf.data.mnist(path=tmp_path, validation=10), file, 60)


# CIFAR-10.


@pytest.mark.parametrize("form", ["bin", "py"])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_in_each_form(tmp_path, monkeypatch, form, packed):
    folder = cifar_files(tmp_path / "made", form)
    root = tmp_path / "data" / ("cifar10" if packed else "")
    root.mkdir(parents=True)
    if packed:
        archive(folder, root / f"cifar-10-{'binary' if form == 'bin' else 'python'}.tar.gz")
    else:
        folder.rename(root / folder.name)
    monkeypatch.setenv("NNFUNC_DATA", str(tmp_path / "data"))
    splits = nf.data.cifar10(validation=10)
    assert [len(part[0]) for part in splits[:3]] == [90, 10, 20]
    x, y = cifar_rows()["test_batch"]
    image = splits.test[0][7]
    assert image.shape == (32, 32, 3)
    assert image[5, 9].tolist() == [int(x[7, plane * 1024 + 5 * 32 + 9]) for plane in range(3)]
    np.testing.assert_array_equal(splits.test[1], y)
    assert (splits.names[6], splits.classes) == ("frog", 10)
    mean, std = np.array((0.4914, 0.4822, 0.4465)), np.array((0.2470, 0.2435, 0.2616))
    wanted = (image / 255 - mean) / std
    for layout, shape in {"image": (32, 32, 3), "flat": (3072,), "rows": (32, 96)}.items():
        data = nf.data.cifar10(layout=layout, validation=0).data(4)
        (batch,) = data.split("test", 20)
        np.testing.assert_allclose(batch[0][7], wanted.reshape(shape), rtol=1e-4, atol=1e-5)


def test_a_pickle_can_call_nothing(tmp_path):
    folder = cifar_files(tmp_path, "py")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "done"),)

    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Evil(), b"labels": [1]}, protocol=2))
    with pytest.raises(ValueError, match=r"test_batch: it is not a batch .*it names posix.mkdir"):
        nf.data.cifar10(path=folder)
    assert not (tmp_path / "done").exists()


def test_damaged_batches_are_named(tmp_path):
    folder = cifar_files(tmp_path, "bin")
    file = folder / "data_batch_3.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3.bin: it should have rows of 3073 bytes .* got 61459 bytes"):
        nf.data.cifar10(path=folder)
    file.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(ValueError, match=r"data_batch_3.bin: labels should be in \[0, 10\), got 11"):
        nf.data.cifar10(path=folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"should contain data_batch_3.bin, or data_batch_3"):
        nf.data.cifar10(path=folder)
    python = cifar_files(tmp_path / "py", "py")
    (python / "test_batch").write_bytes(old_pickle(np.zeros((2, 5), np.uint8), [1, 2]))
    with pytest.raises(ValueError, match=r"test_batch: images should be uint8 \[2, 3072\], got uint8 \[2, 5\]"):
        nf.data.cifar10(path=python)


@pytest.mark.parametrize("form", ["bin", "py", "tar"])
def test_no_damage_to_cifar_gives_anything_but_our_error(tmp_path, form):
    folder = cifar_files(tmp_path, "py" if form == "py" else "bin")
    file = folder / ("test_batch" if form == "py" else "test_batch.bin")
    place = folder
    if form == "tar":
        place = file = archive(folder, tmp_path / "cifar.tar.gz")
    times = 20 if form == "tar" else 60
    only_mistakes(lambda: nf.data.cifar10(path=place, validation=10), file, times)


# In a config.


def tables(**data):
    return {
        "data": data,
        "model": {"name": "mlp", "widths": [784, 10]},
        "train": {"steps": 10},
        "objective": {"name": "classification"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
    }


def test_every_data_set_may_be_named():
    names = "cifar10 digits fashion_mnist forecasting images mnist npz table tagging text text_classification tokens"
    assert sorted(factories("data")) == names.split()
    for name in names.split():
        kinds = get_schema("data", name).types
        assert {"batch_size", "seed"} <= set(kinds)
        assert not any(kind.traced for kind in kinds.values())
    assert get_schema("data", "mnist").python_only == ()
    assert "codec" in get_schema("data", "text").types


def test_a_config_loads_its_data(tmp_path):
    mnist_files(tmp_path)
    asked = {"name": "mnist", "layout": "flat", "batch_size": 8, "path": str(tmp_path), "validation": 10}
    config = resolve(tables(**asked) | {"seed": 5})
    data = config.data()
    assert (data.batch(0)[0].shape, int(data.seed), data.validation[0].shape) == ((8, 784), 5, (10, 784))
    assert config.test()[0].shape == (40, 784)
    assert int(resolve(tables(**asked, seed=3)).data().seed) == 3
    moved = resolve(tables(**asked, shift=2)).data()
    assert moved.augment.shape == (28, 28, 1)


@pytest.mark.parametrize(
    "data,words",
    [
        ({"name": "mnst"}, "data.name: should be one of .*, got 'mnst'; did you mean 'mnist'"),
        ({"name": "mnist", "layuot": "flat"}, "data.layuot: mnist has no such key, got 'flat'; did you mean 'layout'"),
        (
            {"name": "mnist", "layout": "flt"},
            "data.layout: should be one of 'image', 'flat', 'rows', .*did you mean 'flat'",
        ),
        ({"name": "images"}, "data.path: is missing; images needs text: write path = "),
        ({"name": "text", "block_size": 2.5}, "data.block_size: should be an integer"),
        (
            {"name": "mnist"},
            r"^config: data: train-images-idx3-ubyte.gz was not found in [^\n]* save it as [^\n]*\.gz\.$",
        ),
        ({"name": "table", "source": "none.csv", "label": "a"}, "^config: data: none.csv was not found; tried"),
    ],
)
def test_mistakes_of_the_data_table(data, words):
    with pytest.raises(ConfigError, match=words):
        resolve(tables(**data)).data()


# The real files, where they are.

DATA = os.environ.get("NNFUNC_DATA", "")
real = pytest.mark.skipif(not Path(DATA, "mnist").is_dir(), reason="NNFUNC_DATA names no folder that holds mnist")


@real
def test_mnist_is_mnist(monkeypatch):
    monkeypatch.setenv("NNFUNC_DATA", DATA)
    splits = nf.data.mnist()
    x, y = splits.test  # written again, they are the published files
    assert hashlib.md5(idx(x[..., 0])).hexdigest() == "2646ac647ad5339dbf082846283269ea"
    assert hashlib.md5(idx(y.astype(np.uint8))).hexdigest() == "27ae3e4e09519cfbb04c329615203637"
    assert [len(part[1]) for part in splits[:3]] == [55000, 5000, 10000]
    assert np.bincount(splits.validation[1]).tolist() == FROZEN_COUNTS
    assert splits.train[1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    x = splits.train[0] / np.float32(255)
    assert abs(x.mean() - 0.1307) < 2e-4
    assert abs(x.std() - 0.3081) < 2e-4
