"""Losses against PyTorch (tests/golden/losses.json, made by scripts/golden/losses.py), SciPy,
scikit-learn, and what must hold at the edges: +-1e4, exactly 0 and 1, traced numbers, bad labels."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from helpers.project import GOLDEN as GOLDEN_FILES

from nnfunc import losses

GOLDEN = json.loads((GOLDEN_FILES / "losses.json").read_text())["cases"]
TOLERANCE = {"float64": dict(rtol=1e-11, atol=1e-12), "float32": dict(rtol=2e-5, atol=2e-6)}

NASTY = jnp.array(
    [[1e4, -1e4, 0.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4], [0.0, 0.0, 0.0], [-1e4, -1e4, 1e4]]
)
LABELS = jnp.array([1, 0, 2, 1, 2, 2])
ONE_HOT = jnp.eye(3)[LABELS]
LINE = jnp.array([-1e4, -50.0, -1.0, 0.0, 1.0, 50.0, 1e4])
BITS = jnp.array([0, 1, 0, 1, 0, 1, 1])
P = jnp.array([0.0, 1.0, 0.0, 1.0, 0.5, 1e-7, 1 - 1e-7])
VECTORS = jnp.array([[0.0, 0.0], [3.0, 4.0], [1e4, -1e4]])

# name: the prediction, and the target or targets
INPUTS = {
    "cross_entropy": (NASTY, LABELS),
    "cross_entropy_dense": (NASTY, ONE_HOT),
    "kl_divergence": (NASTY, ONE_HOT),
    "focal": (NASTY, LABELS),
    "binary_cross_entropy": (P, BITS),
    "binary_cross_entropy_with_logits": (LINE, BITS),
    "binary_focal": (LINE, BITS),
    "mse": (LINE, LINE[::-1]),
    "mae": (LINE, LINE[::-1]),
    "huber": (LINE, LINE[::-1]),
    "smooth_l1": (LINE, LINE[::-1]),
    "hinge": (LINE, 2 * BITS - 1),
    "poisson_nll": (LINE, BITS),
    "cosine_distance": (VECTORS, VECTORS[::-1]),
    "triplet": (VECTORS, VECTORS, VECTORS[::-1]),
    "nll": (NASTY, LABELS),
    "ctc": (NASTY[:, None], 1 + LABELS[:, None] % 2),
    "soft_margin": (LINE, 2 * BITS - 1),
    "hinge_embedding": (LINE, 2 * BITS - 1),
    "margin_ranking": (LINE, LINE[::-1], 2 * BITS - 1),
    "multiclass_margin": (NASTY, LABELS),
    "multilabel_margin": (NASTY, ONE_HOT),
    "cosine_embedding": (VECTORS, VECTORS[::-1], jnp.array([1, -1, -1])),
}

# name and argument: values it may be swept over, "off" among them
NUMBERS = [
    ("cross_entropy", "label_smoothing", [0.0, 0.1, 1.0]),
    ("cross_entropy_dense", "label_smoothing", [0.0, 0.1, 1.0]),
    ("focal", "gamma", [0.0, 0.5, 2.0]),
    ("focal", "alpha", [0.25, 1.0]),
    ("binary_cross_entropy", "label_smoothing", [0.0, 0.1]),
    ("binary_cross_entropy_with_logits", "label_smoothing", [0.0, 0.1]),
    ("binary_cross_entropy_with_logits", "pos_weight", [0.0, 3.0]),
    ("binary_focal", "gamma", [0.0, 0.5, 2.0]),
    ("binary_focal", "alpha", [0.0, 0.25]),
    ("huber", "delta", [0.5, 2.0, jnp.inf]),
    ("smooth_l1", "beta", [0.0, 0.5, 2.0]),
    ("hinge", "margin", [0.0, 1.0]),
    ("cosine_distance", "eps", [1e-8, 1e-2]),
    ("triplet", "margin", [0.0, 1.0]),
    ("triplet", "p", [1.0, 2.0, 3.5]),
    ("triplet", "eps", [0.0, 1e-3]),
    ("hinge_embedding", "margin", [0.0, 1.0]),
    ("margin_ranking", "margin", [0.0, 1.0]),
    ("multiclass_margin", "margin", [0.0, 1.0]),
    ("multiclass_margin", "p", [1.0, 1.5]),
    ("multilabel_margin", "margin", [0.0, 1.0]),
    ("cosine_embedding", "margin", [-0.5, 0.5]),
    ("poisson_nll", "eps", [0.0, 1e-3]),
]


def call(name, *args, **kwargs):
    if name == "gaussian_nll":  # the one whose prediction is a pair
        mean, variance, target = args
        return losses.gaussian_nll((mean, variance), target, **kwargs)
    arrays = {key: np.array(value) for key, value in kwargs.items() if key.endswith("_lengths")}
    return getattr(losses, name)(*args, **kwargs | arrays)


def label(case):
    return "-".join([case["name"], *(f"{name}={value}" for name, value in case["kwargs"].items())])


def arrays(case, dtype):
    """The arguments of a golden case."""
    whole = [isinstance(np.array(arg).flat[0].item(), int) for arg in case["args"]]
    types = [np.int32 if is_whole else dtype for is_whole in whole]
    return [np.array(arg, type) for arg, type in zip(case["args"], types, strict=True)]


def value_and_gradients(case, dtype, args):
    def loss(*args):
        value = call(case["name"], *args, **case["kwargs"])
        return value.sum(), value

    places = tuple(int(i) for i in case[dtype]["gradients"])
    gradients, value = jax.grad(loss, argnums=places, has_aux=True)(*args)
    return value, gradients


@pytest.fixture(scope="module", params=["float64", "float32"])
def computed(request):
    """The type, and of every golden case nnfunc's value and gradients, compiled as one program."""
    dtype = request.param
    cases = [case for case in GOLDEN if dtype in case]

    def everything(inputs):
        pairs = zip(cases, inputs, strict=True)
        return [value_and_gradients(case, dtype, args) for case, args in pairs]

    with jax.enable_x64(dtype == "float64"):
        found = jax.jit(everything)([arrays(case, dtype) for case in cases])
    return dtype, {GOLDEN.index(case): result for case, result in zip(cases, found, strict=True)}


