"""Entities in tagged sequences: which ones tags of a scheme such as BIO name, and which ones are predicted."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.evaluation.readings import Reading

SCHEME = re.compile(r"O|([BIESLUM])(?:-(.*))?")
SAME = {"L": "E", "U": "S", "M": "I"}  # the letters of BILOU and BMES


def has_scheme(names: Sequence[str] | None) -> bool:
    """Whether tags are those of BIO and its like: O, and B-X, I-X, E-X, S-X. names: of the tags."""
    return names is not None and len(names) > 1 and all(map(SCHEME.fullmatch, names))


def count_entities(xp: Any, reading: Reading) -> dict[str, Any]:
    """{"hit", "predicted", "true"}: [rows], 1.0 where an entity begins that is predicted rightly, predicted, or true.

    Right is an entity with the same type, beginning and end. Sequences that break the rules are read as conlleval does:
    an entity also begins at an I-X after O or another type. Other tags than those of a scheme are entities of their
    name: each run of the same one, but for O. Positions that do not count are skipped.
    xp: numpy, or jax's.
    reading: of tags, with their names.
    Source: the CoNLL-2000 script conlleval, as in seqeval's default mode.
    """
    if reading.names is None:
        hint = "In Python: nf.tagging(names=...). A config has them from its data."
        check.fail("metrics", "metrics of entities need the names of the tags.", hint=hint)
    letters, types = _parse(reading.names)
    shape = (-1, reading.positions)
    counted = xp.reshape(reading.counted, shape) > 0
    true, predicted = (
        _spans(xp, xp.reshape(ids, shape), counted, letters, types) for ids in (reading.target, reading.prediction)
    )
    hit = true[0] & predicted[0] & (true[1] == predicted[1]) & (true[2] == predicted[2])
    flat = lambda flags: xp.reshape(flags, -1).astype(reading.counted.dtype)
    return {"hit": flat(hit), "predicted": flat(predicted[0]), "true": flat(true[0])}


def _parse(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(letters [tags] as numbers, types [tags] as numbers); the last one is that of no tag."""
    if not has_scheme(names):
        names = [name if name == "O" else f"I-{name}" for name in names]
    parts = [match.groups() if (match := SCHEME.fullmatch(name)) else (None, None) for name in names]
    letters = ["O" if letter is None else SAME.get(letter, letter) for letter, _ in parts]
    known = {word: i for i, word in enumerate(dict.fromkeys(word or "" for _, word in parts))}
    types = [-1 if letter is None else known[word or ""] for letter, word in parts]
    return np.array([*map(ord, letters), ord("O")], np.int32), np.array([*types, -1], np.int32)


def _spans(xp: Any, ids: Any, counted: Any, letters: np.ndarray, types: np.ndarray) -> tuple[Any, Any, Any]:
    """(whether an entity begins, its type, the position of its last tag) at each position, all [n, positions]."""
    count = ids.shape[1]
    is_tag = counted & (ids >= 0) & (ids < len(letters) - 1)
    ids = xp.where(is_tag, ids, len(letters) - 1)
    letter, entity = (xp.asarray(table)[ids] for table in (letters, types))  # [n, positions]
    position = xp.broadcast_to(xp.arange(count, dtype=np.int32), ids.shape)
    latest = _running(xp, xp.where(counted, position, -1), reverse=False)
    before = xp.concatenate([xp.full_like(latest[:, :1], -1), latest[:, :-1]], axis=1)  # the counted position before
    at = lambda table, outside: xp.where(before < 0, outside, xp.take_along_axis(table, xp.maximum(before, 0), axis=1))
    letter_before, type_before = at(letter, ord("O")), at(entity, -1)
    one_of = lambda values, letters: sum((values == ord(x) for x in letters[1:]), values == ord(letters[0]))
    inside, was_inside = letter != ord("O"), letter_before != ord("O")
    begins = one_of(letter, "BS") | (one_of(letter_before, "ESO") & one_of(letter, "EI")) | (entity != type_before)
    begins = begins & inside & counted
    ends = one_of(letter_before, "ES") | one_of(letter, "BSO") | (entity != type_before)  # the entity before
    ends = ends & was_inside & counted
    last = xp.where(ends, before, count)  # of an entity that ends before this position
    after = xp.concatenate([last[:, 1:], xp.full_like(last[:, :1], count)], axis=1)
    return begins, entity, _running(xp, after, reverse=True)


def _running(xp: Any, values: Any, *, reverse: bool) -> Any:
    """The largest value so far, or in reverse the smallest one from here on, along axis 1."""
    if xp is not np:
        return jax.lax.cummin(values, axis=1, reverse=True) if reverse else jax.lax.cummax(values, axis=1)
    return np.minimum.accumulate(values[:, ::-1], axis=1)[:, ::-1] if reverse else np.maximum.accumulate(values, axis=1)
