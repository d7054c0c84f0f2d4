"""Checkpoints come back bit for bit or are refused by name, whatever stops a save."""

import errno
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import nnfunc as nf
from nnfunc.checkpoint import checkpoint_files, save_load, sharded_tensors


class State(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: tuple


def small(value=1.0):
    return {"w": jnp.full((2, 3), value), "n": jnp.int32(7), "key": jax.random.key(3)}


def train_state(width=4):
    params = {"head": {"weight": jnp.ones((width, 3)), "bias": jnp.zeros(3, jnp.bfloat16)}}
    return State(jnp.int32(5), params, optax.adam(1e-3).init(params))


def assert_identical(got, wanted):
    """The same structure, types and bits: NaN equals NaN, and -0.0 is not 0.0."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert type(ours) is type(theirs)
        if not hasattr(theirs, "dtype"):
            assert repr(ours) == repr(theirs)
            continue
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if jnp.issubdtype(theirs.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def tensors_of(folder):
    (file,) = folder.glob("*.safetensors")
    return file


# What comes back.

TYPES = [
    "bool",
    "int8",
    "uint8",
    "int32",
    "uint32",
    "float16",
    "bfloat16",
    "float32",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3b11fnuz",
    "int4",
    "complex64",
]
NASTY = {
    "types": {name: jnp.array([[0, 1], [1, 0]]).astype(name) for name in TYPES},
    "floats": jnp.array([np.nan, -0.0, np.inf, 1e-45], jnp.float32),
    "scalars": [jnp.float32(2), jnp.int32(-1), jnp.bool_(True)],
    "empty": (jnp.zeros((0, 3)), jnp.zeros((2, 0), jnp.int32), (), {}, None),
    "keys": [
        jax.random.key(1),
        jax.random.split(jax.random.key(2), 3),
        jax.random.PRNGKey(3),
        jax.random.key(4, impl="rbg"),
        jax.random.split(jax.random.key(5), 0),
    ],
    "numpy": [np.arange(3.0), np.float64(3), np.zeros((2, 3)).T, np.arange(4)[::2]],
    "python": [True, 3, -(2**70), 2.5, float("inf"), float("nan")],
    "state": train_state(),
    "odd names": {
        "a/b": jnp.ones(1),
        "a": {"b": jnp.ones(2)},
        "%": jnp.ones(3),
        "": jnp.ones(4),
        "ключ \n\"'": jnp.ones(5),
        "__metadata__": jnp.ones(6),
    },
    "__metadata__": jnp.ones(2),
}


def test_a_nasty_tree_comes_back_bit_for_bit(tmp_path):
    nf.checkpoint.save(tmp_path / "it", NASTY)
    assert_identical(nf.checkpoint.load(tmp_path / "it", NASTY), NASTY)


@pytest.mark.parametrize("tree", [jnp.arange(3), (), None, [], {"a": None}, 3.5])
def test_small_trees_come_back(tree, tmp_path):
    assert_identical(nf.checkpoint.load(nf.checkpoint.save(tmp_path / "it", tree), tree), tree)


def test_shapes_alone_are_enough_and_arrays_are_free_to_move(tmp_path):
    state = train_state()
    folder = nf.checkpoint.save(tmp_path / "it", (state, jax.random.key(1)))
    shapes = jax.eval_shape(lambda: (train_state(), jax.random.key(0)))
    found = nf.checkpoint.load(folder, shapes)
    assert_identical(found, (state, jax.random.key(1)))
    assert not any(leaf.committed for leaf in jax.tree.leaves(found[0]))
    donated = jax.jit(lambda s: jax.tree.map(lambda x: x + x, s), donate_argnums=0)(found[0])
    assert_identical(donated, jax.tree.map(lambda x: x + x, state))


def test_other_programs_can_read_the_weights_by_path(tmp_path):
    folder = nf.checkpoint.save(tmp_path / "it", train_state(), metadata={"epoch": np.int64(3)})
    manifest = nf.checkpoint.inspect(folder)
    assert list(manifest["leaves"]) == [
        "step",
        "params/head/bias",
        "params/head/weight",
        "opt_state/0/count",
        "opt_state/0/mu/head/bias",
        "opt_state/0/mu/head/weight",
        "opt_state/0/nu/head/bias",
        "opt_state/0/nu/head/weight",
    ]
    assert manifest["leaves"]["params/head/weight"] == {"shape": [4, 3], "dtype": "float32"}
    assert manifest["metadata"] == {"epoch": 3}
    assert manifest["versions"]["jax"] == jax.__version__
    weights = load_file(tensors_of(folder))
    np.testing.assert_array_equal(weights["params/head/weight"], np.ones((4, 3)))


def test_a_part_can_be_read_alone(tmp_path):
    state = train_state()
    folder = nf.checkpoint.save(tmp_path / "it", state)
    assert_identical(nf.checkpoint.load(folder, state.params, part="params"), state.params)
    assert int(nf.checkpoint.load(folder, state.step, part="step")) == 5
    nf.checkpoint.save_step(tmp_path, 3, state)
    found = nf.checkpoint.latest_good(tmp_path, state.params, part="params")
    assert_identical(found.tree, state.params)
    with pytest.raises(ValueError, match=r"param/head/bias: expected bfloat16\[3\], got nothing"):
        nf.checkpoint.load(folder, state.params, part="param")


def test_what_cannot_be_kept_is_refused(tmp_path):
    for leaf in ("text", np.array(["a"]), object(), np.array([None])):
        with pytest.raises(TypeError, match="a/0 should be an array of numbers"):
            nf.checkpoint.save(tmp_path / "it", {"a": [leaf]})
    with pytest.raises(TypeError, match=r"a should have a value.*outside of jit"):
        nf.checkpoint.save(tmp_path / "it", {"a": jax.ShapeDtypeStruct((2,), jnp.float32)})
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda a: nf.checkpoint.save(tmp_path / "it", a))(jnp.ones(2))
    with pytest.raises(TypeError, match="metadata should have only values that JSON can hold"):
        nf.checkpoint.save(tmp_path / "it", {}, metadata={"x": np.ones(2)})
    assert list(tmp_path.iterdir()) == []


# Another model.


def test_the_checkpoint_of_another_model_is_refused_by_path(tmp_path):
    folder = nf.checkpoint.save(tmp_path / "it", train_state())
    with pytest.raises(ValueError, match=r"a checkpoint of another model. Build") as caught:
        nf.checkpoint.load(folder, train_state(width=8))
    words = str(caught.value)
    assert not isinstance(caught.value, nf.checkpoint.CheckpointError)
    assert str(folder) in words
    assert "params/head/weight: expected float32[8, 3], got float32[4, 3]" in words
    assert words.count("expected") == 3


@pytest.mark.parametrize(
    "like,words",
    [
        ({"w": jnp.ones(2)}, r"n: expected nothing, got int32\[\]"),
        ({"w": jnp.ones(2), "n": jnp.int32(1), "b": 1}, "b: expected a Python int, got nothing"),
        ({"w": jnp.ones(2, jnp.bfloat16), "n": jnp.int32(1)}, r"w: expected bfloat16\[2\], got float32"),
        ({"w": None, "n": jnp.int32(1)}, r"w: expected nothing, got float32\[2\]"),
        ({"w": jnp.ones(2), "n": 1}, r"n: expected a Python int, got int32\[\]"),
        ({"w": {f"{i}": 1 for i in range(9)}, "n": jnp.int32(1)}, "and 5 more"),
    ],
)
def test_every_kind_of_difference_is_named(like, words, tmp_path):
    folder = nf.checkpoint.save(tmp_path / "it", {"w": jnp.ones(2), "n": jnp.int32(1)})
    with pytest.raises(ValueError, match=words):
        nf.checkpoint.load(folder, like)


# Damage.


def refused(folder, words=None):
    with pytest.raises(nf.checkpoint.CheckpointError, match=words) as caught:
        nf.checkpoint.load(folder, small())
    return str(caught.value)


def test_any_flipped_bit_is_refused(tmp_path):
    folder = nf.checkpoint.save(tmp_path / "it", small(), metadata={"note": "a b", "x": 0.1})
    draw = random.Random(0)
    for file in (tensors_of(folder), folder / "manifest.json"):
        whole = file.read_bytes()
        for place in range(len(whole)):
            broken = bytearray(whole)
            broken[place] ^= 1 << draw.randrange(8)
            file.write_bytes(broken)
            words = refused(folder)
            assert str(file) in words
            assert "Load another checkpoint" in words
        file.write_bytes(whole)
    nf.checkpoint.load(folder, small())


def test_any_cut_or_growth_is_refused(tmp_path):
    folder = nf.checkpoint.save(tmp_path / "it", small())
    for file in (tensors_of(folder), folder / "manifest.json"):
        whole = file.read_bytes()
        for length in [*range(0, len(whole), 7), len(whole) - 1]:
            file.write_bytes(whole[:length])
            assert str(file) in refused(folder)
        file.write_bytes(whole + b"\n")
        assert str(file) in refused(folder)
        file.write_bytes(whole)
    nf.checkpoint.load(folder, small())


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"3", b"null", b"{}", b'{"sha256": 1}', b"[" * 9999, b"\xff\xfe", b'{"sha256": "x", "leaves": {}}'],
)
def test_other_manifests_are_refused(content, tmp_path):
    folder = nf.checkpoint.save(tmp_path / "it", small())
    (folder / "manifest.json").write_bytes(content)
    refused(folder, "manifest.json: (it cannot be read as a manifest|its content does not match)")


def test_missing_and_unreadable_files_are_named(tmp_path):
    folder = nf.checkpoint.save(tmp_path / "it", small())
    file = tensors_of(folder)
    file.rename(tmp_path / "away")
    assert f"{file}: there is no such file" in refused(folder)
    file.mkdir()
    assert f"{file}: it cannot be read (Is a directory)" in refused(folder)
    refused(tmp_path / "none", "manifest.json: there is no such file, so the folder is not a complete checkpoint")


def test_a_later_format_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(save_load, "FORMAT", 2)
    folder = nf.checkpoint.save(tmp_path / "it", small())
    monkeypatch.undo()
    refused(folder, "its format should be 1, got 2. Load it with the version")


# Many steps.


def test_the_last_steps_and_the_best_are_kept(tmp_path):
    nf.checkpoint.save_best(tmp_path, small(9.0), metadata={"accuracy": 0.5})
    for step in (1, 2, 10, 100, 1000):
        nf.checkpoint.save_step(tmp_path, step, small(float(step)), keep=3)
    assert nf.checkpoint.steps(tmp_path) == [10, 100, 1000]
    nf.checkpoint.save_best(tmp_path, small(8.0), metadata={"accuracy": 0.6})
    assert nf.checkpoint.inspect(tmp_path / "best")["metadata"] == {"accuracy": 0.6}
    assert_identical(nf.checkpoint.load(tmp_path / "best", small()), small(8.0))
    assert len(list((tmp_path / "best").iterdir())) == 2
    assert len(list(tmp_path.iterdir())) == 4


def test_the_one_just_saved_is_never_removed(tmp_path):
    """Gone back past a damaged checkpoint, a run saves steps below the one that is damaged."""
    for step in (10, 20, 30, 15):
        nf.checkpoint.save_step(tmp_path, step, small(float(step)), keep=1)
    assert nf.checkpoint.steps(tmp_path) == [15, 30]
    nf.checkpoint.save_step(tmp_path, 30, small(31.0), keep=1)
    assert nf.checkpoint.steps(tmp_path) == [30]
    assert_identical(nf.checkpoint.latest_good(tmp_path, small()).tree, small(31.0))


def test_the_last_good_one_is_found_and_each_refused_one_named(tmp_path):
    for step in (1, 2, 3):
        nf.checkpoint.save_step(tmp_path, step, small(float(step)), metadata={"at": step})
    newest, second = (tmp_path / f"step-{step:08d}" for step in (3, 2))
    tensors_of(newest).write_bytes(tensors_of(newest).read_bytes()[:-1])
    manifest = (second / "manifest.json").read_text()
    (second / "manifest.json").write_text(manifest.replace("float32", "float33", 1))
    step, tree, metadata, warnings = nf.checkpoint.latest_good(tmp_path, small())
    assert (step, metadata) == (1, {"at": 1})
    assert_identical(tree, small(1.0))
    assert len(warnings) == 2
    assert "The checkpoint of step 3 cannot be loaded" in warnings[0]
    assert f"{tensors_of(newest)}: it has" in warnings[0]
    assert f"{second / 'manifest.json'}: its content does not match" in warnings[1]
    with pytest.raises(ValueError, match="another model"):
        nf.checkpoint.latest_good(tmp_path, {"other": jnp.ones(1)})
    shutil.rmtree(tmp_path / "step-00000001")
    with pytest.raises(
        nf.checkpoint.CheckpointError, match=r"no undamaged checkpoint among those of steps 2, 3\. .*step 3 cannot"
    ):
        nf.checkpoint.latest_good(tmp_path, small())


def test_no_steps_at_all(tmp_path):
    assert nf.checkpoint.steps(tmp_path / "none") == []
    with pytest.raises(nf.checkpoint.CheckpointError, match="it has no checkpoint"):
        nf.checkpoint.latest_good(tmp_path / "none", small())
    with pytest.raises(ValueError, match="keep should be at least 1, got 0"):
        nf.checkpoint.save_step(tmp_path, 1, small(), keep=0)


# Saves that are cut off.


class PowerCutError(BaseException):
    """Not an Exception: nothing may catch it."""


@pytest.mark.parametrize("over", ["nothing", "an older one"])
def test_a_power_cut_at_any_point_leaves_the_old_or_the_new_one(over, tmp_path, monkeypatch):
    reached = set()
    for last in itertools.count():
        folder = tmp_path / f"{last}" / "it"
        if over != "nothing":
            nf.checkpoint.save(folder, small(1.0))
        with monkeypatch.context() as patch:
            left = itertools.count(last, -1)

            def stop(name, real, left=left):
                def call(*args, **more):
                    if next(left) > 0:
                        return real(*args, **more)
                    if name == "write_synced":
                        args[0].write_bytes(args[1][: len(args[1]) // 2])
                    reached.add(name)
                    raise PowerCutError

                return call

            for module, names in (
                (os, ["mkdir", "rename", "replace", "unlink", "rmdir", "fsync"]),
                (save_load, ["write_synced"]),
            ):
                for name in names:
                    patch.setattr(module, name, stop(name, getattr(module, name)))
            try:
                nf.checkpoint.save(folder, small(2.0))
                finished = True
            except PowerCutError:
                finished = False
        if (folder / "manifest.json").exists() or over != "nothing":
            found = float(nf.checkpoint.load(folder, small())["w"][0, 0])
            assert found == 2.0 if finished else found in (1.0, 2.0)
        else:
            assert not folder.exists()
        if finished:
            break
        monkeypatch.setattr(checkpoint_files, "_PROCESS", f"{last:08x}")  # after the power came back
        nf.checkpoint.save(folder, small(3.0))
        assert_identical(nf.checkpoint.load(folder, small()), small(3.0))
        assert [entry.name for entry in folder.parent.iterdir()] == ["it"]
        assert len(list(folder.iterdir())) == 2
    assert reached >= {"mkdir", "write_synced", "fsync", "rename" if over == "nothing" else "replace"}
    assert last >= 7


SAVER = """
import sys, numpy as np, nnfunc as nf
for step in range(10**6):
    nf.checkpoint.save_step(sys.argv[1], step, {"w": np.full(5000, step)}, keep=2)
    nf.checkpoint.save_best(sys.argv[1], {"w": np.full(5000, step)})
    print(step, flush=True)
"""


def test_killed_processes_leave_whole_checkpoints(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(nf.__file__).parents[1])}
    like = {"w": np.zeros(5000, int)}
    for moment in (0.0, 0.037, 0.101):
        saver = subprocess.Popen([sys.executable, "-c", SAVER, tmp_path], stdout=subprocess.PIPE, env=environment)
        assert saver.stdout.readline() == b"0\n"
        time.sleep(moment)
        saver.send_signal(signal.SIGKILL)
        saver.communicate()
        step, tree, _, warnings = nf.checkpoint.latest_good(tmp_path, like)
        assert not warnings
        np.testing.assert_array_equal(tree["w"], step)
        best = nf.checkpoint.load(tmp_path / "best", like)["w"][0]
        assert best in (step - 1, step)
        for folder in tmp_path.glob("step-*"):  # the next process starts at step 0
            shutil.rmtree(folder)
    nf.checkpoint.save_step(tmp_path, 10**6, like)
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_only_what_dead_processes_left_is_removed(tmp_path):
    host, number = checkpoint_files._HOST, os.getppid()
    names = {
        f".it.saving-{host}-{2**22 + 9}-0a-0b": False,  # there is no such process
        f".it.saving-{host}-{os.getpid()}-0a-0b": False,  # an earlier process of our number
        f".it.saving-{host}-{os.getpid()}-{checkpoint_files._PROCESS}-0b": True,  # another thread
        f".it.saving-{host}-{number}-0a-0b": True,
        f".it.saving-elsewhere-{number}-0a-0b": True,
        ".it.saving-old-1-0a-0b": False,
        ".it.saving": True,
    }
    for name in names:
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".it.saving-old-1-0a-0b", (0, 0))
    nf.checkpoint.save(tmp_path / "new", small())
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_a_full_disk_loses_nothing_and_says_so(tmp_path, monkeypatch):
    nf.checkpoint.save_step(tmp_path, 1, small(1.0), keep=1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError,
        match=r"step-00000002 could not be written: No space left .*B to "
        r"write, .*B free.*Earlier checkpoints are not damaged. Free some space",
    ) as caught:
        nf.checkpoint.save_step(tmp_path, 2, small(2.0), keep=1)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    assert_identical(nf.checkpoint.latest_good(tmp_path, small()).tree, small(1.0))


def test_a_limit_of_the_kernel_in_the_middle_of_a_file(tmp_path):
    folder = nf.checkpoint.save(tmp_path / "it", small(1.0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="could not be written: File too large") as caught:
            nf.checkpoint.save(folder, {"w": jnp.ones(40_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == ["it"]
    assert_identical(nf.checkpoint.load(folder, small()), small(1.0))


def test_a_folder_of_something_else_keeps_its_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    nf.checkpoint.save(tmp_path, small(1.0))
    nf.checkpoint.save(tmp_path, small(2.0))
    assert_identical(nf.checkpoint.load(tmp_path, small()), small(2.0))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(os.listdir(tmp_path)) == 3
    with pytest.raises(OSError, match=r"notes.txt could not be written"):
        nf.checkpoint.save(tmp_path / "notes.txt", small())


def test_the_manifest_is_json_for_people(tmp_path):
    folder = nf.checkpoint.save(tmp_path / "it", small(), metadata={1: (2, float("nan"))})
    lines = (folder / "manifest.json").read_text().splitlines()
    assert '    "w": {"shape": [2, 3], "dtype": "float32"}' in lines
    assert json.loads("\n".join(lines))["metadata"]["1"][0] == 2


def resealed(folder, change):
    """Change a manifest as an enemy would, who can calculate its checksum too."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    change(manifest)
    file.write_bytes(checkpoint_files.sealed(manifest))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["file"].update(name="../secret"), "file.name should be such as tensors-<hash>"),
        (lambda m: m["file"].update(name="/etc/passwd"), "file.name should be such as tensors-<hash>"),
        (lambda m: m["file"].update(bytes=2**62), r"bytes, but 4611686018427387904 were saved"),
        (lambda m: m["file"].update(bytes=-1), "file.bytes should be an integer from 0"),
        (lambda m: m["file"].pop("sha256"), "file.sha256 is missing"),
        (lambda m: m.update(leaves=[1]), "leaves should be a table, got"),
        (lambda m: m.update(metadata=None), "metadata should be a table, got None"),
        (lambda m: m["leaves"]["a"].update(shape=[-2]), r"leaves.a.shape.0 should be an integer from 0"),
        (lambda m: m["leaves"]["key"].pop("impl"), "it should have key as key<fry>"),
        (lambda m: m["leaves"]["key"].update(impl="none"), "it should have key as key<fry>"),
        (lambda m: m["leaves"]["n"].update(value="x"), "n should be a Python int"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path, change, words):
    tree = {"a": jnp.ones(2), "key": jax.random.key(0), "n": 3}
    folder = nf.checkpoint.save(tmp_path / "it", tree)
    (tmp_path / "secret").write_text("of others")
    resealed(folder, change)
    with pytest.raises(nf.checkpoint.CheckpointError, match=words):
        nf.checkpoint.load(folder, tree)


