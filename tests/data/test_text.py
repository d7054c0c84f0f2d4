"""Text and token files as windows of tokens, and codecs. Reference: nanoGPT's split, and plain slices."""

import gc
import json
import os
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.data_files import only_mistakes
from hypothesis import given, settings
from hypothesis import strategies as st

import nnfunc as nf
from nnfunc.data import shuffle

TEXT = "".join(f"{i} times {i % 7} is {i * (i % 7)};\n" for i in range(60))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return path


# Codecs.


@given(st.text(min_size=1))
def test_characters_and_bytes_give_back_the_text(text):
    for codec in (nf.data.Characters.of(text), nf.data.Bytes()):
        ids = codec.encode(text)
        assert ids.dtype == np.int32
        assert codec.decode(ids) == codec.decode(jnp.asarray(ids)) == text
        assert 0 <= ids.min() <= ids.max() < codec.size
        assert codec.encode("").shape == (0,)
        assert codec.decode([]) == ""


@settings(max_examples=30)
@given(st.text(min_size=1))
def test_codecs_are_saved_and_loaded(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "codec.json"
    for codec in (nf.data.Characters.of(text), nf.data.Bytes()):
        codec.save(path)
        loaded = nf.data.load_codec(path)
        assert (loaded, hash(loaded)) == (codec, hash(codec))


def test_characters_are_looked_up_block_by_block(monkeypatch):
    text = "to be or not to be, that is the question"
    codec = nf.data.Characters.of(text)
    whole = codec.encode(text)
    monkeypatch.setattr("nnfunc.data.tokenizers.BLOCK", 7)
    assert codec.encode(text, np.uint8).tolist() == whole.tolist()
    with pytest.raises(ValueError, match=r"among the .* of the codec, got 'x' at index 40"):
        codec.encode(text + "x")


def test_characters_are_sorted_as_nanogpt_has_them():
    codec = nf.data.Characters.of("to be, or\n")
    assert codec.characters == "".join(sorted(set("to be, or\n")))
    assert codec.encode("\n e").tolist() == [0, 1, 4]


def test_codecs_refuse_what_they_do_not_know():
    codec = nf.data.Characters.of("abc")
    with pytest.raises(ValueError, match=r"among the 3 of the codec, got 'é' at index 2. .* 'abc'"):
        codec.encode("abé")
    for ids in ([0, 3], np.array([-1]), jnp.array([[0, 9]])):
        with pytest.raises(ValueError, match=r"codec.decode: ids should be in \[0, 3\), got"):
            codec.decode(ids)
    with pytest.raises(TypeError, match="ids should hold integers"):
        codec.decode(np.array([0.5]))
    with pytest.raises(ValueError, match=r"by Characters.of"):
        nf.data.Characters("ba").encode("a")


def tokenizer_file(folder):
    tokenizers = pytest.importorskip("tokenizers")
    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    own.train_from_iterator([TEXT], trainer)
    own.enable_truncation(5)  # which must not cut the text
    own.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json", own


def test_a_tokenizer_file(tmp_path, file):
    path, own = tokenizer_file(tmp_path)
    codec = nf.data.load_codec(path)
    assert (codec.size, codec) == (own.get_vocab_size(), nf.data.load_codec(path))
    assert codec.decode(codec.encode("12 times ü")) == "12 times ü"
    splits = nf.data.text(file, block_size=4, codec=str(path))
    first = int(len(TEXT) * 0.9)
    assert splits.train.tolist() == codec.encode(TEXT[:first]).tolist()
    assert splits.train.dtype == np.uint16
    assert len(splits.train) > 20
    codec.save(tmp_path / "again.json")
    assert nf.data.load_codec(tmp_path / "again.json") == codec
    missing = tmp_path / "words.json"
    missing.write_text(
        json.dumps(
            {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "x"}}
        )
    )
    with pytest.raises(ValueError, match="the tokenizer cannot encode this text"):
        nf.data.load_codec(missing).encode("b")


def test_without_tokenizers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nnfunc\[data\]'"):
        nf.data.Tokenizer("{}").encode("a")


