"""Texts with classes: from tables and folders, with tokens that are learned from the training texts."""

import gzip
import json
import re
import warnings
from pathlib import Path
from time import process_time

import numpy as np
import pytest
import tokenizers
from helpers.data_files import only_mistakes

import nnfunc as nf
from nnfunc.data.prediction_inputs import load_inputs
from nnfunc.data.tokenizers import Tokenizer

TEXTS = [f"{word} film number {i}, [PAD] naïve" for i in range(20) for word in ("good", "bad")]
LABELS = ["pos" if text.startswith("good") else "neg" for text in TEXTS]


def write(folder, texts=TEXTS, labels=LABELS, name="films.csv"):
    file = folder / name
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    if name.endswith(".jsonl"):
        lines = [json.dumps(row) for row in rows]
    else:
        lines = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


def texts_of(splits):
    """{split: {text: class}}, the ids read back as texts, without the padding."""
    result = {}
    for name in ("train", "validation", "test"):
        part = getattr(splits, name)
        if part is not None:
            rows = (splits.codec.decode(row[row > 0]) for row in part[0])
            result[name] = dict(zip(rows, (splits.names[label] for label in part[1]), strict=True))
    return result


def test_texts_become_padded_ids_that_decode_to_the_texts(tmp_path):
    splits = nf.data.text_classification(write(tmp_path), block_size=64)
    parts = texts_of(splits)
    assert splits.names == ("neg", "pos")
    assert {name: len(part) for name, part in parts.items()} == {"train": 32, "validation": 4, "test": 4}
    assert parts["train"] | parts["validation"] | parts["test"] == dict(zip(TEXTS, LABELS, strict=True))
    assert sorted(parts["test"].values()) == ["neg", "neg", "pos", "pos"]  # stratified
    lengths = (splits.train[0] > 0).sum(1)
    assert all((row[:n] > 0).all() and (row[n:] == 0).all() for row, n in zip(splits.train[0], lengths, strict=True))


def test_tokens_are_learned_from_the_training_texts_alone(tmp_path):
    for part, words in {"train": "aaaa bbbb", "test": "zzzz yyyy"}.items():
        write(tmp_path, [f"{words} {i}" for i in range(10)], ["x", "y"] * 5, f"{part}.csv")
    splits = nf.data.text_classification(tmp_path, block_size=16, validation=0)
    assert len(splits.codec.encode("aaaa")) == 1
    assert len(splits.codec.encode("zzzz")) == 4
    assert len(splits.test[0]) == 10


def test_all_forms_of_tables_and_folders_are_equal(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS})
    frame.to_parquet(tmp_path / "films.parquet")
    sources = [write(tmp_path), write(tmp_path, name="films.jsonl"), tmp_path / "films.parquet", frame]
    results = [texts_of(nf.data.text_classification(source, block_size=64)) for source in sources]
    assert all(result == results[0] for result in results)
    for i, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        (tmp_path / "films" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / label / f"{i:02}.txt").write_text(text)
    splits = nf.data.text_classification(tmp_path / "films", block_size=64)
    assert splits.names == ("neg", "pos")
    assert {text for part in texts_of(splits).values() for text in part} == set(TEXTS)


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_packed_file_of_a_split_is_used(tmp_path, ending):
    write(tmp_path, TEXTS[:30], LABELS[:30], f"train{ending}")
    file = write(tmp_path, TEXTS[30:], LABELS[30:], f"test{ending}")
    before = nf.data.text_classification(tmp_path, block_size=64, validation=0)
    Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    after = nf.data.text_classification(tmp_path, block_size=64, validation=0)
    assert texts_of(after) == texts_of(before)
    x, _ = load_inputs(before.preprocessing, f"{file}.gz")
    np.testing.assert_array_equal(x, before.test[0])


def test_an_earlier_run_fixes_tokens_classes_and_splits(tmp_path):
    before = nf.data.text_classification(write(tmp_path), block_size=64)
    texts, labels = ["a new text", *reversed(TEXTS)], ["neg", *reversed(LABELS)]
    after = nf.data.text_classification(write(tmp_path, texts, labels), preprocessing=before.preprocessing)
    assert texts_of(after) == texts_of(before)
    np.testing.assert_array_equal(after.train[0], before.train[0])
    changes = before.preprocessing.describe_changes(after.preprocessing)
    assert changes == ["40 examples before, 41 now; 1 are new and in no split, the first is example 1 of the file"]