@pytest.mark.parametrize("name", ["manifest.json", "tensors"])
def test_links_out_of_a_checkpoint_are_not_followed(tmp_path, name):
    folder = nf.checkpoint.save(tmp_path / "it", {"a": jnp.ones(2)})
    (file,) = folder.glob(f"{name}*")
    file.rename(tmp_path / "away")
    file.symlink_to(tmp_path / "away")
    with pytest.raises(nf.checkpoint.CheckpointError, match="is a link out of its folder"):
        nf.checkpoint.load(folder, {"a": jnp.ones(2)})


def test_a_checkpoint_that_is_a_link_out_is_refused(tmp_path):
    tree = {"a": jnp.ones(2)}
    nf.checkpoint.save_step(tmp_path / "one", 1, tree)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "step-00000001").symlink_to(tmp_path / "one" / "step-00000001")
    with pytest.raises(nf.checkpoint.CheckpointError, match="is a link out of its folder"):
        nf.checkpoint.latest_good(tmp_path / "other", tree)


def test_an_old_checkpoint_stays_until_the_new_one_is_there(tmp_path, monkeypatch):
    """Also where the arrays are written in the background, as those that are cut over processes."""
    pytest.importorskip("orbax.checkpoint")
    nf.checkpoint.save_step(tmp_path, 7, small(1.0))
    monkeypatch.setattr(sharded_tensors, "is_cut", lambda leaf: True)
    may_end, checksums = threading.Event(), sharded_tensors.checksums
    monkeypatch.setattr(sharded_tensors, "checksums", lambda folder: may_end.wait(60) and checksums(folder))
    nf.checkpoint.save_step(tmp_path, 100, small(2.0), replaced=[7])
    assert nf.checkpoint.steps(tmp_path) == [7]
    may_end.set()
    nf.checkpoint.wait()
    assert nf.checkpoint.steps(tmp_path) == [100]
    assert list((tmp_path / "step-00000100").glob("arrays-*"))
    assert_identical(nf.checkpoint.load(tmp_path / "step-00000100", small()), small(2.0))
    assert nf.checkpoint.consolidate(tmp_path / "step-00000100")
    assert_identical(nf.checkpoint.load(tmp_path / "step-00000100", small()), small(2.0))


def test_a_checkpoint_of_cut_arrays_names_its_extra(tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint")
    monkeypatch.setattr(sharded_tensors, "is_cut", lambda leaf: True)
    nf.checkpoint.save_step(tmp_path, 1, small())
    nf.checkpoint.wait()
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"nnfunc\[distributed\]"):
        nf.checkpoint.load(tmp_path / "step-00000001", small())