@pytest.mark.parametrize(
    "content,words",
    {
        "{": "it is not JSON",
        "[1]": "neither",
        '{"codec": "words"}': "neither",
        '{"codec": "characters", "characters": "ba"}': "characters should be sorted and distinct",
        '{"codec": "characters", "characters": ""}': "characters should be sorted and distinct",
        '{"codec": "characters", "characters": 3}': "neither",
        "[" * 100_000: "it is not JSON",
    }.items(),
    ids=range(7),
)
def test_codec_files_that_are_wrong(tmp_path, content, words):
    (tmp_path / "codec.json").write_text(content)
    with pytest.raises(ValueError, match=f"codec.json: .*{words}"):
        nf.data.load_codec(tmp_path / "codec.json")


@pytest.mark.parametrize(
    "edit", [lambda file: None, lambda file: file.symlink_to(file.name), lambda file: file.mkdir()]
)
def test_a_record_without_its_codec_is_refused(tmp_path, file, edit):
    from nnfunc.data.preprocessing import Preprocessing

    nf.data.text(file, block_size=4).preprocessing.save(tmp_path / "run")
    (tmp_path / "run" / "codec.json").unlink()
    edit(tmp_path / "run" / "codec.json")
    with pytest.raises(ValueError, match=r"run/codec.json: it is missing, or not a file\. .*: restore it"):
        Preprocessing.load(tmp_path / "run")


@pytest.mark.parametrize("kind", ["characters", "tokenizer"])
def test_no_damage_to_a_codec_gives_anything_but_our_error(tmp_path, kind):
    path = tmp_path / "tokenizer.json"
    if kind == "characters":
        nf.data.Characters.of(TEXT).save(path)
    else:
        tokenizer_file(tmp_path)
    only_mistakes(lambda: nf.data.load_codec(path), path, 60)


# Text.


def test_text_is_split_as_nanogpt_splits_it(file):
    splits = nf.data.text(file, block_size=16)
    codec, first = splits.codec, int(len(TEXT) * 0.9)
    assert codec.characters == "".join(sorted(set(TEXT)))
    assert (splits.train.dtype, splits.window, splits.classes) == (np.uint8, 17, codec.size)
    assert codec.decode(splits.train) == TEXT[:first]
    held = TEXT[first:]
    assert len(splits.validation) == (len(held) - 1) // 16
    for place, row in enumerate(splits.validation):
        assert codec.decode(row) == held[16 * place : 16 * place + 17]
    assert nf.data.text(file, block_size=16, validation=0).validation is None


def test_batches_are_windows_from_every_place_once_an_epoch(file):
    data = nf.data.text(file, block_size=8, codec="bytes").data(10, seed=4)
    tokens = np.frombuffer(TEXT.encode(), np.uint8)[: int(len(TEXT) * 0.9)]
    assert (data.size, data.arrays.dtype) == (len(tokens) - 8, np.uint8)
    batches = jax.jit(jax.vmap(data.batch))(jnp.arange(data.steps_per_epoch))
    x, y = (np.asarray(part).reshape(-1, 8)[: data.size] for part in batches)
    assert x.dtype == y.dtype == np.int32
    at = np.concatenate([nf.data.indices(4, s, 10, data.size) for s in range(data.steps_per_epoch)])
    at = at[: data.size]
    assert sorted(at.tolist()) == list(range(data.size))
    np.testing.assert_array_equal(x, np.stack([tokens[a : a + 8] for a in at]))
    np.testing.assert_array_equal(y, np.stack([tokens[a + 1 : a + 9] for a in at]))


