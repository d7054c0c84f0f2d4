"""Augmentations: by hand, against NumPy and SciPy, in expectation, and the objective of soft labels."""

import inspect
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

import nnfunc as nf
from nnfunc.data.augment import build_augmentation
from nnfunc.data.augment.mixup_cutmix import draw_symmetric_beta

LABELS = np.array([2, 0, 1, 2, 1, 0])


def picture(seed, shape):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


BYTES = picture(0, (6, 5, 4, 3))
FLOATS = (BYTES / 255).astype(np.float32)
TOKENS = np.arange(48).reshape(4, 12)

# {name: strength -> augmentation}, and the strengths "off" and "on".
IMAGES = {
    "shift": (nf.augment.shift, 0, 2),
    "crop": (lambda p: nf.augment.crop(p, mode="reflect"), 0, 2),
    "flip": (nf.augment.flip, 0.0, 0.5),
    "rotate": (nf.augment.rotate, 0.0, 40.0),
    "scale": (lambda s: nf.augment.scale(1 - s / 2, 1 + s), 0.0, 1.0),
    "cutout": (nf.augment.cutout, 0.0, 0.6),
    "brightness": (nf.augment.brightness, 0.0, 0.5),
    "contrast": (nf.augment.contrast, 0.0, 0.9),
    "noise": (nf.augment.noise, 0.0, 0.3),
    "mixup": (lambda alpha: nf.augment.mixup(alpha, 3), 0.0, 1.0),
    "cutmix": (lambda alpha: nf.augment.cutmix(alpha, 3), 0.0, 1.0),
    "sometimes": (lambda rate: nf.augment.sometimes(nf.augment.noise(0.3), rate), 0.0, 0.6),
}
OFF = {name: off for name, (_, off, _) in IMAGES.items()}
ON = {name: on for name, (_, _, on) in IMAGES.items()}


@jax.jit
def every(key, batch, strengths):
    """Every augmentation of images, of traced strengths."""
    return {name: make(strengths[name])(key, batch) for name, (make, _, _) in IMAGES.items()}


class Pair(typing.NamedTuple):
    x: typing.Any
    y: typing.Any


def several(augment, x, count=2000, key=0):
    """What becomes of one example, `count` times over, as NumPy."""
    batch = jnp.broadcast_to(jnp.asarray(x), (count, *np.shape(x)))
    return np.asarray(jax.jit(augment)(jax.random.key(key), batch))


# All of them.


@pytest.mark.parametrize("x", [FLOATS, BYTES], ids=["floats", "uint8"])
def test_strength_0_gives_the_batch_back_and_others_do_not(key, x):
    soft = np.eye(3, dtype=np.float32)[LABELS]
    for name, (images, labels) in every(key, (x, LABELS), OFF).items():
        np.testing.assert_array_equal(images, x, err_msg=name)
        assert images.dtype == x.dtype
        np.testing.assert_array_equal(labels, soft if name in ("mixup", "cutmix") else LABELS)
    changed, again = every(key, (x, LABELS), ON), every(key, (x, LABELS), ON)
    others = every(jax.random.key(1), (x, LABELS), ON)
    for name, (images, _) in changed.items():
        assert images.dtype == x.dtype
        assert np.any(images != x), name
        np.testing.assert_array_equal(images, again[name][0], err_msg=name)
        assert np.any(images != others[name][0]), name


def test_each_image_draws_its_own(key):
    same = np.broadcast_to(FLOATS[:1], FLOATS.shape) * (1 + np.arange(6)[:, None, None, None] * 0)
    for name, (images, _) in every(key, (same.astype(np.float32), LABELS), ON).items():
        distinct = len(np.unique(np.asarray(images).reshape(6, -1), axis=0))
        assert distinct > 1 or name in ("mixup", "cutmix"), name  # those mix equals