def test_predictions_take_texts_tables_and_files(tmp_path):
    splits = nf.data.text_classification(write(tmp_path), block_size=64)
    expected = np.concatenate([splits.train[0], splits.validation[0], splits.test[0]])
    expected = {splits.codec.decode(row[row > 0]): row.tolist() for row in expected}
    forms = [TEXTS, {"text": TEXTS, "other": TEXTS}, [{"text": text} for text in TEXTS], write(tmp_path)]
    for form in forms:
        x, names = load_inputs(splits.preprocessing, form)
        assert (x.tolist(), names) == ([expected[text] for text in TEXTS], None)
    for i, text in enumerate(TEXTS[:3]):
        (tmp_path / f"{i}.txt").write_text(text)
    files = [str(tmp_path / f"{i}.txt") for i in range(3)]
    for form in (files, tmp_path):
        x, names = load_inputs(splits.preprocessing, form)
        assert (x.tolist(), names) == ([expected[text] for text in TEXTS[:3]], files)
    with pytest.raises(FileNotFoundError, match=r"missing\.csv does not exist"):
        load_inputs(splits.preprocessing, "missing.csv")


def test_a_text_of_the_letters_of_padding_is_no_padding(tmp_path):
    splits = nf.data.text_classification(write(tmp_path), block_size=64)
    x, _ = load_inputs(splits.preprocessing, "[PAD]")
    assert splits.codec.decode(x[0][x[0] > 0]) == "[PAD]"