@pytest.mark.parametrize("name", ["train", "validation"])
@pytest.mark.parametrize("width", [1, 7, 1000])
def test_each_token_of_a_split_is_predicted_once(file, name, width):
    data = nf.data.text(file, block_size=8).data(4)
    first = int(len(TEXT) * 0.9)
    text = TEXT[:first] if name == "train" else TEXT[first:]
    parts = list(data.split(name, width))
    assert {len(x) for x, _ in parts[:-1]} <= {width}
    x, y = (np.concatenate([part[i] for part in parts]).ravel() for i in (0, 1))
    whole = (len(text) - 1) // 8 * 8
    assert data.codec.decode(x) == text[:whole]
    assert data.codec.decode(y) == text[1 : whole + 1]
    total = jax.jit(lambda data: data.total(lambda b: (b[0].sum(), len(b[0])), name, width))(data)
    assert (int(total[0]), int(total[1])) == (x.sum(), whole // 8)


def test_text_trains_through_the_loop_and_is_evaluated(file, key):
    data = nf.data.text(file, block_size=8).data(16)
    size = data.codec.size

    def build(h):
        model = nf.serial(nf.embedding(size, size))
        return nf.Task(model, nf.language_modelling(), nf.optimizers.adamw(h["rate"]))

    found = [
        nf.train(build, {"rate": 0.3}, data, steps=40, key=key, loop=loop, log_every=20) for loop in ("step", "scan")
    ]
    losses = [history.validation["loss"] for _, history in found]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][-1] < 0.7 * np.log(size)
    state = found[0][0]
    own = nf.evaluate(build({"rate": 0.3}), state.params, data.validation, transform=data.transform)
    assert abs(own["loss"] - losses[0][-1]) < 1e-5


def test_loading_twice_compiles_once(file):
    compiled = jax.jit(lambda data, step: data.batch(step))
    for _ in range(2):
        compiled(nf.data.text(file, block_size=8).data(4), 0)
    assert compiled._cache_size() == 1


@pytest.mark.parametrize("codec", ["characters", "bytes"])
def test_a_byte_order_mark_is_no_token(tmp_path, codec):
    found = []
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a.txt").write_bytes(mark + b"to be or not to be " * 5)
        found.append(nf.data.text(tmp_path / "a.txt", block_size=4, codec=codec, validation=0))
    np.testing.assert_array_equal(found[0].train, found[1].train)
    assert found[0].codec == found[1].codec
    found[0].codec.save(tmp_path / "codec.json")
    marked = b"\xef\xbb\xbf" + (tmp_path / "codec.json").read_bytes()
    (tmp_path / "codec.json").write_bytes(marked)
    assert nf.data.load_codec(tmp_path / "codec.json") == found[0].codec


def test_token_files_of_either_order_of_bytes(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(300).astype(">u2"))
    splits = nf.data.tokens(tmp_path / "a.npy", block_size=4, validation=0)
    x, _ = splits.data(4).batch(0)
    np.testing.assert_array_equal(splits.stream(4).batch(0)[0], x)
    assert int(x.max()) < 300


@pytest.mark.parametrize(
    "content,more,kind,words",
    [
        (b"", {}, ValueError, "sums.txt: it is empty"),
        (b"caf\xe9 " * 50, {}, ValueError, r"but line 1 has the byte 0xe9 \(byte 3 of the file\).*codec = \"bytes\""),
        ("to be".encode("utf-16") * 50, {}, ValueError, "is in UTF-16.* iconv -f UTF-16 .*codec = .bytes."),
        (b"\xef\xbb\xbf", {}, ValueError, "sums.txt: it is empty"),
        (b"hello", {}, ValueError, r"should have at least block_size \+ 1 = 9 training tokens, got 4. Set a smaller"),
        (b"hello" * 9, {"block_size": 16}, ValueError, "validation tokens, got 5"),
        (b"hello" * 9, {"block_size": 0}, ValueError, "block_size should be at least 1"),
        (b"hello" * 9, {"validation": 1.0}, ValueError, r"validation should be in \[0, 1\), got 1.0"),
        (b"hello" * 9, {"codec": "chars"}, ValueError, "codec should be one of 'characters', 'bytes'"),
    ],
)
def test_texts_that_are_wrong(tmp_path, content, more, kind, words):
    (tmp_path / "sums.txt").write_bytes(content)
    with pytest.raises(kind, match=words):
        nf.data.text(tmp_path / "sums.txt", **{"block_size": 8} | more)


def test_bytes_need_no_utf8(tmp_path):
    (tmp_path / "a").write_bytes(b"caf\xe9 " * 50)
    splits = nf.data.text(tmp_path / "a", block_size=8, codec="bytes")
    assert splits.train[:5].tolist() == [99, 97, 102, 233, 32]