def test_types_stay_and_nothing_is_float64(key):
    text = {"token_dropout": nf.augment.token_dropout(0.5), "random_windows": nf.augment.random_windows(5)}
    with jax.enable_x64(True):
        for x in (FLOATS, BYTES, FLOATS.astype(np.float16), FLOATS.astype(jnp.bfloat16)):
            for name, (make, _, on) in IMAGES.items():
                program = jax.make_jaxpr(make(on))(key, (x, LABELS))
                assert program.out_avals[0].dtype == x.dtype, name
                assert not re.search(r"f64\[\d", str(program)), name  # jax's own bounds are f64[]
        exact = FLOATS.astype(np.float64) / 3
        for name in ("rotate", "noise"):
            np.testing.assert_array_equal(IMAGES[name][0](0.0)(key, exact), exact, err_msg=name)
    for augment in text.values():
        assert jax.eval_shape(augment, key, TOKENS.astype(np.uint16)).dtype == np.uint16


def test_plain_ones_are_values_and_tell_what_they_are():
    shift = nf.augment.shift
    assert shift(1, fill=0.5) == shift(1, fill=[0.5]) != shift(2, fill=0.5)
    assert hash(shift(1)) == hash(shift(1))
    assert nf.augment.chain(shift(1)) == nf.augment.chain(shift(1)) != nf.augment.chain()
    assert len({nf.augment.mixup(0.2, 3), nf.augment.mixup(0.2, 3), nf.augment.cutmix(0.2, 3)}) == 2
    assert repr(nf.augment.sometimes(nf.augment.noise(0.1), 0.2)) == ("sometimes(augment=noise(std=0.1), rate=0.2)")


def test_configs_find_them_by_what_they_return():
    made = [name for name in nf.augment.__all__ if inspect.isfunction(getattr(nf.augment, name))]
    for name in set(made) - {"affine"}:
        hints = typing.get_type_hints(getattr(nf.augment, name))
        assert hints["return"] is nf.augment.Augmentation, name


def test_runs_may_be_vmapped_over_strengths(key):
    """Two members of a vmap, each a scan over steps, against each alone."""

    def run(key, h):
        augment = nf.augment.chain(
            nf.augment.crop(h["padding"], mode="edge"),
            nf.augment.flip(h["flip"]),
            nf.augment.rotate(h["degrees"]),
            nf.augment.cutmix(h["alpha"], 3),
        )

        def step(total, i):
            x, y = augment(jax.random.fold_in(key, i), (FLOATS, LABELS))
            return total + x.sum() * y[0, 0], (x, y)

        return jax.lax.scan(step, jnp.zeros(()), jnp.arange(2))

    members = [
        {"padding": 1, "flip": 0.5, "degrees": 20.0, "alpha": 1.0},
        {"padding": 3, "flip": 0.0, "degrees": 0.0, "alpha": 0.0},
    ]
    keys = jnp.stack([key, jax.random.key(1)])
    stacked = jax.tree.map(lambda *v: jnp.stack([jnp.asarray(n) for n in v]), *members)
    together = jax.jit(jax.vmap(run))(keys, stacked)
    single = jax.jit(run)
    for i, member in enumerate(members):
        alone = single(keys[i], member)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5), together, alone)


@pytest.mark.parametrize("layout", ["flat", "rows"])
def test_augmentation_is_the_same_in_every_layout(key, layout):
    x = jnp.asarray(FLOATS)
    laid = x.reshape(6, -1) if layout == "flat" else x.reshape(6, 5, -1)
    wanted = build_augmentation(1, True, (0.0,), None)(key, x)
    found = build_augmentation(1, True, (0.0,), (5, 4, 3))(key, laid)
    np.testing.assert_array_equal(found, wanted.reshape(laid.shape))


def test_batches_of_every_form(key):
    flip = nf.augment.flip(1.0)
    x, y = jnp.asarray(FLOATS), jnp.asarray(LABELS)
    flipped = x[:, :, ::-1]
    for batch, wanted in [
        (x, flipped),
        ((x, y), (flipped, y)),
        ([x, y, y], [flipped, y, y]),
        (Pair(x, y), Pair(flipped, y)),
        ({"x": x, "lengths": y}, {"x": flipped, "lengths": y}),
        (({"x": x},), ({"x": flipped},)),
        (nf.RecurrentInput(x, y), nf.RecurrentInput(flipped, y)),
        ((nf.RecurrentInput(x, y), y), (nf.RecurrentInput(flipped, y), y)),
    ]:
        found = flip(key, batch)
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


# Moves.


