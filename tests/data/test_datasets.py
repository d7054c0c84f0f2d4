"""Data as a function of the step: the order is a permutation, batches are what was given, and bad
data is refused before anything runs. References: Python's integers, SciPy's chi-square test, and
scikit-learn's own loader of the digits."""

import builtins
import functools
import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import nnfunc as nf
from nnfunc.data import shuffle

UINT32 = st.integers(0, 2**32 - 1)

FROZEN_10 = [1, 6, 4, 9, 0, 8, 2, 3, 7, 5]
FROZEN_1257 = [74, 810, 419, 380, 287, 581]
FROZEN_60000 = [17875, 46029, 56895, 3908, 5473]
FROZEN_SPLIT = [1, 2, 7, 29, 51, 60, 62, 63, 69, 99]
FROZEN_DIGITS = [1, 3, 4, 5, 8, 5, 5, 0, 4, 7, 2, 6, 0, 9, 2, 7, 4, 3, 1, 7]


@functools.cache
def orders(n, epochs, seed=5):
    """[epochs, n]: the orders of the first epochs."""
    return np.asarray(shuffle.permute(seed, jnp.arange(epochs)[:, None], jnp.arange(n), n))


# The order.


@pytest.mark.slow
@settings(max_examples=40)
@given(UINT32, UINT32, st.integers(1, 5000))
def test_every_epoch_is_a_permutation(seed, epoch, n):
    with jax.disable_jit():  # compiles each operation once, and not the whole for every n
        found = shuffle.permute(seed, epoch, jnp.arange(5000) % n, n)
    assert sorted(found[:n].tolist()) == list(range(n))


@pytest.mark.parametrize("n", [1, 1257, 1437, 70001])
def test_every_epoch_is_a_permutation_under_jit(n):
    found = orders(n, 2)
    np.testing.assert_array_equal(np.sort(found), np.tile(np.arange(n), (2, 1)))


@pytest.mark.parametrize("n", [1_000_003, 2**31 - 1])
def test_large_data_sets_stay_in_range_and_do_not_repeat(n):
    place = jnp.concatenate([jnp.arange(2000), n - 1 - jnp.arange(2000)])
    found = np.asarray(shuffle.permute(3, 1, place, n))
    assert found.dtype == np.int32
    assert found.min() >= 0
    assert found.max() < n
    assert len(np.unique(found)) == 4000


def test_the_order_is_frozen():
    """A run that is resumed with a newer nnfunc goes on in the same order: never change these."""
    assert shuffle.permute(7, 3, jnp.arange(10), 10).tolist() == FROZEN_10
    assert shuffle.permute(0, 0, jnp.arange(6), 1257).tolist() == FROZEN_1257
    assert shuffle.permute(2**32 - 1, 2**32 - 1, jnp.arange(5), 60000).tolist() == FROZEN_60000


def test_seeds_and_epochs_differ():
    found = [
        tuple(shuffle.permute(seed, epoch, jnp.arange(50), 50).tolist()) for seed in range(6) for epoch in range(6)
    ]
    assert len(set(found)) == 36


def test_the_order_is_the_same_under_jit_vmap_and_scan():
    n, place = 1437, jnp.arange(64)
    seeds, epochs = jnp.array([0, 9]), jnp.array([4, 2**31 - 1])
    wanted = [[shuffle.permute(s, e, place, n) for e in (4, 2**31 - 1)] for s in (0, 9)]
    over = jax.vmap(jax.vmap(shuffle.permute, (None, 0, None, None)), (0, None, None, None))
    np.testing.assert_array_equal(over(seeds, epochs, place, n), wanted)
    _, scanned = jax.lax.scan(lambda _, e: (None, shuffle.permute(0, e, place, n)), None, epochs)
    np.testing.assert_array_equal(scanned, wanted[0])
    assert not np.array_equal(wanted[0][0], wanted[1][0])


@pytest.mark.parametrize("n", [2, 5, 6])
def test_all_orders_of_a_few_are_equally_likely(n):
    count = 20 * math.factorial(n)
    code = orders(n, count) @ n ** np.arange(n)
    seen = np.unique(code, return_counts=True)[1]
    assert len(seen) == math.factorial(n)
    assert stats.chisquare(seen).pvalue > 1e-3


