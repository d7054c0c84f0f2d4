"""Sentences with a tag for each word: CoNLL's columns, or JSON lines."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnfunc import check
from nnfunc.data.download import decode_utf8, fail_damaged, file_ending, read_bytes, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.class_folders import split_files
from nnfunc.data.sources.columns import JSON_LINES, check_columns, read_json_lines
from nnfunc.data.sources.examples import drop_repeats, find_path, pad_rows, repeated_rows, split_examples
from nnfunc.data.splits import Splits

WHERE = "data.tagging"
ENDINGS = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".tsv", ".txt", *JSON_LINES)
PADDING, UNKNOWN = 0, 1  # ids of features
NO_TAG = -100  # of padding, which `nf.tagging` leaves out
COMMENT = re.compile(r"#\s+(newdoc|newpar|\S+\s*=)(\s|$)")
"""A line of CoNLL-U about a sentence: # sent_id = 1, # newdoc."""
NO_WORD = re.compile(r"[0-9]+[-.][0-9]+")
"""The first column of CoNLL-U where a line is no word of the sentence: a range of words, 1-2, or an empty node, 1.1."""
CONLLU = 10  # columns


class Sentence(NamedTuple):
    """tokens: its words. tags: () if there are none. position: in its file, such as "line 7"."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    position: str


def tagging(
    path: str | Path,
    *,
    columns: tuple[int, int] = (0, -1),
    tokens: str = "tokens",
    tags: str = "tags",
    block_size: int | None = None,
    affixes: int = 3,
    min_count: int = 2,
    vocab_size: int = 20000,
    validation: float = 0.1,
    test: float = 0.1,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """Sentences as x, int32 [n, block_size, features] ids of features of words, and tags as y, int32 [n, block_size].

    The features of a word are the word itself, and its beginnings and ends of 1 to `affixes` characters: ids of one
    vocabulary, learned from the training sentences. 0 is padding, 1 a feature that is not in the vocabulary. The tag
    of padding is -100. A sentence that repeats an earlier one is left out, with a warning; the same words
    with other tags are in one split. Sentences that two given files share get a warning.
    path: a file with a word and its tag in each line, between columns of blanks or tabs, and a blank line between
        sentences (comments and lines of -DOCSTART- are skipped, and of CoNLL-U's ten columns the ranges of words,
        1-2, and empty nodes, 1.1); or a .jsonl file with an object such as {"tokens": ["a", "b"], "tags": ["X",
        "Y"]} in each line; or a folder of files such as train.conll and test.conll.
    columns: the indices of the words and the tags among the columns, from the end where negative.
    tokens, tags: the keys of the objects.
    block_size: the most words of a sentence, by default that of the longest one; a longer one is refused.
    affixes: 0 to 64.
    min_count: how often a feature has to occur in training to be in the vocabulary, so that the model also learns
        from unknown ones.
    vocab_size: the most ids of features, the most frequent ones, at least 3.
    validation, test: splits that are not in the folder are cut off at random; below 1 a fraction, from 1 on a
        number of sentences, 0 for none.
    preprocessing: of an earlier run (`splits.preprocessing`), which fixes vocabulary, tags and the split of each
        sentence.
    Raises: FileNotFoundError; ValueError, with file and line, for a line without a tag, a sentence that is too
    long, or tags that are all the same.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "it.conll")
    >>> _ = file.write_text("".join(f"see VERB\\n{i} NUM\\n\\n" for i in range(20)))
    >>> splits = tagging(file, affixes=1)
    >>> splits.train[0].shape, splits.train[1][0].tolist(), splits.names
    ((16, 2, 3), [1, 0], ('NUM', 'VERB'))
    """
    check.size(WHERE, 0, 64, affixes=affixes)
    check.size(WHERE, min_count=min_count)
    check.size(WHERE, 3, vocab_size=vocab_size)
    facts: Any = {"columns": list(columns), "tokens": tokens, "tags": tags, "affixes": affixes}
    names = None
    if preprocessing is not None:
        preprocessing.check_factory(WHERE)
        facts, names = preprocessing.facts, preprocessing.names
        block_size = facts["block_size"]
    files = split_files(WHERE, resolve(WHERE, path), ENDINGS)
    tables = {part: _read(WHERE, file, facts) for part, file in files.items()}
    parts, repeats = {}, {}
    positions = {part: [sentence.position for sentence in sentences] for part, sentences in tables.items()}
    for part, sentences in tables.items():
        at = drop_repeats(WHERE, str(files[part]), [s[:2] for s in sentences], lambda i, s=sentences: s[i].position)
        parts[part] = [sentences[i] for i in at], np.zeros(len(at), np.int32)
        repeats |= repeated_rows(part, at, len(sentences))
    if block_size is None:
        block_size = max(len(sentence.tokens) for sentences in tables.values() for sentence in sentences)
    check.size(WHERE, block_size=block_size)
    for part, (sentences, _) in parts.items():
        check_lengths(WHERE, str(files[part]), sentences, block_size)
    names = _check_tags(files, tables, names)
    splits, fingerprints, rows = split_examples(
        WHERE,
        {part: ([sentence[:2] for sentence in sentences], y) for part, (sentences, y) in parts.items()},
        preprocessing,
        stratify=False,
        input_of=lambda content: content[0],
        validation=validation,
        test=test,
    )
    if preprocessing is None:
        counts = Counter(
            feature for sentence, _ in splits["train"][0] for word in sentence for feature in features(word, affixes)
        )
        vocabulary = [feature for feature, count in counts.most_common(vocab_size - 2) if count >= min_count]
    else:
        vocabulary = facts["vocabulary"]
    record = Preprocessing(
        "tagging",
        {
            **{key: facts[key] for key in ("columns", "tokens", "tags", "affixes")},
            "block_size": block_size,
            "names": list(names),
            "classes": len(names),
            "vocabulary": vocabulary,
            "dtype": "int32",
            "shape": [block_size, 1 + 2 * facts["affixes"]],
            **({"repeats": repeats} if repeats else {}),
        },
        fingerprints,
        rows,
        describe={part: lambda index, read=read: read[index] for part, read in positions.items()},
    )
    codes = {name: code for code, name in enumerate(names)}

    def arrays(pair: Any) -> Any:
        if pair is None:
            return None
        y = pad_rows([[codes[tag] for tag in tags] for _, tags in pair[0]], block_size, NO_TAG)
        return encode(record, [tokens for tokens, _ in pair[0]]), y

    return Splits(*map(arrays, splits.values()), classes=record.classes, names=record.names, preprocessing=record)


def features(word: str, affixes: int) -> list[str]:
    """The word, then its beginnings and ends of 1 to `affixes` characters, with a mark for what each is."""
    parts = [part for n in range(1, affixes + 1) for part in (f"^{word[:n]}", f"{word[-n:]}$")]
    return [f"={word}", *parts]


def encode(preprocessing: Preprocessing, sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """int32 [n, block_size, features] of sentences of words. preprocessing: with the vocabulary."""
    facts, known = preprocessing.facts, {}
    ids = {feature: index for index, feature in enumerate(preprocessing.facts["vocabulary"], 2)}
    for word in {word for sentence in sentences for word in sentence}:
        known[word] = [ids.get(feature, UNKNOWN) for feature in features(word, facts["affixes"])]
    rows = [[known[word] for word in sentence] for sentence in sentences]
    return pad_rows(rows, facts["block_size"], PADDING, tuple(facts["shape"][1:]))


def check_lengths(where: str, name: str, sentences: Sequence[Sentence], block_size: int) -> None:
    """Refuse a sentence of more than `block_size` words. where, name: the function and the file, for messages."""
    for sentence in sentences:
        if len(sentence.tokens) > block_size:
            problem = f"{sentence.position} begins a sentence of {len(sentence.tokens)} words"
            problem += f", more than block_size = {block_size}"
            fail_damaged(where, name, problem, "Split it, or train with a larger block_size.")


def _check_tags(files: Mapping[str, Path], tables: Mapping[str, Any], names: Any) -> tuple[str, ...]:
    """The names of the tags, in alphabetical order, at least two in training; other splits have no others."""
    train = sorted({tag for sentence in tables["train"] for tag in sentence.tags}) if names is None else names
    if len(train) < 2:
        problem = f"it should have at least two different tags, but all are {train[0]!r}"
        fail_damaged(WHERE, files["train"], problem, "Is it the right column?")
    known = set(train)
    for part, sentences in tables.items():
        for sentence in sentences:
            if new := [tag for tag in sentence.tags if tag not in known]:
                problem = f"the sentence at {sentence.position} has the tag {new[0]!r}, which training lacks"
                fail_damaged(WHERE, files[part], problem, f"The tags are {check.join_names(sorted(known), 8)}.")
    return tuple(train)


def _read(where: str, file: Path, facts: Mapping[str, Any], tagged: bool = True) -> list[Sentence]:
    """The sentences of a file. facts: with columns, tokens and tags. tagged: whether they need tags."""
    if file_ending(file) in JSON_LINES:
        return _read_json(where, file, facts["tokens"], facts["tags"] if tagged else None)
    sentences: list[Sentence] = []
    tokens, tags, first = [], [], 0
    text = decode_utf8(where, file, read_bytes(where, file))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    columns = [_columns(line) for line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-"))]
    width, has_tabs = len(columns[0]) if columns else None, any("\t" in line for line in lines if line[:1] != "#")
    for number, line in enumerate([*lines, ""], 1):
        row = _columns(line)
        if not line.strip():
            if tokens:
                sentences.append(Sentence(tuple(tokens), tuple(tags), f"line {first}"))
                tokens, tags = [], []
            continue
        if row[0] == "-DOCSTART-" or _is_comment(line, has_tabs, at_start=not tokens and len(row) != width):
            continue
        if has_tabs and len(row) == width == CONLLU and NO_WORD.fullmatch(row[0]):
            continue
        first, width = first if tokens else number, width or len(row)
        if len(row) != width:
            problem = f"line {number} should have {width} columns, as those before it, but has {len(row)}"
            fail_damaged(where, file, problem, "A blank line ends a sentence.")
        indices = facts["columns"] if tagged else facts["columns"][:1]
        if (width < 2 and tagged) or not all(-width <= index < width for index in indices):
            problem = f"line {number} should have a word and its tag, in columns {list(indices)}, but is {line[:60]!r}"
            fail_damaged(where, file, problem, "Columns are counted from 0, and from the end where negative.")
        if not all(row[index].strip() for index in indices):
            problem = f"line {number} lacks {'a word' if not row[indices[0]].strip() else 'the tag of a word'}"
            fail_damaged(where, file, f"{problem}: {line[:60]!r}", "Correct the line.")
        tokens.append(row[indices[0]])
        tags += [row[indices[1]]] if tagged else []
    if not sentences:
        fail_damaged(where, file, "it should have sentences, with a word in each line, but is empty")
    return sentences


def _columns(line: str) -> list[str]:
    """The values of a line; a word may have other blanks in it, such as one that does not break."""
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _is_comment(line: str, has_tabs: bool, *, at_start: bool) -> bool:
    """Whether a line is a comment, and not the word #.

    has_tabs: whether tabs are between the columns of the file.
    at_start: whether the line begins a sentence, with another number of columns than words have.
    """
    if not line.startswith("#"):
        return False
    if has_tabs:
        return line.startswith("# ") or "\t" not in line
    return at_start or COMMENT.match(line) is not None


def _read_json(where: str, file: Path, tokens_key: str, tags_key: str | None) -> list[Sentence]:
    columns, lines = read_json_lines(where, file)
    check_columns(str(file), [tokens_key, *([tags_key] if tags_key else [])], columns, where=where)
    sentences = []
    for row, line in enumerate(lines):
        tokens, tags = columns[tokens_key][row], columns[tags_key][row] if tags_key else []
        for key, value in ((tokens_key, tokens), (tags_key, tags)):
            if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
                problem = f"line {line} should have a list of texts as {key!r}, got {check.describe(value)}"
                fail_damaged(where, file, problem, 'Such as {"tokens": ["a", "b"], "tags": ["X", "Y"]}.')
        if not tokens or (tags_key and len(tokens) != len(tags)):
            problem = f"line {line} should have a tag for each word, and a word, got {len(tokens)} words"
            fail_damaged(where, file, f"{problem} and {len(tags)} tags" if tags_key else problem, "Correct the line.")
        sentences.append(Sentence(tuple(tokens), tuple(tags), f"line {line}"))
    return sentences


def read_sentences(preprocessing: Preprocessing, source: Any) -> tuple[np.ndarray, list[str]]:
    """(x [n, block_size, features], the words of each sentence, with blanks between them) to predict from.

    preprocessing: of the run.
    source: a text whose words are separated by blanks, a list of such texts or of lists of words, or a file as for
        training, whose tags are not read.
    """
    where, sentences = "predict", []
    items: Any = [source] if isinstance(source, str | Path) else source
    for index, item in enumerate(items):
        path = find_path(where, item, ENDINGS)
        name, new = "the input", []
        if path is not None:
            name, new = str(path), _read(where, path, preprocessing.facts, tagged=False)
        else:
            tokens = item.split() if isinstance(item, str) else list(item)
            if not tokens or not all(isinstance(word, str) for word in tokens):
                expected = f"sentence {index} of the input should be a text or a list of words, at least one"
                check.fail(where, expected=expected, actual=check.describe(item), exc_type=TypeError)
            new = [Sentence(tuple(tokens), (), f"sentence {index}")]
        check_lengths(where, name, new, preprocessing.facts["block_size"])
        sentences += [sentence.tokens for sentence in new]
    if not sentences:
        check.fail(where, expected="the input should have at least one sentence", actual="none")
    return encode(preprocessing, sentences), [" ".join(tokens) for tokens in sentences]