def all_windows(image, pad, **how):
    """{the image moved: move}, by numpy.pad and slicing."""
    wide = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), **how)
    moves = range(2 * pad + 1)
    height, width = image.shape[:2]
    return {wide[a : a + height, b : b + width].tobytes(): (a, b) for a in moves for b in moves}


@pytest.mark.parametrize("pixels,fill", [(1, (0.0,)), (2, (-1.0, 0.5, 7.0))])
def test_shift_moves_each_image_by_itself_and_equally_often(key, pixels, fill):
    channels = len(fill)
    image = np.arange(20.0 * channels).reshape(4, 5, channels).astype(np.float32)
    layers = [all_windows(image[..., c : c + 1], pixels, constant_values=f) for c, f in enumerate(fill)]
    count = 2500
    augment = jax.jit(nf.data.shift(pixels, fill=fill))
    moved, labels = augment(key, (jnp.tile(image, (count, 1, 1, 1)), jnp.arange(count)))
    np.testing.assert_array_equal(labels, np.arange(count))
    moved = np.asarray(moved)
    moves = [[layers[c][one[..., c : c + 1].tobytes()] for c in range(channels)] for one in moved]
    assert all(len(set(each)) == 1 for each in moves)
    seen = np.unique([10 * a + b for (a, b), *_ in moves], return_counts=True)[1]
    assert len(seen) == (2 * pixels + 1) ** 2
    expected = count / len(seen)
    assert abs(seen - expected).max() < 5 * expected**0.5


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("side", [4, 1])
def test_crop_is_a_window_of_numpy_pad_however_far(key, mode, side):
    image = picture(3, (side, 3, 1))
    more = {"constant_values": 7} if mode == "constant" else {}
    traced = jax.jit(lambda x, pad: nf.augment.crop(pad, mode=mode, fill=7)(key, x))
    for pad in (1, 2, 8):
        wide = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode, **more)
        corners = np.asarray(jax.random.randint(key, (60, 2), 0, 2 * pad + 1))
        wanted = [wide[a : a + side, b : b + 3] for a, b in corners]
        plain = several(nf.augment.crop(pad, mode=mode, fill=7), image, 60)
        np.testing.assert_array_equal(plain, wanted)
        moved = traced(np.broadcast_to(image, plain.shape), np.float32(pad))
        np.testing.assert_array_equal(moved, plain)


def test_flip_mirrors_half(key):
    image = np.arange(24.0).reshape(4, 2, 3)
    for vertical, mirror in ((False, image[:, ::-1]), (True, image[::-1])):
        turned = several(nf.augment.flip(0.3, vertical=vertical), image, 1000)
        same = (turned == image).all((1, 2, 3))
        assert ((turned == mirror).all((1, 2, 3)) | same).all()
        assert 640 < same.sum() < 760
    assert nf.augment.flip() == nf.augment.flip(0.5)


# Between pixels, against scipy.ndimage.

SCIPY = {"order": 1, "mode": "grid-constant"}


def test_affine_is_scipys():
    random = np.random.RandomState(0)
    matrix = (np.eye(2) + random.uniform(-1, 1, (6, 2, 2))).astype(np.float32)
    offset = random.uniform(-3, 3, (6, 2)).astype(np.float32)
    fill = (0.3, -1.0, 2.0)
    found = np.asarray(nf.augment.affine(FLOATS, matrix, offset, fill=fill))
    single = np.asarray(nf.augment.affine(FLOATS, matrix[0], offset[0], fill=0.3))
    whole = np.asarray(nf.augment.affine(BYTES, matrix, offset, fill=9))
    for i in range(6):
        for c in range(3):

            def theirs(x, i=i, c=c, at=None, cval=0.0):
                at = i if at is None else at
                x = x[i, ..., c].astype(np.float64)
                return scipy.ndimage.affine_transform(x, matrix[at], offset[at], cval=cval, **SCIPY)

            np.testing.assert_allclose(found[i, ..., c], theirs(FLOATS, cval=fill[c]), atol=2e-6)
            np.testing.assert_allclose(single[i, ..., c], theirs(FLOATS, at=0, cval=0.3), atol=2e-6)
            assert abs(whole[i, ..., c] - theirs(BYTES, cval=9)).max() < 0.501


