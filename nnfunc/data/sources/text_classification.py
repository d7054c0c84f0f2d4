"""Texts with a class each: a column of a table, or text files in a folder for each class."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.download import decode_utf8, fail_damaged, file_ending, read_bytes, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.class_folders import ClassFolders, split_files
from nnfunc.data.sources.columns import JSON_LINES, PARQUET, check_columns, parse_class_labels, read_columns
from nnfunc.data.sources.examples import drop_repeats, find_path, pad_rows, repeated_rows, split_examples
from nnfunc.data.splits import Splits
from nnfunc.data.tokenizers import Tokenizer, load_codec

WHERE = "data.text_classification"
FOLDERS = ClassFolders(WHERE, "texts", frozenset({".txt"}))
TABLES = (".csv", ".tsv", *PARQUET, *JSON_LINES)


def text_classification(
    source: str | Path | Any,
    *,
    text: str = "text",
    label: str = "label",
    block_size: int = 128,
    vocab_size: int = 4000,
    codec: str | Path | None = None,
    separator: str = ",",
    validation: float = 0.1,
    test: float = 0.1,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """Texts as x, int32 [n, block_size] token ids with 0 for padding at the end, and their classes as y, int32 [n].

    The tokens are learned here, unless codec names those of a published model: byte-pair encoding, trained on the
    training texts alone; `splits.codec` converts between text and ids. A text that repeats an earlier one of its class
    is left out, with a warning, because it
    could be in two splits; the same text in several classes is in one split. Texts that two given files share get a
    warning.
    source: a table (.csv, .parquet, .jsonl with an object in each line, or a data frame), a folder of tables such
        as train.csv and test.csv, or a folder with a folder of .txt files for each class, also below train/ and
        test/, as for `images`.
    text, label: the names of the table's columns; the distinct labels are the classes, `splits.names`, in numerical
        or alphabetical order.
    block_size: the most tokens of a text, at least 1; the end of a longer text is cut off, with a warning if that
        happens to more than a tenth of the training texts.
    vocab_size: the most token ids, at least 257.
    codec: a tokenizer.json, or the codec.json of a run, in place of learned tokens: the special tokens that it adds
        to a text are in x, and the padding is its token [PAD] or <pad>.
    separator: of a CSV file.
    validation, test: splits that are not in the folder are cut off, stratified by class; below 1 a fraction, from 1
        on a number of texts, 0 for none.
    preprocessing: of an earlier run (`splits.preprocessing`), which fixes tokens, classes and the split of each
        text.
    Raises: FileNotFoundError; ModuleNotFoundError without tokenizers; ValueError, with file and line, for a text or
    label that is missing, or labels of one class.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "reviews.csv")
    >>> _ = file.write_text("text,label\\n" + "".join(f"plot {i},{'bad' if i % 2 else 'good'}\\n" for i in range(20)))
    >>> splits = text_classification(file, block_size=4)
    >>> splits.train[0].shape, splits.names, splits.codec.decode(splits.train[0][0])
    ((16, 4), ('bad', 'good'), 'plot 1[PAD][PAD]')
    """
    check.size(WHERE, block_size=block_size)
    names = None
    if preprocessing is not None:
        preprocessing.check_factory(WHERE)
        facts, names = preprocessing.facts, preprocessing.names
        text, label, block_size, separator = (facts[key] for key in ("text", "label", "block_size", "separator"))
    root = resolve(WHERE, source) if isinstance(source, str | Path) else None
    if root is not None and root.is_dir() and any(child.is_dir() for child in root.iterdir()):
        tables = {part: _read_folders(root, classes) for part, classes in FOLDERS.splits(root).items()}
    else:
        files = {"train": source} if root is None else split_files(WHERE, root, TABLES)
        tables = {part: _read_table(file, text, label, separator) for part, file in files.items()}
    parts, repeats = {}, {}
    for part in ("train", *(part for part in tables if part != "train")):  # whose classes the others have
        name, texts, labels, describe_row = tables[part]
        y, names = parse_class_labels(name, label, labels, describe_row, names, where=WHERE)
        at = drop_repeats(WHERE, name, list(zip(texts, y.tolist(), strict=True)), describe_row)
        parts[part] = [texts[i] for i in at], y[at].astype(np.int32)
        repeats |= repeated_rows(part, at, len(texts))
    splits, fingerprints, rows = split_examples(
        WHERE, parts, preprocessing, stratify=True, validation=validation, test=test
    )
    if preprocessing is not None:
        tokenizer, padding = preprocessing.codec, preprocessing.facts.get("padding")
    elif codec is not None:
        tokenizer = _read_tokenizer(codec)
        padding = tokenizer.padding
    else:
        tokenizer, padding = Tokenizer.train(splits["train"][0], vocab_size), None
    record = Preprocessing(
        "text_classification",
        {
            "text": text,
            "label": label,
            "separator": separator,
            "block_size": block_size,
            "names": list(names or ()),
            "classes": len(names or ()),
            "dtype": "int32",
            "shape": [block_size],
            **({"repeats": repeats} if repeats else {}),
            **({} if padding is None else {"padding": padding}),
        },
        fingerprints,
        rows,
        tokenizer,
        {part: describe_row for part, (_, _, _, describe_row) in tables.items()},
    )
    encoded = {part: pair and _encode(record, pair[0]) for part, pair in splits.items()}
    lengths = encoded["train"][1]
    longer = sum(length > block_size for length in lengths)
    if 10 * longer > len(lengths):
        problem = f"{longer:,} of {len(lengths):,} training texts are longer than block_size = {block_size}"
        more = f"and their ends are cut off; the longest has {max(lengths)}"
        warnings.warn(f"{WHERE}: {problem} tokens, {more}.", stacklevel=2)
    arrays = (pair and (encoded[part][0], pair[1]) for part, pair in splits.items())
    return Splits(*arrays, classes=record.classes, names=record.names, codec=tokenizer, preprocessing=record)


def _read_tokenizer(codec: str | Path) -> Tokenizer:
    tokenizer = load_codec(codec)
    if not isinstance(tokenizer, Tokenizer):
        expected, actual = (
            "codec should be a tokenizer.json",
            f"{codec}, which holds {type(tokenizer).__name__.lower()}",
        )
        check.fail(WHERE, expected=expected, actual=actual)
    return tokenizer


def _encode(preprocessing: Preprocessing, texts: list[str]) -> tuple[np.ndarray, list[int]]:
    """(the padded ids of texts, how many ids each text has before its end is cut off).

    There are special tokens where the tokenizer is that of a published model.
    """
    length, padding = preprocessing.facts["block_size"], preprocessing.facts.get("padding")
    if padding is None:
        rows = preprocessing.codec.encode_batch(texts)
        return pad_rows(rows, length), list(map(len, rows))
    rows, lengths = preprocessing.codec.encode_whole(texts, length)
    return pad_rows(rows, length, padding), lengths


def _read_table(source: Any, text: str, label: str, separator: str) -> tuple[str, list[str], Any, Any]:
    """(the name of the table, its texts, its labels, row -> its position)."""
    name, columns, describe_row = read_columns(source, separator, {text, label}, [text, label], where=WHERE)
    check_columns(name, [text, label], columns, where=WHERE)
    return name, _texts(name, text, columns[text], describe_row), columns[label], describe_row


def _read_folders(root: Path, classes: Mapping[str, Sequence[Path]]) -> tuple[str, list[str], Any, Any]:
    pairs = [(file, label) for label, files in classes.items() for file in files]
    labels = np.array([label for _, label in pairs], object)
    return str(root), [_read_text(file) for file, _ in pairs], labels, lambda row: str(pairs[row][0])


def _read_text(file: Path) -> str:
    text = decode_utf8(WHERE, file, read_bytes(WHERE, file))
    if not text.strip():
        fail_damaged(WHERE, file, "it is empty", "Remove it.")
    return text


def _texts(name: str, column: str, values: Any, describe_row: Any) -> list[str]:
    """The texts of a column, none of them missing."""
    texts = list(values)
    for row, value in enumerate(texts):
        if not isinstance(value, str) or not value.strip() or value == "None":  # as a missing text of pyarrow is read
            actual = "nothing" if value in ("", None, "None") else repr(value)[:60]
            problem = f"{describe_row(row)} of column {column!r} should hold a text, got {actual}"
            fail_damaged(WHERE, name, problem, "Fill it in, or drop the row.")
    return texts


def read_texts(preprocessing: Preprocessing, source: Any) -> tuple[np.ndarray, list[str] | None]:
    """(x [n, block_size], the names of the text files or None) to predict from.

    preprocessing: of the run.
    source: a text, a text file, a folder of them, a table with the column of texts as a file, a data frame, a dict
        of columns or a list of dicts; or a list of these.
    """
    facts, texts, names = preprocessing.facts, [], []

    def read(item: Any) -> None:
        path = find_path("predict", item, [*FOLDERS.endings, *TABLES])
        if path is None and isinstance(item, str):
            new, name = [item], None
        elif path is not None and (path.is_dir() or file_ending(path) in FOLDERS.endings):
            files = sorted(FOLDERS.find(path)) if path.is_dir() else [path]
            if not files:
                check.fail("predict", f"{path} should contain .txt files, but has none.")
            names.extend(map(str, files))
            return texts.extend(map(_read_text, files))
        elif path is None and isinstance(item, Sequence) and not all(isinstance(part, Mapping) for part in item):
            for part in item:
                read(part)
            return None
        else:
            table, column = path or item, facts["text"]
            label, columns, describe_row = read_columns(table, facts["separator"], {column}, [column], where="predict")
            check_columns(label, [column], columns, where="predict")
            new, name = _texts(label, column, columns[column], describe_row), None
        texts.extend(new)
        names.extend([name] * len(new))

    read(source)
    if not texts:
        check.fail("predict", expected="the input should have at least one text", actual="none")
    return _encode(preprocessing, texts)[0], [name or "" for name in names] if any(names) else None