@pytest.mark.parametrize("n", [10, 143])
def test_every_example_is_equally_likely_at_every_place(n):
    found = orders(n, 200_000 // n)
    table = np.zeros((n, n))
    np.add.at(table, (np.arange(n)[None], found), 1)
    expected = len(found) / n
    statistic = ((table - expected) ** 2 / expected).sum()
    assert 1e-3 < stats.chi2.sf(statistic, (n - 1) ** 2) < 1 - 1e-3


@pytest.mark.parametrize("n", [10, 143, 1257])
def test_neighbours_are_unrelated(n):
    found = orders(n, 200_000 // n)
    for lag in (1, 2, shuffle._grid(n)[1]):  # the last: neighbours in a column of the grid
        ahead = (found[:, lag:] - found[:, :-lag]) % n
        assert stats.chisquare(np.bincount(ahead.ravel(), minlength=n)[1:]).pvalue > 1e-3
    epochs = (found[1:] - found[:-1]) % n  # the same place in the next epoch
    assert stats.chisquare(np.bincount(epochs.ravel(), minlength=n)).pvalue > 1e-3
    correlation = np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1]
    assert abs(correlation + 1 / (n - 1)) * math.sqrt(found.size) < 4


# Positions.


def by_hand(step, batch_size, n):
    return zip(*(divmod(step * batch_size + i, n) for i in range(batch_size)), strict=True)


@given(UINT32, st.sampled_from([1, 96]), st.integers(1, 2**31 - 1))
def test_positions_equal_python_integers(step, batch_size, n):
    with jax.disable_jit():
        epoch, position = shuffle.positions(step, batch_size, n)
    wanted_epoch, wanted = by_hand(step, batch_size, n)
    assert epoch.tolist() == [e % 2**32 for e in wanted_epoch]
    assert position.tolist() == list(wanted)


@pytest.mark.parametrize("step", [2**31, 2**32 - 1])
@pytest.mark.parametrize("n", [1257, 2**31 - 1])
def test_positions_need_more_than_32_bits(step, n):
    """step * batch_size needs 48 bits."""
    epoch, position = jax.jit(shuffle.positions, static_argnums=(1, 2))(np.uint32(step), 50_000, n)
    wanted_epoch, wanted = by_hand(step, 50_000, n)
    assert epoch.tolist() == [e % 2**32 for e in wanted_epoch]
    assert position.tolist() == list(wanted)


@pytest.mark.parametrize("batch_size", [3, 10])
def test_batches_bring_every_example_once_an_epoch(batch_size):
    n, epochs = 10, 3
    steps = jnp.arange(n * epochs // batch_size)
    stream = jax.vmap(lambda step: shuffle.indices(1, step, batch_size, n))(steps).ravel()
    for epoch in range(len(stream) // n):
        assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


def test_bad_sizes_of_an_order_are_refused():
    with pytest.raises(ValueError, match="permute: n should be at least 1, got 0"):
        shuffle.permute(0, 0, 0, 0)
    with pytest.raises(ValueError, match="n should be at most 2147483647"):
        shuffle.permute(0, 0, 0, 2**31)
    with pytest.raises(TypeError, match="batch_size should be an integer"):
        shuffle.positions(0, 1.5, 4)
    with pytest.raises(ValueError, match=r"step should be in \[0, 4294967295\], got -1"):
        shuffle.indices(0, -1, 2, 4)


# Data.


def pairs(n=10, **more):
    x = np.arange(3 * n, dtype=np.uint8).reshape(n, 3)
    return nf.data.arrays((x, np.arange(n) % 4), **{"batch_size": 4, "classes": 4} | more)


def test_batches_hold_the_given_examples_in_their_type():
    data = pairs()
    seen = []
    for step in range(5):
        x, y = data.batch(step)
        assert (x.dtype, y.dtype, x.shape) == (jnp.uint8, jnp.int32, (4, 3))
        seen += (x[:, 0] // 3).tolist()
        np.testing.assert_array_equal(y, x[:, 0] // 3 % 4)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert (data.size, data.steps_per_epoch) == (10, 3)


def test_data_is_an_argument_of_a_jitted_function():
    data = nf.data.arrays(np.random.RandomState(0).rand(4000, 3), batch_size=4)
    compiled = jax.jit(lambda data, step: data.batch(step))
    np.testing.assert_array_equal(compiled(data, 7), data.batch(7))
    assert "4000x3xf32" in compiled.lower(data, 7).as_text().split("\n")[1]
    assert len(compiled.lower(data, 7).as_text()) < 50_000
    assert compiled._cache_size() == 1


def test_a_traced_seed_is_the_same_as_a_plain_one():
    x = np.arange(20.0)
    wanted = [nf.data.arrays(x, 5, seed=seed).batch(2) for seed in (0, 3)]
    found = jax.vmap(lambda seed: nf.data.arrays(x, 5, seed=seed).batch(2))(jnp.array([0, 3]))
    np.testing.assert_array_equal(found, wanted)
    assert not np.array_equal(found[0], found[1])


def test_transform_comes_first_and_augment_is_for_training_only():
    def to_float(batch):
        return batch[0].astype(jnp.float32) / 255, batch[1]

    def noise(key, batch):
        assert batch[0].dtype == jnp.float32
        return batch[0] + jax.random.normal(key, batch[0].shape), batch[1]

    x, y = np.full((8, 2), 255, np.uint8), np.zeros(8, np.int32)
    data = nf.data.arrays((x, y), 4, validation=(x[:3], y[:3]), transform=to_float, augment=noise)
    first, again, other = data.batch(0)[0], data.batch(0)[0], data.batch(1)[0]
    np.testing.assert_array_equal(first, again)  # the same for the same seed and step
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, data.batch(0, key=jax.random.key(9))[0])
    assert not np.array_equal(first, nf.data.arrays((x, y), 4, seed=1, transform=to_float, augment=noise).batch(0)[0])
    (held,) = data.split("validation")
    np.testing.assert_array_equal(held[0], np.ones((3, 2)))


@pytest.mark.parametrize(("size", "width"), [(5, 2), (6, 2), (1, 2), (5, None)])
def test_every_held_out_example_counts_once(size, width):
    x = np.arange(1.0, size + 1, dtype=np.float32)
    data = nf.data.arrays(np.zeros(4, np.float32), 4, validation=x, transform=lambda x: 2 * x)
    parts = list(data.split("validation", width))
    np.testing.assert_array_equal(np.concatenate(parts), 2 * x)
    assert {len(part) for part in parts[:-1]} <= {width or 4}

    def sums(batch):
        return {"sum": batch.sum(), "count": len(batch)}

    total = jax.jit(lambda data: data.total(sums, "validation", width))(data)
    assert (float(total["sum"]), int(total["count"])) == (float(2 * x.sum()), size)


def test_splits_are_named():
    data = pairs(test=(np.zeros((2, 3), np.uint8), np.zeros(2, np.int64)))
    assert [len(x) for x, _ in data.split("train")] == [4, 4, 2]
    assert [len(x) for x, _ in data.split("test")] == [2]
    assert data.for_training().test is None
    with pytest.raises(ValueError, match=r"no validation split. Add one: .*validation=\(x, y\)"):
        next(data.split("validation"))
    with pytest.raises(ValueError, match="did you mean 'validation'"):
        next(data.split("valid"))


X, Y = np.zeros((6, 2), np.float32), np.zeros(6, np.int64)
NAN = X.copy()
NAN[4, 1], NAN[5, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    "train,more,kind,words",
    [
        ((X[:0], Y[:0]), {}, ValueError, r"train\[0\] should have at least one example, got shape \(0, 2\)"),
        ((X, Y[:5]), {}, ValueError, r"the same length, got train\[0\]: 6, train\[1\]: 5"),
        (
            (NAN, Y),
            {},
            ValueError,
            r"train\[0\] should be finite as float32, got nan at index \[4, 1\], the first of 2",
        ),
        ((X.astype(np.float64) + 1e300, Y), {}, ValueError, r"should be finite as float32, got 1e\+300"),
        ((X, Y + 2**40), {}, ValueError, r"train\[1\] should fit int32, got .* of 6 such values among 6"),
        ({"x": X, "n": np.float32(3)}, {}, ValueError, r"train\['n'\] should have a first axis"),
        ([[1.0, 2.0]], {}, TypeError, r"train\[0\]\[0\] should be an array, got 1.0 .*np.asarray"),
        (np.array(["a", "b"]), {}, TypeError, r"train should hold numbers, got dtype <U1.*np.unique"),
        (np.array([None, 1.0]), {}, TypeError, "got dtype object"),
        ((), {}, TypeError, "train should hold arrays"),
        (None, {}, TypeError, "train should hold the training arrays, got None"),
        ((X, Y), {"batch_size": 7}, ValueError, "at most the number of training examples, 6, got 7. Lower"),
        ((X, Y), {"batch_size": 0}, ValueError, "batch_size should be at least 1, got 0"),
        ((X, Y), {"batch_size": 2.0}, TypeError, "batch_size should be an integer"),
        ((X, Y), {"seed": -1}, ValueError, r"seed should be in \[0, 4294967295\], got -1"),
        ((X, Y), {"validation": (NAN, Y)}, ValueError, r"validation\[0\] should be finite"),
        ((X, Y), {"validation": X}, ValueError, "validation should have the structure of train"),
        ((X, Y), {"test": (X[:, :1], Y)}, ValueError, r"types: float32\[n, 2\], got float32\[n, 1\]"),
        (
            (X, Y + 3),
            {"classes": 3},
            ValueError,
            r"train: labels should be in \[0, 3\), got 3 at .* of 6 such labels among 6",
        ),
        ((X, Y - 1), {"classes": 3}, ValueError, "got -1 at example 0"),
        ((X, X[:, 0]), {"classes": 3}, TypeError, "labels should hold integers, got float32.*np.unique"),
        (X, {"classes": 3}, ValueError, r"train should be a pair \(x, y\) of inputs and labels"),
        ((X, Y), {"validation": (X, Y + 5), "classes": 3}, ValueError, "data.arrays: validation: labels should be"),
    ],
)
def test_bad_data_is_refused_with_where_what_and_cure(train, more, kind, words):
    with pytest.raises(kind, match=words):
        nf.data.arrays(train, **{"batch_size": 2} | more)


def test_odd_but_good_data_is_taken():
    half = jnp.ones((4, 2), jnp.bfloat16)
    data = nf.data.arrays({"a": half, "b": np.ones(4, bool), "k": jax.random.split(jax.random.key(0), 4)}, 2)
    batch = data.batch(0)
    assert (batch["a"].dtype, batch["b"].dtype, batch["k"].shape) == (jnp.bfloat16, bool, (2,))


# Splitting.


def test_split_is_disjoint_exact_and_the_same_everywhere():
    x = np.arange(100)
    parts = nf.data.split({"x": x}, [0.7, 0.1, 0.2], seed=3)
    assert [len(part["x"]) for part in parts] == [70, 10, 20]
    assert sorted(np.concatenate([part["x"] for part in parts]).tolist()) == x.tolist()
    assert parts[1]["x"].tolist() == FROZEN_SPLIT
    assert nf.data.split(x, [0.7, 0.1, 0.2], seed=4)[1].tolist() != FROZEN_SPLIT


@given(st.integers(0, 1000), st.lists(st.integers(0, 3), min_size=20, max_size=200))
def test_a_stratified_split_keeps_class_fractions(seed, kinds):
    kinds = np.array(kinds)
    parts = nf.data.split(np.arange(len(kinds)), [0.6, 0.1, 0.3], seed=seed, stratify=kinds)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(kinds)))
    for kind in np.unique(kinds):
        for part, share in zip(parts, [0.6, 0.1, 0.3], strict=True):
            assert abs((kinds[part] == kind).sum() - share * (kinds == kind).sum()) < 3


def test_bad_splits_are_refused():
    with pytest.raises(ValueError, match=r"fractions should sum to 1, got \[0.5, 0.4\], with sum 0.9"):
        nf.data.split(X, [0.5, 0.4])
    with pytest.raises(ValueError, match=r"every part should have an example, got \[5, 0, 1\] of 6"):
        nf.data.split(X, [0.9, 0.02, 0.08])
    with pytest.raises(ValueError, match=r"stratify should have shape \(6,\)"):
        nf.data.split(X, [0.5, 0.5], stratify=Y[:3])


# The digits.


def test_digits_equal_scikit_learns(monkeypatch):
    datasets = pytest.importorskip("sklearn.datasets")
    from nnfunc.data.sources.digits import _table

    bunch = datasets.load_digits()
    wanted = np.column_stack([bunch.data, bunch.target])
    np.testing.assert_array_equal(_table(), wanted)
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: False)
    np.testing.assert_array_equal(_table(), wanted)  # what a later scikit-learn may need


def test_digits_are_split_by_class_and_import_no_scikit_learn(monkeypatch):
    pytest.importorskip("sklearn")
    imported = []
    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest: imported.append(name) or real(name, *rest))
    splits = nf.data.digits()
    assert not [name for name in imported if name.startswith("sklearn")]
    assert [len(x) for x, _ in splits[:3]] == [1257, 180, 360]
    for (x, y), low, high in zip(splits[:3], [122, 17, 35], [128, 19, 37], strict=True):
        assert x.shape == (len(y), 64)
        assert (x.dtype, x.min(), x.max(), y.dtype) == (np.float32, 0, 1, np.int32)
        counts = np.bincount(y, minlength=10)
        assert low <= counts.min() <= counts.max() <= high
    assert splits.test[1][:20].tolist() == FROZEN_DIGITS