def test_rotate_and_scale_are_scipys(key):
    angle = 50 * (2 * jax.random.uniform(key, (6,)) - 1)
    factor = np.exp(np.log(0.5) + jax.random.uniform(key, (6,)) * np.log(4))
    x = picture(5, (6, 9, 8, 1)).astype(np.float32)
    turned = jax.jit(nf.augment.rotate(50.0, fill=3.0))(key, x)
    zoomed = jax.jit(nf.augment.scale(0.5, 2.0, fill=3.0))(key, x)
    middle = np.array([4.0, 3.5])
    for i in range(6):
        image = x[i, ..., 0].astype(np.float64)
        wanted = scipy.ndimage.rotate(image, float(angle[i]), reshape=False, cval=3.0, **SCIPY)
        np.testing.assert_allclose(turned[i, ..., 0], wanted, atol=1e-3)
        inverse = np.full(2, 1 / factor[i])
        wanted = scipy.ndimage.affine_transform(image, inverse, middle - middle / factor[i], cval=3.0, **SCIPY)
        np.testing.assert_allclose(zoomed[i, ..., 0], wanted, atol=1e-3)
    assert float(angle.min()) < 0 < float(angle.max())


def test_rotate_turns_evenly_about_the_middle():
    dot = np.zeros((9, 9, 1), np.float32)
    dot[4, 4] = 1
    np.testing.assert_allclose(several(nf.augment.rotate(180), dot, 20)[:, 4, 4], 1, atol=1e-5)
    slope = np.broadcast_to(np.arange(-4.0, 5)[:, None, None], (9, 9, 1)).astype(np.float32)
    turned = several(nf.augment.rotate(180), slope, 4000)
    cos = turned[:, 5, 4, 0]  # the slope, one pixel below the middle
    assert abs(cos.mean()) < 0.06
    assert abs((cos**2).mean() - 0.5) < 0.03


# Light.


def test_cutout_hides_boxes_as_often_as_it_should():
    size, height, width = 0.5, 6, 8
    hidden = several(nf.augment.cutout(size), np.ones((height, width, 1), np.float32), 4000)[..., 0] == 0
    rows, columns = hidden.any(2), hidden.any(1)
    np.testing.assert_array_equal(hidden, rows[:, :, None] & columns[:, None, :])  # a box each
    assert rows.sum(1).max() == 3
    assert columns.sum(1).max() == 4

    def chance(side):  # that the middle, uniform in the side, is within half a length of the pixel
        place, half = np.arange(side) + 0.5, size * side / 2
        return (np.minimum(place + half, side) - np.maximum(place - half, 0)) / side

    wanted = chance(height)[:, None] * chance(width)
    np.testing.assert_allclose(hidden.mean(0), wanted, atol=0.04)
    twice = several(nf.augment.cutout(size, count=2), np.ones((height, width, 1), np.float32), 4000)
    np.testing.assert_allclose((twice[..., 0] == 0).mean(0), 1 - (1 - wanted) ** 2, atol=0.04)
    none = nf.augment.cutout(size, count=0)
    np.testing.assert_array_equal(several(none, FLOATS[0], 2)[0], FLOATS[0])
    filled = several(nf.augment.cutout(1.0, fill=(1, 2, 3)), BYTES[0] // 2 + 100, 30)
    assert {tuple(pixel) for pixel in filled.reshape(-1, 3) if pixel.max() < 100} == {(1, 2, 3)}


def test_brightness_adds_one_number_to_an_image():
    image = np.array([0.0, 1.0, 5.0], np.float32).reshape(1, 3, 1)
    added = several(nf.augment.brightness(0.4), image)[..., 0] - image[..., 0]
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :, :1], added.shape), atol=1e-6)
    delta = added[:, 0, 0]
    assert scipy.stats.kstest(delta, "uniform", (-0.4, 0.8)).pvalue > 1e-3
    bright = several(nf.augment.brightness(0.4), np.full((1, 1, 1), 250, np.uint8)).astype(int)
    assert (bright.min(), bright.max()) == (148, 255)  # 250 - 102, and no higher than white
    assert 0.4 < (bright == 255).mean() < 0.56


