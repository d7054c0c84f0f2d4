"""Images in folders, and how pixels become floats."""

import pickle
import struct
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.data_files import only_mistakes

import nnfunc as nf
from nnfunc.data.augment import build_augmentation
from nnfunc.data.prediction_inputs import load_inputs
from nnfunc.data.sources import image_files

Image = pytest.importorskip("PIL.Image")


def picture(seed, shape=(6, 8, 3)):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def folder(root, parts=("",), count=5, shape=(6, 8, 3), ending="png"):
    for place, part in enumerate(parts):
        for kind in ("ant", "bee"):
            inside = root / part / kind
            inside.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(picture(100 * place + 10 * (kind == "bee") + i, shape)).save(inside / f"{i}.{ending}")
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
    assert splits.preprocessing.describe["train"](7) == "bee/2.png"  # of all files, since the splits are cut off them
    assert pickle.loads(pickle.dumps(splits.preprocessing)).names == splits.names
    every = {part[0][i].tobytes(): part[1][i] for part in splits[:3] for i in range(len(part[1]))}
    assert every == {picture(10 * k + i).tobytes(): k for k in (0, 1) for i in range(5)}


def test_folders_for_the_splits(tmp_path):
    folder(tmp_path, ("train", "val", "test"))
    splits = nf.data.images(tmp_path)
    assert [len(part[1]) for part in splits[:3]] == [10, 10, 10]
    np.testing.assert_array_equal(splits.test[0][7], picture(212))
    (tmp_path / "val" / "bee").rename(tmp_path / "val" / "be")
    with pytest.raises(
        ValueError, match="validation has the class 'be', which train does not have; did you mean 'bee'"
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
    with pytest.raises(ValueError, match=r"large.png should be 6 x 8 .*, as .*0.png, got 12 x 16. Set size = \[6, 8\]"):
        nf.data.images(tmp_path)
    assert nf.data.images(tmp_path, size=[6, 8]).train[0].shape[1:] == (6, 8, 3)
    assert nf.data.images(tmp_path, size=4, channels=1).train[0].shape[1:] == (4, 4, 1)
    assert nf.data.images(tmp_path, size=4, layout="rows").train[0].shape[1:] == (4, 12)
    for words, more in {
        "size should be": {"size": [1, 2, 3]},
        "height should be at least 1": {"size": 0},
        "channels should be 3": {"channels": 4},
        "mean should be 3 numbers": {"mean": [1, 2]},
        "above 0": {"std": [0.0]},
        "shift should be below": {"shift": 6, "size": 6},
    }.items():
        with pytest.raises(ValueError, match=words):
            nf.data.images(tmp_path, **{"size": 4} | more)


def test_an_interpolation_that_is_none_is_no_damage(tmp_path):
    with pytest.raises(ValueError, match=r"interpolation should be one of 'bilinear', .*got 'cubic'"):
        nf.data.images(folder(tmp_path), size=4, interpolation="cubic")


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
    np.testing.assert_array_equal(splits.train[0][1], np.repeat(picture(0, (4, 4))[..., None], 3, -1))


def classes_of(root, **pictures):
    """A folder of two classes, each with the same pictures."""
    for kind in ("a", "b"):
        (root / kind).mkdir(parents=True)
        for name, image in pictures.items():
            image.save(root / kind / name.replace("_", "."))
    return root


def pixels(root, **more):
    """The images of the first class."""
    x, y = nf.data.images(root, validation=0, test=0, **more).train
    return x[y == 0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bits_count_by_their_upper_8(tmp_path, ending, channels):
    ramp = (np.arange(64) * 1024 + 513).astype(np.uint16).reshape(8, 8)
    classes_of(tmp_path, **{f"1_{ending}": Image.fromarray(ramp)})
    (found,) = pixels(tmp_path, channels=channels)
    np.testing.assert_array_equal(found[..., 0], ramp >> 8)
    Image.fromarray(ramp.astype(">u2")).save(tmp_path / "a" / "1.tif")
    np.testing.assert_array_equal(pixels(tmp_path, channels=channels)[-1, ..., 0], ramp >> 8)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int16"])
def test_integers_count_by_the_upper_8_bits_of_their_type(tmp_path, dtype):
    most = np.iinfo(dtype).max
    values = (np.arange(64, dtype=np.int64) * (most // 63)).astype(dtype).reshape(8, 8)
    file = classes_of(tmp_path, **{"1_tif": Image.new("L", (8, 8))}) / "a" / "1.tif"
    save_tiff(file, values)
    levels = values.astype(np.float64) * (256 / (most + 1))
    np.testing.assert_array_equal(pixels(tmp_path, channels=1)[0, ..., 0], np.floor(levels))
    save_tiff(file, np.arange(64, dtype=dtype).reshape(8, 8))
    if dtype != "int16":
        words = rf"1.tif: .* levels should use the range of {dtype}, up to {most}, got only 0 to 63"
        with pytest.raises(ValueError, match=words):
            pixels(tmp_path)
    if dtype != "uint32":
        save_tiff(file, (values - most // 2).astype(dtype))
        assert 0 == pixels(tmp_path).min() < pixels(tmp_path).max() == 127


def save_tiff(file, values):
    """One strip of grey levels, in a type that Pillow does not write."""
    kinds = {"u": 1, "i": 2, "f": 3}
    head = {
        256: values.shape[1],
        257: values.shape[0],
        258: 8 * values.itemsize,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: values.shape[0],
        279: values.nbytes,
        339: kinds[values.dtype.kind],
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in head.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + values.nbytes)
    file.write_bytes(start + values.tobytes() + struct.pack("<H", len(head)) + entries + bytes(4))


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floats_count_by_the_white_of_all_training_images(tmp_path, white):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    classes_of(tmp_path, **{"1_tif": Image.fromarray(ramp * white)})
    dark = Image.fromarray(ramp * white / 256)
    dark.save(tmp_path / "a" / "0.tif")
    splits = nf.data.images(tmp_path, channels=1, validation=0, test=0)
    assert splits.preprocessing.facts["white"] == white
    x = splits.train[0][..., 0]
    np.testing.assert_array_equal(x[:2], [np.rint(ramp * 255 / 256), np.rint(ramp * 255)])
    seen, _ = load_inputs(splits.preprocessing, str(tmp_path / "a" / "0.tif"))  # alone it tells no scale
    np.testing.assert_array_equal(seen[0, ..., 0], x[0])
    for values, words in {
        "above": (ramp * 70000, rf"its floats should be in \[0, {white}\], as .* got 0 to 70000"),
        "below": (ramp - 1, "got -1 to 0. Save it with 8 or 16"),
        "nan": (ramp * np.nan, "got nan to nan"),
    }.values():
        Image.fromarray(values).save(tmp_path / "a" / "1.tif")
        with pytest.raises(ValueError, match=words):
            load_inputs(splits.preprocessing, str(tmp_path / "a" / "1.tif"))
        with pytest.raises(ValueError, match=r"1.tif: its floats should be in \[0, 1\] or \["):
            pixels(tmp_path)


def test_what_is_transparent_lies_on_white(tmp_path):
    clear, half = Image.new("RGBA", (2, 2), (9, 9, 9, 0)), Image.new("LA", (2, 2), (0, 128))
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 50, 60, 70])
    classes_of(tmp_path, **{"1_png": clear, "2_png": half, "3_png": Image.new("RGBA", (2, 2), (1, 2, 3, 255))})
    palette.save(tmp_path / "a" / "4.png")
    palette.save(tmp_path / "a" / "5.png", transparency=1)
    found = pixels(tmp_path)[:, 0, 0].tolist()
    assert found == [[255] * 3, [127] * 3, [1, 2, 3], [50, 60, 70], [255] * 3]


def test_photographs_are_turned_and_the_first_frame_is_taken(tmp_path):
    wide = picture(0, (4, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright
    classes_of(tmp_path, **{"1_png": Image.fromarray(np.rot90(wide, -1))})
    Image.fromarray(wide).save(tmp_path / "a" / "2.png", exif=exif)
    grey = [Image.new("L", (4, 8), level) for level in (10, 200)]
    grey[0].save(tmp_path / "a" / "3.tif", save_all=True, append_images=grey[1:])
    found = pixels(tmp_path)
    np.testing.assert_array_equal(found[1], found[0])
    assert (found[2] == 10).all()


@pytest.mark.parametrize("train,test", [("Train", "Test"), ("TRAIN", "TESTING"), ("tRaIn", "tEsT")])
def test_splits_are_found_in_any_case(tmp_path, train, test):
    splits = nf.data.images(folder(tmp_path, (train, test)))
    assert (splits.names, len(splits.test[1])) == (("ant", "bee"), 10)


def test_folders_of_splits_that_are_not_clear(tmp_path):
    folder(tmp_path / "both", ("train", "Train"))
    with pytest.raises(ValueError, match="both has Train/ and train/ for train"):
        nf.data.images(tmp_path / "both")
    folder(tmp_path / "none", ("val", "test"))
    with pytest.raises(ValueError, match="none has test/, val/, but no train/"):
        nf.data.images(tmp_path / "none")
    folder(tmp_path / "beside", ("train", "extra"))
    with pytest.warns(UserWarning, match="beside has train/, so its folders are read as splits, and extra/ is ignored"):
        assert nf.data.images(tmp_path / "beside").names == ("ant", "bee")
    classes = folder(tmp_path / "classes", ("valid", "invalid"))  # they may be classes as well
    with pytest.warns(UserWarning, match=r"read as classes, and each has .* same names, ant/, bee/"):
        assert nf.data.images(classes).names == ("invalid", "valid")


@pytest.mark.parametrize("parts", [("trn", "tst"), ("test", "trainval"), ("fold1", "fold2")])
def test_classes_that_may_be_splits_get_a_warning(tmp_path, parts):
    with pytest.warns(UserWarning, match=r"name them train/, validation/ and test/"):
        assert nf.data.images(folder(tmp_path, parts)).names == parts


@pytest.mark.parametrize(
    "train,test",
    [
        ("train_set", "test_set"),
        ("training_set", "test_set"),
        ("train_images", "test_images"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_data", "test_data"),
        ("trainData", "evalSet"),
        ("train2017", "val2017"),
        ("my-train", "dev"),
    ],
)
def test_splits_are_found_by_a_word_of_their_name(tmp_path, train, test):
    splits = nf.data.images(folder(tmp_path, (train, test)), test=0, validation=0)
    assert splits.names == ("ant", "bee")
    assert [len(part[1]) for part in splits[:3] if part] == [10, 10]


def test_the_name_of_a_split_may_be_that_of_a_class(tmp_path):
    for names in (("train", "plane"), ("test", "train_station"), ("dev_board", "test_tube", "x")):
        root = tmp_path / names[0]
        for name in names:
            (root / name).mkdir(parents=True)
            Image.new("RGB", (3, 3)).save(root / name / "1.png")
        if names[0] == "test":
            with pytest.raises(ValueError, match=r"no folders. If it is a class .* rename it"):
                nf.data.images(root)
        else:
            found = nf.data.images(root, test=0, validation=0).names
            assert found == tuple(sorted(names))
    folder(tmp_path / "none", ("", "test"))
    with pytest.raises(ValueError, match="none has test/, but no train/"):
        nf.data.images(tmp_path / "none")
    folder(tmp_path / "steam", ("", "steam_train/deep"))
    assert nf.data.images(tmp_path / "steam").names == ("ant", "bee", "steam_train")


def test_hidden_folders_and_files_are_no_images(tmp_path):
    folder(tmp_path)
    for inside in (
        "ant/.ipynb_checkpoints",
        "ant/deep/.cache",
        "__MACOSX/ant",
        "__pycache__",
        "lost+found",
        "$Recycle.Bin",
        "bee/@eaDir",
        "bee/__MACOSX",
        "bee/folder.png",
    ):
        (tmp_path / inside).mkdir(parents=True)
        Image.new("RGB", (3, 3)).save(tmp_path / inside / ("1.png" if "folder" not in inside else ".1.png"))
    (tmp_path / "bee" / "._1.png").write_bytes(b"what macOS keeps")
    splits = nf.data.images(tmp_path, validation=0, test=0)
    assert (splits.names, splits.train[0].shape) == (("ant", "bee"), (10, 6, 8, 3))


def test_what_is_no_folder_of_images(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="should be a folder with a folder for each class"):
        nf.data.images(tmp_path / "file")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"should have a folder for each class, .* but has no folders"):
        nf.data.images(tmp_path / "none")
    (tmp_path / "none" / "cat").mkdir()
    with pytest.raises(ValueError, match="cat should contain the images of a class, but has no file"):
        nf.data.images(tmp_path / "none")


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nnfunc\[data\]'"):
        nf.data.images(tmp_path)


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    folder(tmp_path, count=8)
    state = {"now": 0, "most": 0}
    whole = image_files.open_pillow()[1].exif_transpose

    def transpose(image, **more):
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
        threading.Event().wait(0.01)
        state["now"] -= 1
        return whole(image, **more)

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", transpose)
    monkeypatch.setattr(image_files, "LARGE", 6 * 8 - 1)
    nf.data.images(tmp_path)
    assert state["most"] == 1


def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch):
    def transpose(image, **more):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", transpose)
    with pytest.raises(MemoryError, match=r"ant/0.png: reading it needs more memory than is free"):
        nf.data.images(folder(tmp_path))


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
        augment = build_augmentation(1, True, (0.1, 0.2, 0.3), None)
        transform = nf.data.Normalise((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
        return nf.data.arrays((x, y), 4, transform=transform, augment=augment)

    compiled = jax.jit(lambda data, step: data.batch(step)[0])
    np.testing.assert_array_equal(compiled(load(), 3), compiled(load(), 3))
    assert compiled._cache_size() == 1