@pytest.mark.parametrize("place", range(len(GOLDEN)), ids=lambda i: label(GOLDEN[i]))
def test_equal_to_pytorch(place, computed):
    dtype, found = computed
    if place not in found:
        assert dtype == "float32"  # the formula, in float64 only
        return
    value, gradients = found[place]
    golden = GOLDEN[place][dtype]
    assert value.dtype == dtype
    np.testing.assert_allclose(value, golden["value"], **TOLERANCE[dtype])
    for gradient, expected in zip(gradients, golden["gradients"].values(), strict=True):
        np.testing.assert_allclose(gradient, expected, **TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_finite_in_value_and_gradient_and_float32(name):
    first, *targets = INPUTS[name]
    types = [jnp.float32, jnp.float16, jnp.bfloat16]

    def loss(prediction):
        value = call(name, prediction, *targets)
        return value.sum(), value

    found = jax.jit(lambda *xs: [jax.grad(loss, has_aux=True)(x) for x in xs])(
        *(first.astype(dtype) for dtype in types)
    )
    for dtype, (gradient, value) in zip(types, found, strict=True):
        assert value.dtype == jnp.float32
        assert gradient.dtype == dtype
        assert np.isfinite(value).all(), value
        if (name, dtype) != ("poisson_nll", jnp.float16):  # the slope is e^60 there: no float16
            assert np.isfinite(np.asarray(gradient, np.float32)).all(), gradient


@pytest.mark.slow
@pytest.mark.parametrize("name,argument,values", NUMBERS)
def test_numbers_may_be_traced(name, argument, values):
    """Value and gradient under vmap equal those of plain floats, and stay finite: so does the
    gradient by the number itself."""

    def loss(prediction, number):
        return call(name, prediction, *INPUTS[name][1:], **{argument: number}).sum()

    @jax.jit
    def swept_and_plain(prediction, numbers):
        both = jax.value_and_grad(loss, argnums=(0, 1))
        swept = jax.vmap(both, (None, 0))(prediction, numbers)
        return swept, [jax.value_and_grad(loss)(prediction, number) for number in values]

    swept, plain = swept_and_plain(INPUTS[name][0], jnp.array(values))
    value, (gradient, by_number) = swept
    for i, (plain_value, plain_gradient) in enumerate(plain):
        np.testing.assert_allclose(value[i], plain_value, rtol=1e-6)
        np.testing.assert_allclose(gradient[i], plain_gradient, rtol=1e-5, atol=1e-7)
    for result in (value, gradient, by_number):
        assert np.isfinite(result).all(), result


def test_numbers_of_another_type_are_taken():
    """Float32 numbers beside float64 logits, under strict promotion; integers; lists."""
    with jax.enable_x64(True):
        logits, labels, number = np.zeros((2, 3)), np.array([0, 1]), np.float32(0.5)
        smoothed = lambda x, s: losses.cross_entropy(x, labels, label_smoothing=s)
        focal = lambda x, s: losses.focal(x, labels, gamma=s, alpha=s)
        for loss in (smoothed, focal):
            assert jax.eval_shape(loss, logits, number).dtype == jnp.float64
    logits, labels = np.zeros((2, 3), np.float32), np.array([0, 1])
    assert jax.eval_shape(lambda: losses.focal(logits, labels, gamma=2)).dtype == jnp.float32
    loss = jax.jit(lambda: losses.cross_entropy(logits, labels, weight=[1, 2, 3]))()
    np.testing.assert_allclose(loss, np.log(3) * np.array([1, 2]), rtol=1e-6)


def test_cross_entropy_of_one_hot_targets_is_that_of_labels():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(2, 4, 5)).astype(np.float32)
    labels = draw.integers(0, 5, size=(2, 4))
    one_hot = np.eye(5, dtype=np.float32)[labels]
    value = jax.jit(partial(losses.cross_entropy, label_smoothing=0.1))(logits, labels)
    dense = jax.jit(partial(losses.cross_entropy_dense, label_smoothing=0.1))(logits, one_hot)
    np.testing.assert_allclose(value, dense, rtol=1e-5)