def test_contrast_stretches_about_the_mean_of_each_channel():
    image = np.stack([[0.0, 1.0, 5.0], [3.0, 3.0, 3.0]], -1).astype(np.float32)[None]
    y = several(nf.augment.contrast(0.5), image)
    np.testing.assert_array_equal(y[..., 1], 3)
    factor = (y[:, 0, 2, 0] - 2) / 3
    wanted = 2 + factor[:, None] * np.array([-2.0, -1.0, 3.0])
    np.testing.assert_allclose(y[:, 0, :, 0], wanted, atol=1e-5)
    assert scipy.stats.kstest(factor, "uniform", (0.5, 1.0)).pvalue > 1e-3


def test_noise_is_normal_of_its_deviation():
    y = several(nf.augment.noise(0.3), np.full(3, 2.0, np.float32))
    standard = (y.ravel() - 2.0) / 0.3
    assert scipy.stats.kstest(standard, "norm").pvalue > 1e-3
    y = several(nf.augment.noise(0.1), np.full((1, 1, 1), 128, np.uint8)).astype(float)
    assert abs(y.std() - 25.5) < 1.5
    assert abs(y.mean() - 128) < 2


# Mixing.


def test_beta_is_scipys_at_every_alpha(key):
    alphas = np.array([0.0, 0.02, 0.2, 1.0, 1.7, 40.0], np.float32)
    drawn = jax.jit(jax.vmap(lambda alpha: draw_symmetric_beta(key, alpha, 4000)))(alphas)
    np.testing.assert_array_equal(drawn[0], 1)
    for alpha, share in zip(alphas[1:], np.asarray(drawn[1:], np.float64), strict=True):
        assert ((share >= 0) & (share <= 1)).all()
        assert abs(share.mean() - 0.5) < 4 * (1 / (4 * (2 * alpha + 1)) / 4000) ** 0.5
        inside = np.linspace(0.001, 0.999, 200)  # nearer to the ends float32 has steps
        known = scipy.stats.beta(alpha, alpha).cdf(inside)
        assert abs((share[:, None] <= inside).mean(0) - known).max() < 1.95 / 4000**0.5


def test_mixup_mixes_labels_as_it_mixes_pixels(key):
    count = 40
    x, labels = np.eye(count, dtype=np.float32), np.arange(count)
    mixup = jax.jit(nf.augment.mixup(1.0, count))
    mixed, soft = mixup(key, (x, labels))
    np.testing.assert_array_equal(mixed, soft)  # the pixels are the labels
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    other = np.asarray(mixed) * (1 - np.eye(count))
    assert ((other > 0).sum(0) <= 1).all()  # each is another's partner once: a permutation
    assert ((other > 0).sum(1) <= 1).all()
    assert len(np.unique(np.diag(mixed).round(5))) > count / 2  # each has a share of its own
    again, softer = mixup(key, (x, jnp.asarray(soft)))
    np.testing.assert_array_equal(again, mixed)
    share = np.asarray(mixed)  # the same mixing once more, as a matrix
    np.testing.assert_allclose(softer, share @ np.asarray(soft), atol=1e-6)


def test_mixup_of_bytes_rounds(key):
    count = 8
    x = np.eye(count, dtype=np.uint8) * 200
    mixed, soft = jax.jit(nf.augment.mixup(1.0, count))(key, (x, np.arange(count)))
    assert mixed.dtype == np.uint8
    assert abs(np.asarray(mixed, float) - 200 * np.asarray(soft)).max() <= 0.501


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_cutmix_mixes_labels_by_the_pasted_area_exactly(key, kind):
    count, height, width = 60, 7, 9
    x = np.broadcast_to(np.arange(count)[:, None, None, None], (count, height, width, 2)).astype(kind)
    mixed, soft = (np.asarray(v) for v in jax.jit(nf.augment.cutmix(1.0, count))(key, (x, np.arange(count))))
    pasted = mixed[..., 0] != x[..., 0]
    np.testing.assert_array_equal(pasted, mixed[..., 1] != x[..., 1])
    np.testing.assert_array_equal(pasted, pasted.any(2)[:, :, None] & pasted.any(1)[:, None])
    others = [set(image[part].ravel().tolist()) for image, part in zip(mixed[..., 0], pasted, strict=True)]
    assert all(len(one) <= 1 for one in others)
    partner = np.array([int(*one) if one else i for i, one in enumerate(others)])
    area, own = pasted.sum((1, 2)), np.arange(count)
    wanted = np.zeros((count, count))
    wanted[own, own] = height * width - area
    wanted[own, partner] += area
    np.testing.assert_allclose(soft * (height * width), wanted, atol=2e-5)  # whole pixels
    assert len(np.unique(area)) > 10
    assert len(set(partner[area > 0])) == (area > 0).sum()


