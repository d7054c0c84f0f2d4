"""Precision, recall and F1 of entities equal those of sets of (type, first, last), as seqeval has them."""

import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.evaluation import HeldOut, bootstrap, compute_metrics
from nnfunc.evaluation.named_metrics import row_sums
from nnfunc.evaluation.readings import read

SCHEMES = {
    "BIO": ("B-LOC", "B-PER", "I-LOC", "I-PER", "O"),
    "without types": ("B", "I", "O"),
    "BIOES": ("B-LOC", "B-PER", "E-LOC", "E-PER", "I-LOC", "I-PER", "O", "S-LOC", "S-PER"),
    "with dashes": ("B-geo-name", "I-geo-name", "I-PER", "O"),
    "names": ("LOC", "O", "PER", "VERB"),
}
SCORES = ("entity_f1", "entity_precision", "entity_recall")


def entities(tags, scheme):
    """{(type, first, last)}, by a walk through the tags."""
    found, start, before = set(), None, ("O", "")
    for i, tag in enumerate([*tags, "O"]):
        if scheme == "names":
            letter, name = ("O", "") if tag == "O" else ("I", tag)
        else:
            letter, _, name = tag.partition("-")
        ends = before[0] in ("E", "S") or letter in ("B", "S", "O") or name != before[1]
        begins = letter in ("B", "S") or (letter in ("I", "E") and (before[0] in ("E", "S", "O") or name != before[1]))
        if start is not None and ends:
            found.add((before[1], start, i - 1))
            start = None
        if begins:
            start = i
        before = (letter, name)
    return found


def rows(scheme, seed, n=40, length=9):
    """(names, logits, tags): the lengths of the sentences differ, and some positions inside do not count."""
    random, names = np.random.RandomState(seed), SCHEMES[scheme]
    tags = random.randint(0, len(names), (n, length))
    guess = np.where(random.uniform(size=tags.shape) < 0.7, tags, random.randint(0, len(names), tags.shape))
    tags = np.where(np.arange(length) < random.randint(1, length + 1, (n, 1)), tags, -100)
    return (
        names,
        np.eye(len(names), dtype=np.float32)[guess],
        np.where(random.uniform(size=tags.shape) < 0.1, -100, tags),
    )


def expected_scores(scheme, names, logits, tags):
    hit = predicted = true = 0
    for guess, row in zip(logits.argmax(-1), tags, strict=True):
        sides = [entities([names[i] for i in ids[row >= 0]], scheme) for ids in (row, guess)]
        hit, true, predicted = hit + len(sides[0] & sides[1]), true + len(sides[0]), predicted + len(sides[1])
    return {"entity_f1": 2 * hit / (true + predicted), "entity_precision": hit / predicted, "entity_recall": hit / true}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_equal_those_of_sets(scheme):
    for seed in range(5):
        names, logits, tags = rows(scheme, seed)
        expected = expected_scores(scheme, names, logits, tags)
        assert compute_metrics(HeldOut("tags", logits, tags, names), SCORES) == pytest.approx(expected, abs=1e-12)
        reading = read(jnp, "tags", logits, tags, names=names)
        for name in SCORES:
            assert row_sums(jnp, name, reading, reading.counted).value(jnp) == pytest.approx(expected[name], abs=1e-6)


def test_by_hand():
    """One of two is right: the other begins too early. An I-X without its B-X is an entity too."""
    names = ("B-X", "I-X", "O")
    tags, guess = np.array([[0, 1, 2, 0, 1]]), np.array([[1, 1, 0, 1, 1]])
    held_out = HeldOut("tags", np.eye(3)[guess], tags, names)
    assert compute_metrics(held_out, SCORES) == {"entity_f1": 0.5, "entity_precision": 0.5, "entity_recall": 0.5}
    assert next(iter(compute_metrics(held_out))) == "entity_f1"
    assert bootstrap(held_out, ["entity_f1"], n=5) == {"entity_f1": (0.5, 0.5)}
    nothing = HeldOut("tags", np.eye(3)[np.full((1, 5), 2)], tags, names)
    assert compute_metrics(nothing, SCORES) == {"entity_f1": 0.0, "entity_precision": 0.0, "entity_recall": 0.0}


def test_an_evaluation_has_them():
    names, logits, tags = rows("BIO", 0)
    objective = nf.tagging(names=names)
    model = nf.as_model(lambda x: x)
    task = nf.Task(model, objective, nf.optimizers.sgd(0.1), metrics=("entity_f1", "accuracy"))
    value = nf.evaluate(task, {}, (logits, tags.astype(np.int32)), batch_size=16)["entity_f1"]
    assert value == pytest.approx(expected_scores("BIO", names, logits, tags)["entity_f1"], abs=1e-6)
    task = task._replace(objective=nf.tagging())
    with pytest.raises(ValueError, match=r"need the names of the tags\. In Python: nf\.tagging\(names=\.\.\.\)"):
        nf.evaluate(task, {}, (logits, tags.astype(np.int32)), batch_size=16)