def test_focal_without_gamma_is_cross_entropy():
    focal = jax.jit(partial(losses.focal, gamma=0.0))(NASTY, LABELS)
    expected = jax.jit(losses.cross_entropy)(NASTY, LABELS)
    np.testing.assert_allclose(focal, expected, rtol=1e-6)
    binary = jax.jit(partial(losses.binary_focal, gamma=0.0))(LINE, BITS)
    expected = jax.jit(losses.binary_cross_entropy_with_logits)(LINE, BITS)
    np.testing.assert_allclose(binary, expected, rtol=1e-6)


def test_focal_keeps_its_digits_where_the_class_is_sure():
    """By hand: p = 1 / (1 + e^-30) rounds to 1, and the loss is e^-30 ** (gamma + 1)."""
    expected = np.exp(-30.0 * 1.5)
    value = losses.binary_focal(jnp.array(30.0), jnp.array(1), gamma=0.5)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=0)


def test_switched_off_classes_cost_nothing():
    logits, labels = jnp.array([[0.0, 0.0, -jnp.inf]]), jnp.array([1])
    dense = jnp.array([[0.5, 0.5, 0.0]])
    for loss in (
        lambda x: losses.cross_entropy(x, labels).sum(),
        lambda x: losses.cross_entropy(x, labels, weight=jnp.array([1.0, 1.0, 0.0])).sum(),
        lambda x: losses.cross_entropy_dense(x, dense).sum(),
        lambda x: losses.focal(x, labels, gamma=0.0).sum(),
    ):
        value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
        np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
        assert np.isfinite(gradient).all()
    kl = lambda x: losses.kl_divergence(x, dense).sum()
    value, gradient = jax.jit(jax.value_and_grad(kl))(logits)
    np.testing.assert_allclose(value, 0, atol=1e-7)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32])
def test_a_label_that_is_no_class_gives_nan(loss, dtype):
    strange = [-1, -100] if np.issubdtype(dtype, np.signedinteger) else [3, 100]
    labels = np.array([0, 2, 3, 100, *strange], dtype)
    value = jax.jit(loss)(np.zeros((6, 3), np.float32), labels)
    assert np.isnan(value).tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal])