def test_arrays_with_a_window_are_checked():
    row, held = np.arange(20), np.zeros((3, 5), np.int64)
    for words, (train, more) in {
        "train should be one row of tokens": (held, {}),
        "train should hold integers": (row / 2, {}),
        "at least 5 tokens, got 4": (row[:4], {}),
        r"validation should be rows of tokens, \[n, 5\], got shape \(3, 4\)": (row, {"validation": held[:, 1:]}),
        r"labels should be in \[0, 10\), got .* of 10 such labels among 20": (row, {"classes": 10}),
        "window should be at least 2": (row, {"window": 1}),
        "training examples, 16, got 17": (row, {"batch_size": 17}),
    }.items():
        with pytest.raises((ValueError, TypeError), match=words):
            nf.data.arrays(train, **{"batch_size": 2, "window": 5} | more)


# Token files and streams.


def token_folder(folder, form="bin", dtype="<u2", count=400):
    tokens = np.random.RandomState(0).randint(0, 300, count).astype(dtype)
    for name, part in {"train": tokens[:300], "val": tokens[300:]}.items():
        if form == "bin":
            part.tofile(folder / f"{name}.bin")
        else:
            np.save(folder / f"{name}.npy", part)
    return tokens


@pytest.mark.parametrize("form,dtype", [("bin", "<u2"), ("bin", "<u4"), ("npy", "<i4")])
def test_token_files(tmp_path, form, dtype):
    tokens = token_folder(tmp_path, form, dtype)
    kind = np.dtype(dtype).name
    splits = nf.data.tokens(tmp_path, block_size=8, dtype=kind, vocab_size=300)
    assert isinstance(splits.train, np.memmap)
    data, stream = splits.data(5, seed=2), splits.stream(5, seed=2)
    at = np.asarray(nf.data.indices(2, 3, 5, 292))
    for batch in (data.batch(3), stream.batch(3)):
        np.testing.assert_array_equal(batch[0], np.stack([tokens[a : a + 8] for a in at]))
        np.testing.assert_array_equal(batch[1], np.stack([tokens[a + 1 : a + 9] for a in at]))
    np.testing.assert_array_equal(splits.validation[1], tokens[308:317])
    one = nf.data.tokens(tmp_path / f"train.{form}", block_size=8, dtype=kind, validation=0.2)
    assert (len(one.train), one.validation.shape, one.classes) == (240, (7, 9), None)


def test_a_stream_is_the_data_set_without_the_device(tmp_path):
    token_folder(tmp_path)
    splits = nf.data.tokens(tmp_path, block_size=8, vocab_size=300)
    data, stream = splits.data(5), splits.stream(5)
    assert (data.size, data.steps_per_epoch) == (stream.size, stream.steps_per_epoch)
    for name in ("train", "validation"):
        pairs = zip(data.split(name, 4), stream.split(name, 4), strict=True)
        for wanted, found in pairs:
            jax.tree.map(np.testing.assert_array_equal, wanted, found)
    batches, givens = stream.batches(7), stream.gathered_batches(7)
    step = jax.jit(lambda given, step: given.batch(step))
    for place in range(7, 11):
        jax.tree.map(np.testing.assert_array_equal, next(batches), data.batch(place))
        jax.tree.map(np.testing.assert_array_equal, step(next(givens), place), data.batch(place))
    assert step._cache_size() == 1
    batches.close()
    givens.close()
    assert not [t for t in threading.enumerate() if t.name == "nnfunc-prefetch"]


def test_streams_of_pairs_are_transformed_and_augmented_as_data(key):
    x = np.random.RandomState(0).randint(0, 256, (30, 6, 6, 1)).astype(np.uint8)
    looks = {"transform": nf.data.Normalise((0.5,), (0.5,)), "augment": nf.data.shift(1)}
    splits = nf.data.Splits((x, np.arange(30) % 3), (x, np.arange(30) % 3), classes=3, **looks)
    data, stream = splits.data(4, seed=9), splits.stream(4, seed=9)
    for k in (None, key):
        pairs = zip(data.batch(11, key=k), stream.batch(11, key=k), strict=True)
        for wanted, found in pairs:
            np.testing.assert_allclose(wanted, found, rtol=1e-6)
    np.testing.assert_allclose(next(stream.split("validation"))[0], next(data.split("validation"))[0], rtol=1e-6)