def test_cutmix_takes_the_share_that_beta_says():
    """A box in the middle of its range of sizes: its area without an edge in the way is 1 - share."""
    cutmix = jax.jit(nf.augment.cutmix(1e4, 2))  # Beta is about 1/2: sides of 0.707
    x = jnp.zeros((500, 20, 20, 1)).at[:250].set(1.0)
    _, soft = cutmix(jax.random.key(3), (x, jnp.arange(500) // 250))
    largest = 1 - np.asarray(soft).max(1)
    assert abs(largest.max() - (14 / 20) ** 2) < 0.03


def test_sometimes_acts_on_its_share_of_examples(key):
    x = np.zeros((3000, 1, 1, 1), np.float32)
    y = np.asarray(jax.jit(nf.augment.sometimes(nf.augment.brightness(1.0), 0.3))(key, x))
    assert abs((y != 0).mean() - 0.3) < 0.04
    mixup = jax.jit(nf.augment.sometimes(nf.augment.mixup(1.0, 6), 0.5))
    mixed, soft = mixup(key, (np.eye(6, dtype=np.float32), np.arange(6)))
    np.testing.assert_array_equal(mixed, soft)
    assert 0 < (np.asarray(mixed) == np.eye(6)).all(1).sum() < 6


# Text.


def test_token_dropout_replaces_its_share_of_x_only(key):
    tokens = np.arange(5000).reshape(50, 100) + 1
    dropped, following = jax.jit(nf.augment.token_dropout(0.2, 0))(key, (tokens, tokens + 1))
    np.testing.assert_array_equal(following, tokens + 1)
    gone = np.asarray(dropped) == 0
    np.testing.assert_array_equal(np.where(gone, tokens, dropped), tokens)
    assert abs(gone.mean() - 0.2) < 0.03
    batch = {"x": tokens, "lengths": np.full(50, 100)}
    dropout = jax.jit(lambda rate: nf.augment.token_dropout(rate, 7)(key, batch)["x"])
    np.testing.assert_array_equal(dropout(1.0), 7)
    np.testing.assert_array_equal(dropout(0.0), tokens)


def test_random_windows_cut_x_and_y_at_the_same_places(key):
    windows = nf.augment.random_windows(5)
    rows = np.broadcast_to(np.arange(12), (3000, 12))
    x, y, labels = jax.jit(windows)(key, (rows, rows + 1, rows[:, 0]))
    np.testing.assert_array_equal(x, np.asarray(x)[:, :1] + np.arange(5))
    np.testing.assert_array_equal(y, x + 1)
    assert labels.shape == (3000,)
    seen = np.bincount(np.asarray(x)[:, 0])
    assert len(seen) == 8
    assert abs(seen - 375).max() < 5 * 375**0.5
    np.testing.assert_array_equal(nf.augment.random_windows(12)(key, TOKENS), TOKENS)
    values = np.ones((4, 12, 3), np.float32)
    shapes = jax.eval_shape(windows, key, (values, values))
    assert [part.shape for part in shapes] == [(4, 5, 3), (4, 5, 3)]
    soft = np.ones((4, 12), np.float32) / 12  # as many classes as steps
    assert jax.eval_shape(windows, key, (TOKENS, soft))[1].shape == (4, 12)


def test_random_windows_stay_among_the_real_steps(key):
    lengths = np.array([12, 6, 5, 3] * 50)
    x = np.where(np.arange(12) < lengths[:, None], np.arange(12) + 1, 0)
    windows = jax.jit(nf.augment.random_windows(5))
    inputs, _ = windows(key, (nf.RecurrentInput(x, lengths), lengths))
    found = np.asarray(inputs.x)
    np.testing.assert_array_equal(inputs.lengths, np.minimum(lengths, 5))
    np.testing.assert_array_equal(windows(key, nf.RecurrentInput(x, lengths)).x, found)
    np.testing.assert_array_equal(windows(key, {"x": x, "lengths": lengths})["x"], found)
    np.testing.assert_array_equal((found > 0).sum(1), np.minimum(lengths, 5))
    assert {int(v) for v in found[1::4, 0]} == {1, 2}


# Errors.


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: nf.augment.shift(-1), "shift: pixels should be at least 0, got -1"),
        (lambda: nf.augment.flip(shape=(2, 2)), "flip: shape should be"),
        (lambda: nf.augment.flip(1.5), r"rate should be in \[0, 1\], got 1.5"),
        (lambda: nf.augment.crop(2, mode="mirror"), "mode should be one of 'constant', 'reflect', 'edge'"),
        (lambda: nf.augment.rotate(200), r"degrees should be in \[0, 180\]"),
        (lambda: nf.augment.scale(1.2, 0.8), "smallest should be at most largest"),
        (lambda: nf.augment.scale(0.0, 1.0), "smallest should be above 0"),
        (lambda: nf.augment.cutout(1.1), r"size should be in \[0, 1\]"),
        (lambda: nf.augment.cutout(0.5, count=-1), "count should be at least 0"),
        (lambda: nf.augment.contrast(2.0), r"amount should be in \[0, 1\]"),
        (lambda: nf.augment.mixup(-0.1, 3), "alpha should be at least 0"),
        (lambda: nf.augment.cutmix(1.0, 0), "classes should be at least 1"),
        (lambda: nf.augment.random_windows(0), "length should be at least 1"),
    ],
)
def test_numbers_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "augment, batch, words",
    [
        (
            nf.augment.shift(1),
            np.ones((2, 3)),
            r"shift: x should be images .*got shape \(2, 3\). For another layout, pass shape",
        ),
        (
            nf.augment.rotate(1, shape=(2, 2, 1)),
            np.ones((2, 5)),
            r"shape \(2, 2, 1\), 4 numbers each, got shape \(2, 5\)",
        ),
        (nf.augment.noise(0.1), np.ones((2, 3), np.int32), "noise: x should hold floats, got int32. Images are uint8"),
        (nf.augment.shift(1, fill=(1, 2)), FLOATS, "fill should be one number, or one for each of 3 channels, got 2"),
        (nf.augment.rotate(9, fill=0.5), BYTES, "fill should be an integer from 0 to 255 for uint8 images, got 0.5"),
        (nf.augment.mixup(1.0, 3), FLOATS, r"mixup: a batch should be a pair \(x, labels\)"),
        (nf.augment.mixup(1.0, 2), (FLOATS, LABELS), "labels should be from 0 to 1, got 2. Set classes"),
        (nf.augment.cutmix(1.0, 4), (FLOATS, FLOATS[:, 0, 0]), r"y should be labels \[batch\], or class probabilities"),
        (nf.augment.token_dropout(0.1), FLOATS, "token_dropout: x should hold integers"),
        (nf.augment.random_windows(13), TOKENS, r"at least 13 steps, got shape \(4, 12\)"),
        (
            nf.augment.sometimes(nf.augment.random_windows(3)),
            TOKENS,
            r"keep shape and dtype, int32\[4, 12\], got int32\[4, 3\]",
        ),
        (nf.augment.flip(), {"y": FLOATS}, r"a batch should be \(x, y\) or x, where x is an array"),
        (
            nf.augment.mixup(0.4, 3),
            ({"numbers": FLOATS, "categories": FLOATS}, LABELS),
            "read them as one_hot, or leave",
        ),
    ],
)
def test_batches_that_do_not_fit(key, augment, batch, words):
    with pytest.raises((ValueError, TypeError), match=words):
        augment(key, batch)


