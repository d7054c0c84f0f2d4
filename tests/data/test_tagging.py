"""Sentences with tags: CoNLL's columns and JSON lines, features of words, and padding."""

import gzip
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import only_mistakes

import nnfunc as nf
from nnfunc.data.prediction_inputs import load_inputs

SENTENCES = [([f"w{i}", "runs", "."][: 2 + i % 2], ["N", "V", "P"][: 2 + i % 2]) for i in range(20)]


def write(folder, sentences=SENTENCES, name="it.conll"):
    file = folder / name
    if name.endswith(".jsonl"):
        text = "".join(json.dumps({"tokens": words, "tags": tags}) + "\n" for words, tags in sentences)
    else:
        text = "\n".join("".join(f"{w} x {t}\n" for w, t in zip(*one, strict=True)) for one in sentences)
    file.write_text(text)
    return file


def rows(splits):
    """{x, y of every sentence} of all splits."""
    return {(x.tobytes(), y.tobytes()) for part in splits[:3] if part for x, y in zip(*part, strict=True)}


def test_sentences_become_padded_features_and_tags(tmp_path):
    splits = nf.data.tagging(write(tmp_path), affixes=1, min_count=1, validation=0, test=0)
    vocabulary = splits.preprocessing.facts["vocabulary"]
    assert (splits.names, splits.classes, splits.train[0].shape) == (("N", "P", "V"), 3, (20, 3, 3))
    x, y = splits.train
    for i, (words, tags) in enumerate(SENTENCES):
        padding = [-100] * (3 - len(tags))
        assert [splits.names[tag] if tag >= 0 else tag for tag in y[i]] == tags + padding
        features = [[f"={word}", f"^{word[0]}", f"{word[-1]}$"] for word in words]
        assert [[vocabulary[f - 2] for f in word if f] for word in x[i]] == features + [[]] * len(padding)
    assert nf.data.tagging(write(tmp_path)).data(4).batch(0)[1].shape == (4, 3)  # -100 is a label of padding


def test_features_that_are_rare_or_new_are_unknown(tmp_path):
    splits = nf.data.tagging(write(tmp_path), affixes=1, validation=0, test=0)
    assert "=w3" not in splits.preprocessing.facts["vocabulary"]  # occurs once
    x, names = load_inputs(splits.preprocessing, ["w99 runs", ["never", "seen"]])
    vocabulary = splits.preprocessing.facts["vocabulary"]
    assert x[0, 0].tolist() == [1, vocabulary.index("^w") + 2, vocabulary.index("9$") + 2]
    assert x[1].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert names == ["w99 runs", "never seen"]
    small = nf.data.tagging(write(tmp_path), vocab_size=4, validation=0, test=0)
    assert (len(small.preprocessing.facts["vocabulary"]), small.train[0].max()) == (2, 3)


def test_columns_json_lines_and_folders_are_equal(tmp_path):
    whole = nf.data.tagging(write(tmp_path))
    assert rows(nf.data.tagging(write(tmp_path, name="it.jsonl"))) == rows(whole)
    marked = tmp_path / "marked.conll"
    text = (tmp_path / "it.conll").read_text().replace(" ", "\t").replace("\n\n", "\r\n\r\n")
    marked.write_text("-DOCSTART- -X- O\n\n# id = 1 of this file\n" + text, newline="")
    assert rows(nf.data.tagging(marked)) == rows(whole)
    (tmp_path / "parts").mkdir()
    for name, part in {"train": SENTENCES[:15], "dev": SENTENCES[15:18], "test": SENTENCES[18:]}.items():
        write(tmp_path / "parts", part, f"{name}.conll")
    assert [len(part[0]) for part in nf.data.tagging(tmp_path / "parts")[:3]] == [15, 3, 2]


def words_of(file, **options):
    """[(words, tags) of each sentence], read with the words alone as features."""
    splits = nf.data.tagging(file, affixes=0, min_count=1, validation=0, test=0, **options)
    vocabulary = splits.preprocessing.facts["vocabulary"]
    x, y = splits.train
    words = [[vocabulary[i - 2][1:] for i in row[:, 0] if i] for row in x]
    return [(row, [splits.names[t] for t in tags if t >= 0]) for row, tags in zip(words, y, strict=True)]