def test_streams_of_more_windows_than_the_order_counts(monkeypatch):
    tokens = np.arange(1000, dtype=np.uint16)
    stream = nf.data.Splits(tokens, window=5, transform=nf.data.next_tokens).stream(8)
    monkeypatch.setattr(shuffle, "LARGEST", 300)
    steps = [stream.batch(step)[0] for step in range(4 * 31)]
    first = np.concatenate(steps)[:, 0]
    assert first.min() >= 0
    assert first.max() < 996
    epoch = 996 // 4  # groups of four neighbours, one of each group an epoch
    seen = [set(first[i * epoch : (i + 1) * epoch].tolist()) for i in range(3)]
    assert all(len(s) == epoch for s in seen)
    assert not seen[0] & seen[1]


def test_prefetching_keeps_order_raises_and_stops():
    made = []

    def items():
        for i in range(1000):
            made.append(i)
            if i == 5:
                raise OSError("the disk is gone")
            yield i

    found = nf.data.prefetch(items(), ahead=2)
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)
    made.clear()
    found = nf.data.prefetch(iter(lambda: made.append(0), 1), ahead=3)
    next(found)
    found.close()
    count = len(made)
    assert count <= 6
    assert not [t for t in threading.enumerate() if t.name == "nnfunc-prefetch"]
    assert list(nf.data.prefetch([])) == []


def test_token_files_that_are_wrong(tmp_path):
    token_folder(tmp_path)
    with pytest.raises(
        ValueError, match=r"training tokens should be in the vocabulary, \[0, 250\), got 2\d\d at index \d+"
    ):
        nf.data.tokens(tmp_path, block_size=8, vocab_size=250)
    (tmp_path / "train.bin").write_bytes(bytes(301))
    with pytest.raises(ValueError, match=r"train.bin: it should have tokens of 2 bytes each \(uint16\), got 301"):
        nf.data.tokens(tmp_path, block_size=8)
    (tmp_path / "train.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="got 0 bytes"):
        nf.data.tokens(tmp_path, block_size=8)
    (tmp_path / "train.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"should contain train.bin or train.npy"):
        nf.data.tokens(tmp_path, block_size=8)
    np.save(tmp_path / "train.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"one row of integers, got float64 \[3, 4\]"):
        nf.data.tokens(tmp_path, block_size=8)
    late = nf.data.Splits(np.full(50, 400, np.uint16), window=5, classes=300).stream(2)
    with pytest.raises(ValueError, match=r"tokens should be in \[0, 300\), got 400 in the batch of step 3"):
        late.batch(3)
    with pytest.raises(ValueError, match="training examples, 46, got 47"):
        nf.data.Splits(np.zeros(50, np.uint16), window=5).stream(47)


@pytest.mark.parametrize("form", ["bin", "npy"])
def test_no_damage_to_a_token_file_gives_anything_but_our_error(tmp_path, form):
    token_folder(tmp_path, form, "<i4" if form == "npy" else "<u2")
    file = tmp_path / f"train.{form}"
    load = lambda: nf.data.tokens(tmp_path, block_size=8, vocab_size=300)
    only_mistakes(load, file, 80, tmp_path.name)


# The real text, where it is.

DATA = os.environ.get("NNFUNC_DATA", "")


@pytest.mark.skipif(
    not Path(DATA, "tinyshakespeare").is_dir(), reason="NNFUNC_DATA names no folder that holds tinyshakespeare"
)
def test_tinyshakespeare():
    splits = nf.data.text("tinyshakespeare", block_size=64)
    assert splits.codec.size == 65
    assert (len(splits.train), splits.validation.shape) == (1_003_854, (1742, 65))
    assert splits.codec.decode(splits.train[:14]) == "First Citizen:"


def test_an_archive_in_the_place_of_tokens_is_said_so(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(9))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="it is an archive, not one array"):
        nf.data.tokens(tmp_path / "a.npy", block_size=2)
    gc.collect()  # a file left open would warn here, and warnings are errors
