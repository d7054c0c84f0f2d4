"""Training on a stream, whose batches are gathered on the host: the same run as on the device."""

import jax
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.data.sources.token_splits import build_token_splits

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """600 tokens in a memory-mapped file."""
    file = tmp_path_factory.mktemp("tokens") / "train.npy"
    np.save(file, (np.arange(600, dtype=np.uint16) ** 2) % 11)
    array = np.load(file, mmap_mode="r")
    return build_token_splits("test", {"train": array[:500], "validation": array[500:]}, 8, 11, None, "test")


def build(h):
    model = nf.serial(nf.embedding(11, 8), nf.dropout(0.1), nf.linear(8, 11))
    return nf.Task(model, nf.language_modelling(), nf.optimizers.adamw(h["rate"]))


def run(data, **options):
    return nf.train(build, {"rate": 1e-2}, data, steps=12, key=KEY, evaluate_every=4, **options)


def test_a_stream_trains_as_the_same_data_on_the_device(splits):
    (one, first), (two, second) = (run(d) for d in (splits.data(4), splits.stream(4)))
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    assert first.validation["loss"].tolist() == second.validation["loss"].tolist()


def test_a_stopped_stream_goes_on(splits, tmp_path):
    whole, _ = run(splits.stream(4))
    stopped, _ = run(splits.stream(4), folder=tmp_path, should_stop=lambda step: step == 5)
    assert int(stopped.step) == 5
    resumed, _ = run(splits.stream(4), folder=tmp_path, resume=True)
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)


def test_no_thread_is_left_behind(splits):
    import threading

    run(splits.stream(4))
    assert not [t for t in threading.enumerate() if t.name == "nnfunc-prefetch" and t.is_alive()]


def test_a_stream_cannot_be_scanned_and_a_list_is_no_data_set(splits):
    with pytest.raises(ValueError, match="should not be 'scan'"):
        run(splits.stream(4), loop="scan")
    with pytest.raises(TypeError, match="data should be a data set"):
        run([1, 2])