MISTAKES = {
    "empty": ("", "it should have a line of names and rows, but is empty"),
    "only names": ("text,label\n", "but has only names"),
    "one class": ("text,label\na,x\nb,x\n", "column 'label' should hold classes, but is 'x' throughout"),
    "no text": ("text,label\na,x\n ,y\n", "line 3 of column 'text' should hold a text, got ' '"),
    "no label": ("text,label\na,x\nb,\n", "the label is missing at line 3 of column 'label'"),
    "no column": ("texts,label\na,x\nb,y\n", "has no column 'text'; did you mean 'texts'?"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_have_one_line_with_file_and_line(tmp_path, name):
    content, message = MISTAKES[name]
    file = tmp_path / "it.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        nf.data.text_classification(file)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("data.text_classification: ")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "line, message",
    [("{", "line 2 is not JSON"), ("[1]", "line 2 should be a JSON object"), ("{}", "line 2 of column")],
)
def test_mistakes_in_json_lines_name_the_line(tmp_path, line, message):
    file = tmp_path / "it.jsonl"
    file.write_text('{"text": "a", "label": "x"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        nf.data.text_classification(file)


def test_an_empty_file_and_an_empty_class_are_refused(tmp_path):
    for label in ("neg", "pos"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_text(label)
    (tmp_path / "pos" / "2.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"pos/2\.txt: it is empty"):
        nf.data.text_classification(tmp_path)
    (tmp_path / "zero").mkdir()
    with pytest.raises(ValueError, match="zero should contain the texts of a class"):
        nf.data.text_classification(tmp_path)


def test_repeated_and_long_texts_are_told(tmp_path):
    with pytest.warns(UserWarning, match=r"line 42 repeats line 3; 1 repeated example left out"):
        splits = nf.data.text_classification(write(tmp_path, [*TEXTS, TEXTS[1]], [*LABELS, LABELS[1]]), block_size=64)
    assert sum(len(part) for part in texts_of(splits).values()) == 40
    with pytest.warns(UserWarning, match=r"32 of 32 training texts are longer than block_size = 3 tokens"):
        assert nf.data.text_classification(write(tmp_path), block_size=3).train[0].shape == (32, 3)


def test_special_tokens_count_among_those_of_a_long_text(tmp_path, monkeypatch):
    published = tokenizers.Tokenizer.from_str(Tokenizer.train(TEXTS, 300).text)
    published.add_special_tokens(["[CLS]"])
    special = [("[CLS]", published.token_to_id("[CLS]"))]
    published.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A", special_tokens=special)
    published.save(str(tmp_path / "tokenizer.json"))
    source, length = write(tmp_path), max(len(published.encode(text).ids) for text in TEXTS)
    texts, encode = [], Tokenizer._encode_batch
    monkeypatch.setattr(Tokenizer, "_encode_batch", lambda self, new: texts.extend(new) or encode(self, new))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = nf.data.text_classification(source, codec=tmp_path / "tokenizer.json", block_size=length)
    assert len(texts) == len(set(texts)) == 40  # each is tokenized once
    assert (splits.train[0][:, 0] == special[0][1]).all()
    with pytest.warns(UserWarning, match=rf"longer than block_size = {length - 1} tokens.* the longest has {length}"):
        nf.data.text_classification(source, codec=tmp_path / "tokenizer.json", block_size=length - 1)


def test_a_text_of_two_classes_is_in_one_split(tmp_path):
    file = write(tmp_path, [f"word{i % 20}" for i in range(40)], ["ab"[i // 20] for i in range(40)])
    options = {"vocab_size": 300, "block_size": 8, "validation": 4}
    splits = nf.data.text_classification(file, test=5, **options)
    parts = [{tuple(row) for row in part[0].tolist()} for part in splits[:3]]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20
    assert sum(len(part[0]) for part in splits[:3]) == 40
    again = nf.data.text_classification(file, preprocessing=splits.preprocessing)
    for one, other in zip(splits[:3], again[:3], strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_texts_that_files_share_get_a_warning(tmp_path):
    write(tmp_path, TEXTS[:30], LABELS[:30], "train.csv")
    write(tmp_path, TEXTS[24:], LABELS[24:], "test.csv")
    message = "6 of 16 examples of test are also in train, so the metrics of test are too good"
    with pytest.warns(UserWarning, match=message):
        nf.data.text_classification(tmp_path, block_size=64)


@pytest.mark.parametrize("name", ["films.csv", "films.jsonl"])
def test_damaged_files_are_mistakes_with_a_line(tmp_path, name):
    file = write(tmp_path, name=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about repeated and long texts
        only_mistakes(lambda: nf.data.text_classification(file, validation=0, test=0), file, 60)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "fine", "label": ["good"]}', r"line 21 .*'label' should hold a text or a number, got \['good'\]"),
        ('{"text": "fine", "label": {"a": 1}}', "line 21 .*should hold a text or a number"),
        (r'{"text": "half \ud83d", "label": "good"}', r"line 21 has \\ud83d, half of a surrogate pair"),
        (r'{"text": "half", "label": "\udc00"}', r"line 21 has \\udc00, half of a surrogate pair"),
    ],
)
def test_json_values_that_are_no_labels_or_texts(tmp_path, line, message):
    texts, labels = [f"plot {i}" for i in range(20)], ["bad", "good"] * 10
    file = write(tmp_path, texts, labels, "films.jsonl")
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ValueError, match=message):
        nf.data.text_classification(file, block_size=4)


def test_half_characters_are_refused_with_special_tokens_too():
    codec = Tokenizer.train(["a word"] * 3, 300)
    rows = codec.encode_batch(["a word", "a"])
    assert codec.encode_whole(["a word", "a"], 3) == ([row[:3] for row in rows], list(map(len, rows)))
    for encode in (codec.encode_batch, lambda texts: codec.encode_whole(texts, 5)):
        with pytest.raises(ValueError, match="the tokenizer cannot encode this text"):
            encode(["a", "\ud83d"])


def test_labels_that_are_flags_are_the_same_in_every_file(tmp_path):
    texts, flags = [f"plot {i}" for i in range(20)], [bool(i % 2) for i in range(20)]
    for labels in (flags, [str(flag).lower() for flag in flags]):
        splits = nf.data.text_classification(write(tmp_path, texts, labels, "films.jsonl"), block_size=4)
        assert splits.names == ("False", "True")


def test_bytes_and_frames_without_rows_are_refused():
    texts, labels = [f"plot {i}" for i in range(20)], [b"bad", b"good"] * 10
    with pytest.raises(ValueError, match=r"should hold a text or a number.*Decode bytes"):
        nf.data.text_classification({"text": texts, "label": labels}, block_size=4)
    with pytest.raises(ValueError, match="it should have rows, but has none"):
        nf.data.text_classification({"text": [], "label": []}, block_size=4)
    with pytest.raises(ValueError, match="it should have rows, but has none"):
        nf.data.table({"a": [], "y": []}, label="y")


def test_a_very_long_word_is_learned_from_in_parts(tmp_path):
    """The time grew with the square of its length: 300,000 characters took minutes."""
    texts = [f"plot {i}" for i in range(19)] + ["x" * 100_000]
    begin = process_time()
    splits = nf.data.text_classification(write(tmp_path, texts, ["bad", "good"] * 10), block_size=4)
    assert process_time() - begin < 3
    assert splits.codec.decode(splits.codec.encode("x" * 5000)) == "x" * 5000
