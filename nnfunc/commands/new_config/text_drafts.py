"""Drafts of configs for texts: to classify, to tag, and to continue."""

from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check, data
from nnfunc.commands.new_config.draft import Draft, Note, arguments_of, choose_steps, training_tables
from nnfunc.commands.new_config.table_columns import check_column, find_label, guess_separator, look_at_first_rows


def draft_text(path: Path, *, label: str | None = None, text: str | None = None) -> Draft:
    """A config for texts with a class each: a table with a column `text`, or a folder of .txt files for each class."""
    options: dict[str, Any] = {"name": "text_classification", "source": str(path)}
    if path.is_file():
        separator = guess_separator(path)
        columns, _, _, _ = look_at_first_rows(path, separator)
        candidates = [name for name, column in columns.items() if column.type == "text"]
        candidates += [name for name, column in columns.items() if column.type == "none" and column.distinct > 50]
        if not candidates and text is None:
            problem = f"{path} should have a column of texts, but has {check.join_names(list(columns))}."
            check.fail("new", problem, hint="For other columns: nnfunc new table.")
        if text is not None:
            check_column(columns, text)
        options["text"] = text or candidates[0]
        options["label"] = find_label({n: c for n, c in columns.items() if n != options["text"]}, label)
        options |= {"separator": separator} if separator != "," else {}
    options |= {"block_size": Note(128, "tokens of a text; the rest is cut off"), "vocab_size": 2000}
    splits = data.text_classification(**arguments_of(options))
    longest = int((splits.train[0] != 0).sum(1).max())
    options["block_size"] = Note(longest, "tokens: the longest text, up to 128")
    vocab_size = splits.codec.size
    options["vocab_size"] = Note(vocab_size, "tokens, which are learned from the training texts")
    size, steps, comment = choose_steps(len(splits.train[0]), 30)
    options |= {"batch_size": size, "validation": 0.1, "test": 0.1}
    model = {"name": "text_classifier", "vocab_size": vocab_size, "classes": splits.classes}
    model |= {"body": Note("bag", 'the mean of the tokens; or "lstm", "transformer"'), "dim": 64, "dropout": 0.3}
    tables = {"data": options, "model": model, "objective": {"name": "classification"}}
    tables |= training_tables(steps, comment, peak=1e-2, weight_decay=1e-2, best="max accuracy")
    count = sum(len(part[1]) for part in splits[:3] if part is not None)
    facts = [f"{count:,} texts of {splits.classes} classes: {check.join_names(splits.names or (), 5)}"]
    return Draft(f"Classify the texts of {path.name}", facts, tables)


def draft_tagging(path: Path, *, label: str | None = None) -> Draft:
    """A config for sentences with a tag for each word: CoNLL's columns or JSON lines."""
    options: dict[str, Any] = {"name": "tagging", "path": str(path)} | ({"tags": label} if label else {})
    splits = data.tagging(**arguments_of(options))
    facts = (splits.preprocessing or check.fail("new", "no preprocessing.")).facts
    options["block_size"] = Note(facts["block_size"], "words of the longest sentence")
    options["vocab_size"] = len(facts["vocabulary"]) + 2
    size, steps, comment = choose_steps(len(splits.train[0]), 30, most=3000)
    options |= {"batch_size": size, "validation": 0.1, "test": 0.1}
    model = {"name": "tagger", "vocab_size": options["vocab_size"], "classes": splits.classes}
    model |= {"body": Note("lstm", 'in both directions; or "transformer"'), "dim": 64, "dropout": 0.2}
    tables = {"data": options, "model": model, "objective": {"name": "tagging"}}
    tables |= training_tables(steps, comment, peak=5e-3, weight_decay=1e-2, best="max accuracy")
    count = sum(len(part[1]) for part in splits[:3] if part is not None)
    lines = [f"{count:,} sentences with {splits.classes} tags: {check.join_names(splits.names or (), 8)}"]
    return Draft(f"Tag the words of {path.name}", lines, tables)


def draft_language(file: Path) -> Draft:
    """A config for a language model of a text file."""
    splits = data.text(file, block_size=1)
    count = len(splits.train)
    block = 64 if count > 20_000 else 16
    model = _gpt(splits.classes or 256, block, large=count > 5_000_000)
    options = {"name": "text", "path": str(file), "block_size": Note(block, "context, in characters")}
    options |= {"codec": Note("characters", 'or "bytes", or a tokenizer.json'), "batch_size": 16}
    facts = [f"{count:,} characters to train on, {splits.classes} of them different", "nnfunc sample RUN writes text"]
    tables = {"data": options, **_language_tables(model, count, block)}
    return Draft(
        f"Write text like {file.name}", facts, tables, "nnfunc sample RUN; nnfunc evaluate RUN --split validation"
    )


def draft_tokens(file: Path) -> Draft:
    """A config for a language model of files of tokens: .bin or .npy, or a folder with train.bin and val.bin."""
    first = file if file.is_file() else next((f for f in sorted(file.iterdir()) if f.stem == "train"), file)
    if first.suffix not in (".bin", ".npy"):
        hint = "For text: nnfunc new language."
        check.fail("new", expected=f"{first} should be a .bin or .npy file of tokens", actual=first.suffix, hint=hint)
    dtype = "uint16" if first.suffix == ".bin" else None
    tokens = np.memmap(first, np.dtype("<u2"), "r") if dtype else np.load(first, mmap_mode="r")
    vocab_size = int(max(tokens[start : start + (1 << 20)].max() for start in range(0, len(tokens), 1 << 20))) + 1
    block = min(256, max(8, len(tokens) // 100))
    options: dict[str, Any] = {"name": "tokens", "path": str(file), "block_size": block}
    options |= {"dtype": Note("uint16", "of the .bin files")} if dtype else {}
    options |= {"vocab_size": Note(vocab_size, "the largest token of the file, plus one"), "batch_size": 16}
    data.tokens(file, block_size=block, vocab_size=vocab_size)
    model = _gpt(vocab_size, block, large=len(tokens) > 5_000_000)
    facts = [f"{len(tokens):,} tokens, the largest is {vocab_size - 1:,}"]
    tables = {"data": options, **_language_tables(model, len(tokens), block)}
    return Draft(f"Predict the next token of {file.name}", facts, tables, "nnfunc evaluate RUN --split validation")


def _gpt(vocab_size: int, block: int, *, large: bool) -> dict[str, Any]:
    sizes = {"layers": 6, "heads": 6, "dim": 192} if large else {"layers": 4, "heads": 4, "dim": 128}
    return {"name": "gpt", "vocab_size": vocab_size, "block_size": block, **sizes, "dropout": 0.1}


def _language_tables(model: dict[str, Any], count: int, block: int) -> dict[str, Any]:
    epoch = max(1, count // (16 * block))
    steps = min(max(10 * epoch, 200), 3000)
    comment = f"reads the whole text about {steps / epoch:.2g} times"
    tables = {"model": model, "objective": {"name": "language_modelling"}}
    tables |= training_tables(steps, comment, peak=3e-3, weight_decay=0.1, best="min loss")
    tables["optimizer"] |= {"b2": 0.99, "clip": 1.0}
    return tables