def test_ignored_places_give_nothing_whatever_they_hold(loss):
    logits = jnp.array([[0.0, 1.0], [jnp.nan, jnp.inf], [0.0, 1.0]])
    labels = jnp.array([0, -100, -1])

    def by_logits(x):
        value = loss(x, labels, ignore_index=-100)
        return value[:2].sum(), value

    gradient, value = jax.jit(jax.grad(by_logits, has_aux=True))(logits)
    assert value[1] == 0
    assert np.isnan(value[2])  # -1 is neither a class nor the ignored label
    np.testing.assert_array_equal(gradient[1:], 0)
    np.testing.assert_allclose(value[0], jax.jit(loss)(logits[0], labels[0]), rtol=1e-6)
    by_ignored = jax.vmap(lambda ignored: loss(logits, labels, ignore_index=ignored))
    traced = jax.jit(by_ignored)(jnp.array([-100, -5]))
    np.testing.assert_allclose(traced[0], value, rtol=1e-6)
    assert np.isnan(traced[1, 1])


@pytest.mark.parametrize(
    "name,prediction,target",
    [
        ("binary_cross_entropy", [-0.1, 1.1, jnp.nan, 0.5, 0.5], [0.0, 1.0, 1.0, -1.0, 1.5]),
        ("binary_cross_entropy_with_logits", [0.0, 0.0], [-1.0, 2.0]),
        ("binary_focal", [0.0, 0.0], [-1.0, 2.0]),
        ("hinge", [0.0, 0.0], [0.0, 0.5]),
        ("hinge_embedding", [0.0, 0.0], [0.0, 0.5]),
        ("soft_margin", [0.0, 0.0], [0.0, 0.5]),
        ("multilabel_margin", [[0.0, 0.0]], [[0.0, 0.5]]),
        ("poisson_nll", [0.0], [-1.0]),
        ("kl_divergence", [[0.0, 0.0]], [[1.5, -0.5]]),
    ],
)
def test_what_has_no_meaning_gives_nan(name, prediction, target):
    value = jax.jit(partial(call, name))(np.array(prediction, np.float32), np.array(target))
    assert np.isnan(value).all()


def test_a_negative_rate_gives_nan():
    value = losses.poisson_nll(jnp.array([-1.0, 0.0]), jnp.array([1, 0]), log_input=False)
    assert np.isnan(value).tolist() == [True, False]


def test_ctc_without_an_alignment_costs_infinity_and_has_slope_0():
    """Two equal labels need three frames. What the lengths leave out may hold anything."""
    logits = jnp.array([[[0.0, 1.0], [2.0, 0.5], [jnp.nan, jnp.inf]]] * 2)
    labels, lengths = jnp.array([[1, 1], [1, -7]]), jnp.array([2, 1])

    def loss(logits):
        value = losses.ctc(logits, labels, logit_lengths=jnp.array([2, 2]), label_lengths=lengths)
        return value.sum(), value

    gradient, value = jax.jit(jax.grad(loss, has_aux=True))(logits)
    p = scipy.special.softmax(np.array(logits[0, :2]), -1)
    expected = -np.log(p[0, 1] * p[1, 1] + p[0, 0] * p[1, 1] + p[0, 1] * p[1, 0])
    np.testing.assert_allclose(value, [np.inf, expected], rtol=1e-6)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isfinite(gradient[1]).all()
    invalid = losses.ctc(jnp.zeros((3, 3, 4)), jnp.array([[0], [4], [-1]]))
    assert np.isnan(invalid).all()


def test_a_negative_variance_gives_nan():
    prediction = jnp.zeros(2), jnp.array([-1.0, 0.0])
    value = jax.jit(losses.gaussian_nll)(prediction, jnp.zeros(2))
    assert np.isnan(value).tolist() == [True, False]