def test_comments_ranges_and_empty_nodes_are_no_words(tmp_path):
    file = tmp_path / "it.conllu"
    row = lambda *start: "\t".join([*start, *["_"] * (10 - len(start))])
    blocks, sentences = [], []
    for i in range(20):
        words = [f"a{i}", "b", "c", "d", "e", "f", "g"]
        rows = [row(f"{n}", word, word, "VN"[n % 2]) for n, word in enumerate(words, 1)]
        comments = [f"# sent_id = {i}", f"# text = {' '.join(words)}"]  # ten columns, if it were cut at blanks
        rows[1:1] = [row("2-3", "bc"), "# a note", row("2.1", "nothing")]
        blocks.append("\n".join([*comments, *rows, ""]))
        sentences.append((words, list("NVNVNVN")))
    file.write_text("\n".join(blocks))
    assert words_of(file, columns=(1, 3)) == sentences


@pytest.mark.parametrize("blank", ["\t", " "])
def test_a_comment_may_have_as_many_words_as_columns(tmp_path, blank):
    file = tmp_path / "it.conll"
    file.write_text("".join(f"# newdoc\nsee{blank}VERB\n{i}{blank}NUM\n\n" for i in range(20)))
    assert words_of(file) == [(["see", f"{i}"], ["VERB", "NUM"]) for i in range(20)]
    file.write_text("".join(f"#{blank}SYM\n#{i}{blank}NUM\nx{blank}X\n\n" for i in range(20)))  # here they are words
    assert words_of(file) == [(["#", f"#{i}", "x"], ["SYM", "NUM", "X"]) for i in range(20)]


@pytest.mark.parametrize("ending", [".conll", ".jsonl"])
def test_a_packed_file_of_a_split_is_used(tmp_path, ending):
    write(tmp_path, SENTENCES[:15], f"train{ending}")
    file = write(tmp_path, SENTENCES[15:], f"test{ending}")
    before = nf.data.tagging(tmp_path, validation=0)
    Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    after = nf.data.tagging(tmp_path, validation=0)
    assert rows(after) == rows(before)
    x, _ = load_inputs(before.preprocessing, f"{file}.gz")
    np.testing.assert_array_equal(x, before.test[0])


def test_a_sentence_with_other_tags_is_in_the_same_split(tmp_path):
    both = [(words, tags) for words, _ in SENTENCES for tags in (["N", "V", "P"], ["V", "N", "P"])]
    file = write(tmp_path, [(words, tags[: len(words)]) for words, tags in both])
    splits = nf.data.tagging(file, affixes=9, min_count=1, validation=0.2, test=0.2)
    lines = file.read_text().split("\n\n")
    parts = [set(), set(), set()]
    for block, code in zip(lines, splits.preprocessing.rows & np.uint64(3), strict=True):
        parts[code].add(block.split()[0])
    assert [len(part[0]) for part in splits[:3]] == [24, 8, 8]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20


def test_sentences_that_files_share_get_a_warning(tmp_path):
    write(tmp_path, SENTENCES[:15], "train.conll")
    write(tmp_path, SENTENCES[12:], "test.conll")
    with pytest.warns(UserWarning, match="3 of 8 examples of test are also in train, so the metrics of test are"):
        nf.data.tagging(tmp_path)


