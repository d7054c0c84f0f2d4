"""Images in folders, and how pixels become floats."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from files import only_mistakes

import nnfunc as nf
from nnfunc.data.augment import augmentation

Image = pytest.importorskip("PIL.Image")


def picture(seed, shape=(6, 8, 3)):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def folder(root, parts=("",), count=5, shape=(6, 8, 3), ending="png"):
    for place, part in enumerate(parts):
        for kind in ("ant", "bee"):
            inside = root / part / kind
            inside.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(picture(100 * place + 10 * (kind == "bee") + i, shape)).save(
                    inside / f"{i}.{ending}"
                )
    return root


# Folders.


def test_a_folder_for_each_class(tmp_path):
    folder(tmp_path)
    (tmp_path / "readme.txt").write_text("not a class")
    (tmp_path / ".hidden").mkdir()
    splits = nf.data.images(tmp_path, validation=0.2, test=2)
    assert (splits.names, splits.classes) == (("ant", "bee"), 2)
    assert [part[0].shape for part in splits[:3]] == [(6, 6, 8, 3), (2, 6, 8, 3), (2, 6, 8, 3)]
    assert [np.bincount(part[1]).tolist() for part in splits[:3]] == [[3, 3], [1, 1], [1, 1]]
    every = {part[0][i].tobytes(): part[1][i] for part in splits[:3] for i in range(len(part[1]))}
    assert every == {picture(10 * k + i).tobytes(): k for k in (0, 1) for i in range(5)}


def test_folders_for_the_splits(tmp_path):
    folder(tmp_path, ("train", "val", "test"))
    splits = nf.data.images(tmp_path)
    assert [len(part[1]) for part in splits[:3]] == [10, 10, 10]
    np.testing.assert_array_equal(splits.test[0][7], picture(212))
    (tmp_path / "val" / "bee").rename(tmp_path / "val" / "be")
    with pytest.raises(
        ValueError, match="validation has a class that train has not, 'be'; did you mean 'bee'"
    ):
        nf.data.images(tmp_path)


def test_pixels_are_normalised_by_the_training_images(tmp_path):
    folder(tmp_path)
    splits = nf.data.images(tmp_path, validation=0, test=2)
    x = splits.train[0].astype(np.float64) / 255
    np.testing.assert_allclose(splits.transform.mean, x.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(splits.transform.std, x.std((0, 1, 2)), atol=1e-6)
    (batch,) = splits.data(4).split("train", 8)
    np.testing.assert_allclose(np.asarray(batch[0]).mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(batch[0]).std((0, 1, 2)), 1, atol=1e-5)
    given = nf.data.images(tmp_path, mean=[0.5], std=[0.25], layout="flat").transform
    assert given == nf.data.Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_sizes_and_channels(tmp_path):
    folder(tmp_path)
    Image.fromarray(picture(1, (12, 16, 3))).save(tmp_path / "bee" / "large.png")
    with pytest.raises(
        ValueError, match=r"large.png is 12 x 16, but .*0.png 6 x 8 .* size = \[6, 8\]"
    ):
        nf.data.images(tmp_path)
    assert nf.data.images(tmp_path, size=[6, 8]).train[0].shape[1:] == (6, 8, 3)
    assert nf.data.images(tmp_path, size=4, channels=1).train[0].shape[1:] == (4, 4, 1)
    assert nf.data.images(tmp_path, size=4, layout="rows").train[0].shape[1:] == (4, 12)
    for words, more in {
        "size should be": {"size": [1, 2, 3]}, "height should be at least 1": {"size": 0},
        "channels should be 3": {"channels": 4}, "mean should be 3 numbers": {"mean": [1, 2]},
        "above 0": {"std": [0.0]}, "shift should be below": {"shift": 6, "size": 6},
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=words):
            nf.data.images(tmp_path, **{"size": 4} | more)


def test_other_modes_of_images_become_rgb_or_grey(tmp_path):
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
    Image.fromarray(picture(0, (4, 4, 4))).save(tmp_path / "a" / "1.png")
    Image.fromarray(picture(0, (4, 4))).save(tmp_path / "a" / "2.png")
    Image.fromarray(picture(0)[:4, :4]).convert("P").save(tmp_path / "b" / "3.gif")
    Image.fromarray(picture(0, (4, 4)) > 100).save(tmp_path / "b" / "4.tiff")
    for channels in (1, 3):
        splits = nf.data.images(tmp_path, channels=channels, validation=0, test=0)
        assert splits.train[0].shape == (4, 4, 4, channels)
    np.testing.assert_array_equal(
        splits.train[0][1], np.repeat(picture(0, (4, 4))[..., None], 3, -1)
    )


def test_what_is_no_folder_of_images(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="should be a folder, with a folder for each class"):
        nf.data.images(tmp_path / "file")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"with a folder for each class: .* but has no folders"):
        nf.data.images(tmp_path / "none")
    (tmp_path / "none" / "cat").mkdir()
    with pytest.raises(ValueError, match="cat should hold the images of a class, but holds none"):
        nf.data.images(tmp_path / "none")


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "nnfunc\[data\]"'):
        nf.data.images(tmp_path)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp"])
def test_no_damage_to_an_image_gives_anything_but_our_error(tmp_path, ending):
    folder(tmp_path, count=2, ending=ending)
    file = tmp_path / "bee" / f"1.{ending}"
    only_mistakes(lambda: nf.data.images(tmp_path, size=6, validation=0, test=0), file, 40)


# Pixels to floats.


def test_normalise_in_other_types():
    normalise = nf.data.Normalise((0.5,), (2.0,), 1.0)
    x, y = normalise((np.array([[1.0, 3.0]], jnp.bfloat16), 7))
    assert (x.dtype, x.tolist(), y) == (jnp.bfloat16, [[0.25, 1.25]], 7)
    with jax.enable_x64(True):
        assert normalise(jnp.ones((2, 2))).dtype == np.float64
        assert normalise(jnp.ones((2, 2), jnp.uint8)).dtype == np.float32


def test_data_loaded_twice_compiles_once():
    x, y = picture(0, (8, 4, 4, 3)), np.zeros(8, np.int32)

    def load():
        augment = augmentation(1, True, (0.1, 0.2, 0.3), None)
        transform = nf.data.Normalise((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
        return nf.data.arrays((x, y), 4, transform=transform, augment=augment)

    compiled = jax.jit(lambda data, step: data.batch(step)[0])
    np.testing.assert_array_equal(compiled(load(), 3), compiled(load(), 3))
    assert compiled._cache_size() == 1