def test_a_wrong_and_certain_probability_still_learns():
    """At exactly 0 and 1: the loss is -log 1e-12 and the slope points the right way."""
    p, t = jnp.array([0.0, 1.0, 0.0, 1.0]), jnp.array([1.0, 0.0, 0.0, 1.0])
    loss = jax.jit(losses.binary_cross_entropy)
    value, slope = loss(p, t), jax.grad(lambda p: loss(p, t).sum())(p)
    np.testing.assert_allclose(value, [27.631021, 27.631021, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(slope, [-1e12, 1e12, 1, -1], rtol=1e-5)


def test_a_variance_of_zero_can_grow_again():
    slope = jax.grad(lambda v: losses.gaussian_nll((jnp.array(0.0), v), jnp.array(1.0)))(jnp.array(0.0))
    np.testing.assert_allclose(slope, 0.5 * (1e6 - 1e12), rtol=1e-5)  # (1 / v - 1 / v^2) / 2


def test_second_derivatives():
    """At 0 too, where a kink hides easily: sigmoid' is 1/4, and a parabola bends by 1."""
    x = jnp.array([0.0, 1.0])
    bend = lambda f: jax.jit(jax.vmap(jax.hessian(f)))(x)
    s = scipy.special.expit(np.array(x))
    logistic = bend(lambda x: losses.binary_cross_entropy_with_logits(x, jnp.array(1.0)))
    np.testing.assert_allclose(logistic, s * (1 - s), rtol=1e-5)
    huber = bend(lambda x: losses.huber(x, jnp.array(0.0), delta=2.0))
    np.testing.assert_allclose(huber, 1, rtol=1e-6)
    smooth = bend(lambda x: losses.smooth_l1(x, jnp.array(0.0), beta=2.0))
    np.testing.assert_allclose(smooth, 0.5, rtol=1e-6)


def test_equal_to_scipy_and_scikit_learn():
    draw = np.random.default_rng(0)
    q, p = draw.dirichlet(np.ones(6), size=(2, 9)).astype(np.float32)
    q[0], q[0, 2] = 0, 1
    kl = jax.jit(losses.kl_divergence)(np.log(p), q)
    np.testing.assert_allclose(kl, scipy.stats.entropy(q, p, axis=-1), rtol=1e-5, atol=1e-6)

    log_rate = draw.normal(size=50).astype(np.float32)
    counts = draw.poisson(3.0, size=50)
    expected = -scipy.stats.poisson.logpmf(counts, np.exp(log_rate))
    value = jax.jit(partial(losses.poisson_nll, full=True))(log_rate, counts)
    np.testing.assert_allclose(value, expected, rtol=1e-5)

    mean, x = draw.normal(size=(2, 50)).astype(np.float32)
    variance = draw.uniform(0.1, 3, size=50).astype(np.float32)
    expected = -scipy.stats.norm.logpdf(x, mean, np.sqrt(variance))
    value = jax.jit(partial(losses.gaussian_nll, full=True))((mean, variance), x)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)

    expected = scipy.special.huber(0.7, mean - x)
    value = jax.jit(partial(losses.huber, delta=0.7))(mean, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)

    signs = np.where(x > 0, 1, -1)
    expected = sklearn.metrics.hinge_loss(signs, mean)
    value = jax.jit(losses.hinge)(mean, signs)
    np.testing.assert_allclose(value.mean(), expected, rtol=1e-5)


def test_poisson_goes_on_as_a_tangent():
    x = np.array([59.0, 1e4], np.float32)
    value = jax.jit(losses.poisson_nll)(x, np.zeros(2))
    np.testing.assert_allclose(value, np.exp([59.0, 60.0]) * [1, 1e4 - 59], rtol=1e-5)
    slope = jax.jit(jax.grad(lambda x: losses.poisson_nll(x, np.zeros(2)).sum()))(x)
    np.testing.assert_allclose(slope, np.exp([59.0, 60.0]), rtol=1e-5)


def test_zero_vectors():
    zero, one = jnp.zeros(3), jnp.ones(3)
    triplet = lambda a, b: losses.triplet(a, b, b)
    for loss in (losses.cosine_distance, triplet):
        both = jax.jit(jax.value_and_grad(loss))
        for a, b in ((zero, one), (zero, zero), (one, one)):
            value, gradient = both(a, b)
            expected = 0 if a is one and loss is not triplet else 1
            np.testing.assert_allclose(value, expected, atol=1e-6)
            assert np.isfinite(gradient).all()


def test_masked_mean():
    """The mean over places that count is PyTorch's reduction='mean' with ignore_index."""
    logits, labels = jnp.array([[0.0, 0.0], [9.0, 1.0], [0.0, jnp.log(3.0)]]), jnp.array([0, -1, 1])
    mean = losses.masked_mean(losses.cross_entropy(logits, labels, ignore_index=-1), labels != -1)
    np.testing.assert_allclose(mean, (np.log(2) + np.log(4 / 3)) / 2, rtol=1e-6)
    hidden = losses.masked_mean(jnp.array([1.0, jnp.nan]), jnp.array([True, False]))
    assert float(hidden) == 1
    assert float(losses.masked_mean(jnp.ones(2), jnp.zeros(2, bool))) == 0
    with pytest.raises(TypeError, match="mask should hold booleans"):
        losses.masked_mean(jnp.ones(2), jnp.ones(2))


@pytest.mark.parametrize("name", [name for name, (p, *rest) in INPUTS.items() if p.ndim == len(rest) == 1])
def test_nothing_is_broadcast(name):
    prediction, target = INPUTS[name]
    with pytest.raises(ValueError, match=rf"{name}: .* same shape, got .*\(7, 1\)"):
        call(name, prediction, target[:, None])
    with pytest.raises(ValueError, match="same shape"):
        call(name, prediction[:, None], target)
    with pytest.raises(ValueError, match="same shape"):
        call(name, prediction, target[0])


@pytest.mark.parametrize(
    "call,kind,words",
    [
        (
            lambda: losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros((4, 1), int)),
            ValueError,
            r"cross_entropy: labels should have shape \(4,\), got shape \(4, 1\)",
        ),
        (
            lambda: losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros((4, 3))),
            TypeError,
            "labels should hold integers, got float32.* cross_entropy_dense",
        ),
        (
            lambda: losses.cross_entropy(jnp.zeros((4, 3), int), jnp.zeros(4, int)),
            TypeError,
            "logits should hold floats",
        ),
        (
            lambda: losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros(4, int), weight=jnp.ones(4)),
            ValueError,
            r"weight should have shape \(3,\), got shape \(4,\). It is one number per class",
        ),
        (lambda: losses.cross_entropy(jnp.array(1.0), jnp.array(1)), ValueError, "an axis of classes"),
        (
            lambda: losses.cross_entropy_dense(jnp.zeros((4, 3)), jnp.zeros((4,), int)),
            TypeError,
            "probabilities should hold floats.* cross_entropy.",
        ),
        (
            lambda: losses.focal(jnp.zeros((4, 1)), jnp.zeros(4, int)),
            ValueError,
            r"at least 2 classes, got \(4, 1\). .*binary_focal",
        ),
        (
            lambda: losses.cosine_distance(jnp.ones((4, 3)), jnp.ones((1, 3))),
            ValueError,
            r"prediction \(4, 3\) and target \(1, 3\)",
        ),
        (lambda: losses.triplet(jnp.ones((4, 3)), jnp.ones((4, 3)), jnp.ones(3)), ValueError, r"negative \(3,\)"),
        (
            lambda: losses.triplet(*[jnp.ones((4, 3))] * 3, p=0.5),
            ValueError,
            "triplet: p should be at least 1, got 0.5",
        ),
        (
            lambda: losses.margin_ranking(jnp.ones(3), jnp.ones(3), jnp.ones((3, 1))),
            ValueError,
            r"first and target should have the same shape, got first \(3,\) and target \(3, 1\)",
        ),
        (
            lambda: losses.cosine_embedding(jnp.ones((4, 3)), jnp.ones((4, 3)), jnp.ones((4, 3))),
            ValueError,
            r"target should have shape \(4,\), got shape \(4, 3\). It is one number for each pair",
        ),
        (
            lambda: losses.binary_cross_entropy_with_logits(jnp.ones((4, 3)), jnp.ones((4, 3)), pos_weight=[1.0, 2.0]),
            ValueError,
            r"pos_weight should have shape \(3,\), got shape \(2,\)",
        ),
        (
            lambda: losses.poisson_nll(jnp.ones(3), jnp.ones(3), full="exact"),
            ValueError,
            "full should be one of 'stirling', got 'exact'",
        ),
        (lambda: losses.nll(jnp.zeros((4, 3)), jnp.zeros((4, 3), int)), ValueError, r"nll: labels .*argmax"),
        (lambda: losses.ctc(jnp.ones(3), jnp.ones(1, int)), ValueError, r"logits should be \[..., time, classes\]"),
        (
            lambda: losses.ctc(jnp.ones((2, 5, 3)), jnp.ones(2, int)),
            ValueError,
            r"labels should be \[..., length\] with the leading axes \(2,\) of the logits, got shape \(2,\)",
        ),
        (
            lambda: losses.ctc(jnp.ones((5, 3)), jnp.ones(2, int), blank=3),
            ValueError,
            "blank should be at most 2, got 3",
        ),
        (
            lambda: losses.ctc(jnp.ones((2, 5, 3)), jnp.ones((2, 2), int), logit_lengths=jnp.array([5, 6])),
            ValueError,
            "logit_lengths should be from 0 to 5, got 6",
        ),
        (
            lambda: losses.gaussian_nll(jnp.ones((2, 3)), jnp.ones(3)),
            TypeError,
            r"a pair \(mean, variance\), got an array of shape \(2, 3\)",
        ),
        (lambda: losses.gaussian_nll((jnp.ones(3), jnp.ones((3, 1))), jnp.ones(3)), ValueError, r"variance \(3, 1\)"),
        (
            lambda: losses.huber(jnp.ones(3), jnp.ones(3), delta=0.0),
            ValueError,
            "huber: delta should be above 0, got 0.0",
        ),
        (
            lambda: losses.cross_entropy(jnp.ones((1, 3)), jnp.ones(1, int), label_smoothing=1.5),
            ValueError,
            r"label_smoothing should be in \[0, 1\], got 1.5",
        ),
        (lambda: losses.mse(jnp.ones(3), jnp.ones(3, jnp.uint8)), TypeError, "target .* uint8"),
    ],
)
def test_words_of_errors(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_errors_come_while_tracing():
    with pytest.raises(ValueError, match="labels should have shape"):
        jax.eval_shape(losses.cross_entropy, jnp.zeros((4, 3)), jnp.zeros(3, int))


INF = np.inf
BIG = np.array([2**32 + 1, -(2**32) + 1])  # 1 for whoever converts to int32 first


def value_and_slope(loss, x, *rest):
    def both(x):
        return loss(x, *rest), jax.grad(lambda x: loss(x, *rest).sum())(x)

    return jax.jit(both)(jnp.asarray(x))


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal, partial(losses.focal, gamma=0.0)])
def test_infinite_logits_cost_0_or_infinity(loss):
    logits = [[INF, 0, 1], [INF, 0, 1], [0, -INF, 0], [-INF, -INF, 3], [-INF, INF, INF]]
    value, slope = value_and_slope(loss, logits, jnp.array([0, 1, 1, 2, 1]))
    half = 0.25 if loss is losses.focal else 1.0  # (1 - p) ** 2 at p = 1/2
    np.testing.assert_allclose(value, [0, INF, INF, 0, half * np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(slope[:2], [[0, 0, 0], [1, -1, 0]])
    np.testing.assert_allclose(slope[2:4], [[0.5, -1, 0.5], [0, 0, 0]])
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("loss", [losses.cross_entropy_dense, losses.kl_divergence])
def test_infinite_logits_against_shares(loss):
    logits, shares = [[INF, 0], [INF, 0], [0, -INF]], [[1.0, 0], [0, 1], [0.5, 0.5]]
    value, slope = value_and_slope(loss, logits, jnp.array(shares))
    np.testing.assert_array_equal(value, [0, INF, INF])
    np.testing.assert_allclose(slope, [[0, 0], [1, -1], [0.5, -0.5]])


@pytest.mark.parametrize(
    "loss", [losses.binary_cross_entropy_with_logits, losses.binary_focal, partial(losses.binary_focal, gamma=0.0)]
)
def test_infinite_binary_logits(loss):
    value, slope = value_and_slope(loss, [INF, -INF, INF, -INF, INF], jnp.array([1, 0, 0, 1, 0.5]))
    np.testing.assert_array_equal(value, [0, 0, INF, INF, INF])
    np.testing.assert_array_equal(slope, [0, 0, 1, -1, 0.5])


def test_infinite_numbers_have_losses_and_slopes():
    for loss in (losses.huber, losses.smooth_l1, losses.mae):
        value, slope = value_and_slope(loss, [INF, -INF], jnp.zeros(2))
        np.testing.assert_array_equal([value, slope], [[INF, INF], [1, -1]])
    # the rate exp(-inf) is 0, of which 0 counts are certain; exp(inf) outgrows any count
    counts = jnp.array([0.0, 2.0, 0.0, 2.0])
    value, slope = value_and_slope(losses.poisson_nll, [-INF, -INF, INF, INF], counts)
    np.testing.assert_array_equal(value, [0, INF, INF, INF])
    np.testing.assert_array_equal(slope[:2], [0, -2])
    assert np.isfinite(slope).all()
    value, slope = value_and_slope(
        lambda v: losses.gaussian_nll((jnp.array([1e20, 0.0]), v), jnp.zeros(2)), [1e38, INF]
    )
    np.testing.assert_allclose(value, [0.5 * (np.log(1e38) + 100), INF], rtol=1e-6)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("scale", [1.0, 1e20, 1e-25])
def test_lengths_where_squares_are_out_of_range(scale):
    x, y = jnp.array([[3.0, 4.0]]) * scale, jnp.array([[4.0, 3.0]]) * scale
    distance, slope = value_and_slope(partial(losses.cosine_distance, eps=1e-35), x, y)
    np.testing.assert_allclose(distance, 1 - 24 / 25, atol=1e-6)
    np.testing.assert_allclose(slope * scale, [[-0.0448, 0.0336]], rtol=1e-4)
    loss = jax.jit(partial(losses.triplet, margin=scale))(x, 0 * x, y)
    np.testing.assert_allclose(loss, (6 - 2**0.5) * scale, rtol=1e-5, atol=2e-6)


def test_kl_divergence_of_log_probabilities_has_pytorchs_slope():
    """torch.nn.functional.kl_div(log p, q): the slope is -q."""
    q = jnp.array([0.1, 0.2, 0.7])
    log_p = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    value, slope = value_and_slope(losses.kl_divergence, log_p, q)
    np.testing.assert_allclose(slope, jnp.exp(log_p) - q, rtol=1e-5)
    same, own = value_and_slope(partial(losses.kl_divergence, log_probabilities=True), log_p, q)
    np.testing.assert_allclose(same, value, rtol=1e-6)
    np.testing.assert_allclose(own, -q, rtol=1e-6)
    through = jax.grad(lambda x: losses.kl_divergence(jax.nn.log_softmax(x), q, log_probabilities=True))(log_p + 1)
    np.testing.assert_allclose(through, jnp.exp(log_p) - q, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_labels_beyond_int32_are_no_class(dtype):
    labels = BIG.astype(dtype)
    for loss in (losses.cross_entropy, losses.focal):
        assert np.isnan(loss(jnp.zeros((2, 3)), labels)).all()
        assert np.isnan(loss(jnp.zeros((2, 3)), labels, ignore_index=1)).all()
    for loss in (losses.binary_cross_entropy_with_logits, losses.binary_focal, losses.hinge):
        assert np.isnan(loss(jnp.zeros(2), labels)).all()
    with pytest.raises(ValueError, match=r"ignore_index should be .*, got 4294967297"):
        losses.cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), ignore_index=2**32 + 1)


@pytest.mark.parametrize("name", INPUTS)
def test_numpy_of_float64_and_empty_batches(name):
    """Warnings are errors here: float64 of NumPy becomes float32 without one."""
    loss, inputs = getattr(losses, name), INPUTS[name]
    wide = [np.asarray(x, np.float64) if x.dtype == jnp.float32 else x for x in inputs]
    assert loss(*wide).dtype == jnp.float32
    value, slope = value_and_slope(loss, *(x[:0] for x in inputs))
    assert value.shape == (0, *loss(*inputs).shape[1:])
    assert slope.shape == inputs[0][:0].shape