def test_other_mistakes(key):
    with pytest.raises(TypeError, match="flip: key should be one random key"):
        nf.augment.flip()(0, FLOATS)
    with pytest.raises(TypeError, match="chain: each augmentation should be a function"):
        nf.augment.chain("flip")
    with pytest.raises(ValueError, match=r"matrix should have shape \(2, 2\), or \(6, 2, 2\) for 6 images"):
        nf.augment.affine(FLOATS, np.ones((3, 3), np.float32), np.ones(2, np.float32))
    with pytest.raises(TypeError, match="offset should hold floats"):
        nf.augment.affine(FLOATS, np.eye(2, dtype=np.float32), np.ones(2, np.int32))


def test_a_traced_label_that_is_no_class_gives_nan(key):
    _, soft = jax.jit(nf.augment.mixup(0.0, 2))(key, (FLOATS, LABELS))
    np.testing.assert_array_equal(np.isnan(soft).any(1), LABELS == 2)


# The objectives of soft labels.

LOGITS = np.sin(np.arange(18.0)).reshape(6, 3).astype(np.float32)


def judged(objective, labels):
    return jax.jit(lambda x, labels: objective(lambda x: x, (x, labels)))(LOGITS, labels)


def test_soft_labels_of_one_class_are_that_label():
    soft = np.eye(3, dtype=np.float32)[LABELS]
    weights = jnp.array([0.5, 1.0, 2.0])
    for objective in (
        nf.classification(),
        nf.classification(label_smoothing=0.2, weight=weights),
        nf.language_modelling(label_smoothing=0.1),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), judged(objective, soft), judged(objective, LABELS)
        )