def test_an_earlier_run_fixes_vocabulary_tags_and_splits(tmp_path):
    before = nf.data.tagging(write(tmp_path))
    after = nf.data.tagging(
        write(tmp_path, [(["more"], ["V"]), *reversed(SENTENCES)]), preprocessing=before.preprocessing
    )
    for one, other in zip(before[:3], after[:3], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_a_file_is_tagged_without_its_tags(tmp_path):
    splits = nf.data.tagging(write(tmp_path))
    words = tmp_path / "words.txt"
    words.write_text("w1\nruns\n\nw2\n.\n")
    x, names = load_inputs(splits.preprocessing, words)
    assert names == ["w1 runs", "w2 ."]
    np.testing.assert_array_equal(x, load_inputs(splits.preprocessing, names)[0])
    np.testing.assert_array_equal(x[:1], load_inputs(splits.preprocessing, "w1 runs")[0])
    with pytest.raises(ValueError, match=r"sentence 0 begins a sentence of 4 words, more than block_size = 3"):
        load_inputs(splits.preprocessing, ["a b c d"])
    with pytest.raises(TypeError, match="sentence 0 of the input should be a text or a list of words"):
        load_inputs(splits.preprocessing, [""])


MISTAKES = {
    "empty": ("", {}, "it should have sentences, with a word in each line, but is empty"),
    "ragged": ("a X\nb X\n\nc\n", {}, "line 4 should have 2 columns, as those before it, but has 1"),
    "no tags": ("a\nb\n", {}, "line 1 should have a word and its tag, in columns [0, -1], but is 'a'"),
    "one tag": ("a X\n\nb X\n", {}, "it should have at least two different tags, but all are 'X'"),
    "too long": (
        "a X\n\nb X\nc Y\n",
        {"block_size": 1},
        "line 3 begins a sentence of 2 words, more than block_size = 1",
    ),
    "no column": ("a X\nb Y\n", {"columns": (0, 4)}, "line 1 should have a word and its tag, in columns [0, 4]"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_have_one_line_with_file_and_line(tmp_path, name):
    content, options, message = MISTAKES[name]
    file = tmp_path / "it.conll"
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        nf.data.tagging(file, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"data.tagging: {file}: {message}")


@pytest.mark.parametrize(
    "line, message",
    [
        (
            '{"tokens": ["a"], "tags": ["X", "Y"]}',
            "line 2 should have a tag for each word, and a word, got 1 words and 2",
        ),
        ('{"tokens": "a b", "tags": ["X", "Y"]}', "line 2 should have a list of texts as 'tokens', got 'a b'"),
        ('{"tokens": []}', "line 2 should have a list of texts as 'tags', got None"),
    ],
)
def test_mistakes_in_json_lines_name_the_line(tmp_path, line, message):
    file = tmp_path / "it.jsonl"
    file.write_text('{"tokens": ["a", "b"], "tags": ["X", "Y"]}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        nf.data.tagging(file)


def test_tags_that_training_lacks_and_unnamed_files_are_refused(tmp_path):
    write(tmp_path, name="train.conll")
    write(tmp_path, [(["w", "x"], ["N", "Q"])], "test.conll")
    with pytest.raises(ValueError, match=r"test\.conll: the sentence at line 1 has the tag 'Q', which training lacks"):
        nf.data.tagging(tmp_path)
    write(tmp_path, name="valid.conll")
    write(tmp_path, name="dev.conll")
    with pytest.raises(ValueError, match="should have one file for validation"):
        nf.data.tagging(tmp_path)


@pytest.mark.parametrize("name", ["it.conll", "it.jsonl"])
def test_damaged_files_are_mistakes_with_a_line(tmp_path, name):
    file = write(tmp_path, name=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about repeated sentences
        only_mistakes(lambda: nf.data.tagging(file, validation=0, test=0), file, 100)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way_and_words_may_hold_blanks(tmp_path, end):
    text = "".join(f"a\u00a0{i} N\nb V\n\n" for i in range(20))
    (tmp_path / "it.conll").write_bytes(text.replace("\n", end).encode())
    splits = nf.data.tagging(tmp_path / "it.conll", affixes=0, min_count=1)
    assert splits.names == ("N", "V")
    assert splits.train[1].shape == (16, 2)
    assert "=a\u00a01" in splits.preprocessing.facts["vocabulary"]


@pytest.mark.parametrize(("line", "message"), [("a\t", "the tag of a word"), ("\tN", "a word")])
def test_an_empty_word_or_tag_is_refused(tmp_path, line, message):
    (tmp_path / "it.tsv").write_text("".join(f"a{i}\tN\nb\tV\n\n" for i in range(20)) + line + "\n")
    with pytest.raises(ValueError, match=f"line 61 lacks {message}"):
        nf.data.tagging(tmp_path / "it.tsv")
    rows = write(tmp_path, name="it.jsonl").read_text() + json.dumps({"tokens": [line[:1].strip()], "tags": [""]})
    (tmp_path / "it.jsonl").write_text(rows)
    with pytest.raises(ValueError, match=r"line 21 should have a list of texts as 't.*, got "):
        nf.data.tagging(tmp_path / "it.jsonl")


def test_sizes_that_cannot_be_meant_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="affixes should be at most 64, got 1000000"):
        nf.data.tagging(write(tmp_path), affixes=10**6)
    with pytest.raises(ValueError, match=r"examples of block_size = 2000000000 take .*; the device has"):
        nf.data.tagging(write(tmp_path), block_size=2 * 10**9)