def test_digits_as_images_and_as_data():
    pytest.importorskip("sklearn")
    flat, images = nf.data.digits(), nf.data.digits(layout="image")
    assert images.train[0].shape == (1257, 8, 8, 1)
    np.testing.assert_array_equal(images.test[0].reshape(-1, 64), flat.test[0])
    data = flat.data(32, seed=1)
    x, y = data.batch(0)
    assert (x.shape, y.shape, data.classes, data.size) == ((32, 64), (32,), 10, 1257)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nnfunc\[programs\]'"):
        nf.data.digits()


# Arrays of other forms.


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4", ">u2", "<f8", "float16"])
def test_arrays_of_any_order_of_bytes(dtype):
    x = np.arange(12).astype(dtype).reshape(6, 2)
    splits = nf.data.Splits((x, np.arange(6).astype(">i4")))
    plain = nf.data.Splits((np.arange(12).reshape(6, 2), np.arange(6)))
    for found, expected in zip(splits.data(3).batch(1), plain.data(3).batch(1), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(splits.stream(3).batch(1), plain.data(3).batch(1), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [len(part) for part in nf.data.split(x, [0.5, 0.5])] == [3, 3]


def test_float64_that_float32_cannot_tell_apart_is_named():
    times = 1.7e9 + np.arange(8.0)[:, None]
    with pytest.warns(UserWarning, match=r"data.arrays: train\[0\]: float32 has fewer than 256 values"):
        nf.data.arrays((times, np.arange(8)), batch_size=2)
    nf.data.arrays((times - times[0], np.arange(8)), batch_size=2)


def test_masked_values_are_refused_everywhere():
    x, y = np.ma.masked_less(np.arange(6.0), 2), np.arange(6) % 2
    words = "should hold no masked values, got 2 of 6. Fill them with"
    for load in (
        lambda: nf.data.arrays((x, y), 2),
        lambda: nf.data.arrays((x.data, y), 2, validation=(x, y)),
        lambda: nf.data.split((x, y), [0.5, 0.5]),
        lambda: nf.data.check_labels("here", np.ma.array(y, mask=x.mask), 2),
        lambda: nf.data.Splits((x, y)).stream(2),
    ):
        with pytest.raises(ValueError, match=words):
            load()
    whole = np.ma.array(np.arange(6.0))
    np.testing.assert_array_equal(nf.data.arrays(whole, 6).arrays, np.arange(6))


@pytest.mark.parametrize("dtype", ["longdouble", "clongdouble", "m8[s]", "M8[s]", "U3", "S3", "O", "V4"])
def test_arrays_that_jax_has_no_type_for(dtype):
    x = np.zeros(6, dtype) if dtype == "V4" else np.arange(6).astype(dtype)
    with pytest.raises(TypeError, match="should hold numbers, got dtype"):
        nf.data.arrays(x, 2)