def test_soft_labels_are_judged_by_their_shares():
    soft = np.array([[0.75, 0.25, 0.0]] * 3 + [[0.0, 0.4, 0.6]] * 3, np.float32)
    loss, metrics = judged(nf.classification(label_smoothing=0.1), soft)
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    np.testing.assert_allclose(loss, -((0.9 * soft + 0.1 / 3) * log_p).sum(1).mean(), rtol=1e-6)
    right = LOGITS.argmax(1) == np.array([0, 0, 0, 2, 2, 2])
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-6)


def test_soft_labels_where_they_do_not_fit():
    soft = np.eye(3, dtype=np.float32)[LABELS]
    with pytest.raises(ValueError, match="class indices together with gamma: the focal loss takes no probabilities"):
        judged(nf.classification(gamma=2.0), soft)
    with pytest.raises(TypeError, match="labels should hold integers, got float32"):
        judged(nf.classification(), soft[:, 0])
    with pytest.raises(ValueError, match=r"logits \(6, 3\) and probabilities \(6, 2\)"):
        judged(nf.classification(), soft[:, :2])
    look = nf.classification().inspect
    look(jnp.zeros((6, 3)), (LOGITS, soft))
    with pytest.raises(ValueError, match=r"add up to 1, got .* at index 0 \(6 such labels\)"):
        look(jnp.zeros((6, 3)), (LOGITS, 2 * soft))
    with pytest.raises(ValueError, match=r"probabilities of the model's 3 outputs, got shape \(6, 2\)"):
        look(jnp.zeros((6, 3)), (LOGITS, soft[:, :2]))
    with pytest.raises(TypeError, match="labels should hold integers"):
        nf.classification(gamma=1.0).inspect(jnp.zeros((6, 3)), (LOGITS, soft))


def test_a_run_with_cutmix_learns(key):
    x, labels = np.repeat([0.0, 1.0], 32).astype(np.float32), np.repeat([0, 1], 32)
    x = np.broadcast_to(x[:, None, None, None], (64, 4, 4, 1))
    data = nf.data.arrays((x, labels), 16, augment=nf.augment.cutmix(1.0, 2))
    model = nf.serial(nf.flatten, nf.linear(16, 2))
    task = nf.Task(model, nf.classification(), nf.optimizers.sgd(0.5))
    init, step = nf.trainer(lambda h: task)

    @jax.jit
    def run(data):
        state = init(None, key)
        return jax.lax.fori_loop(0, 100, lambda i, s: step(None, s, data.batch(i))[0], state)

    grey = jnp.linspace(0.0, 1.0, 5)[:, None] * jnp.ones(16)
    shares = jax.nn.softmax(model.apply(run(data).params, grey[:, :, None]))[:, 1]
    np.testing.assert_allclose(shares, [0, 0.25, 0.5, 0.75, 1], atol=0.15)  # it tells the area
