"""What users get wrong with layers, runs and generation, and what bfloat16 must not get wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnfunc as nf
from nnfunc.data.prediction_inputs import load_inputs
from nnfunc.data.preprocessing import Preprocessing

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nf.linear(4, 3), np.ones((64, 60, 4), np.float32)),
        (nf.conv(2, 3, 3), np.ones((32, 12, 12, 2), np.float32)),
        (nf.depthwise_conv(2, 3), np.ones((32, 12, 12, 2), np.float32)),
        (nf.lstm(3, 4), np.ones((64, 40, 3), np.float32)),
        (nf.scale(4), np.ones((64, 60, 4), np.float32)),
        (nf.embedding(3, 4), np.arange(3072, dtype=np.int32) % 3),
    ],
    ids=["linear", "conv", "depthwise_conv", "lstm", "scale", "embedding"],
)
def test_gradients_in_bfloat16_do_not_saturate(model, x):
    """The reference is the same model in float32. Summed in bfloat16 they were off by up to 98 %."""
    params = model.init(KEY)

    def gradient(model):
        weigh = jax.random.uniform(KEY, jax.eval_shape(model.apply, params, x).shape)
        loss = lambda params: (model.apply(params, x).astype(jnp.float32) * weigh).sum()
        return jax.jit(jax.grad(loss))(params)

    def near(narrow, full):
        assert float(jnp.abs(narrow - full).max()) < 0.03 * float(jnp.abs(full).max())

    jax.tree.map(near, gradient(nf.precision(model)), gradient(model))


def test_lp_pool_of_a_large_power_is_near_the_largest_size():
    for size in (1e-20, 0.1, 10.0, 1e20):
        y = nf.lp_pool(2, p=64.0).apply({}, jnp.full((2, 2, 1), size))
        assert float(y[0, 0, 0]) == pytest.approx(size * 4 ** (1 / 64), rel=1e-4)


def test_a_forward_without_out_is_told():
    broken = nf.Model(lambda key: {}, forward=lambda params, x, ctx: x)
    with pytest.raises(TypeError, match=r"bad: .*forward should return \(y, nf.Out"):
        nf.serial(bad=broken).apply({}, jnp.ones((2, 3)))


def test_lengths_lie_within_the_sequence():
    model, x = nf.lstm(3, 4), jnp.ones((2, 5, 3))
    with pytest.raises(ValueError, match="lengths should be from 0 to 5, got 9"):
        model.apply(model.init(KEY), nf.RecurrentInput(x, jnp.array([5, 9])))
    q = jnp.ones((2, 5, 1, 4))
    with pytest.raises(ValueError, match="lengths should be from 0 to 5, got -1"):
        nf.attend(q, q, q, lengths=jnp.array([5, -1]))
    with pytest.raises(TypeError, match=r"causal should be True or False.*mask="):
        nf.attend(q, q, q, causal=jnp.ones((5, 5), bool))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"stop": "x"}, TypeError, "stop should be an integer, got 'x'"),
        ({"stop": 9}, ValueError, r"stop should be in \[0, 9\), got 9"),
        ({"pad": 1.5}, TypeError, "pad should be an integer"),
    ],
)
def test_generate_checks_ids(options, kind, message):
    model = nf.serial(nf.embedding(9, 4), nf.linear(4, 9))
    with pytest.raises(kind, match=message):
        nf.generate(model, model.init(KEY), [[1, 2]], 3, **options)


def test_experts_with_a_capacity_are_not_generated_with():
    experts = nf.mixture_of_experts(4, 8, 3, capacity=1.0)
    model = nf.serial(nf.embedding(9, 4), experts, nf.linear(4, 9))
    with pytest.raises(ValueError, match="capacity=None"):
        nf.generate(model, model.init(KEY), [[1, 2]], 3)
    with pytest.raises(TypeError, match="capacity sets a shape"):
        jax.eval_shape(lambda c: nf.mixture_of_experts(4, 8, 3, capacity=c).init(KEY), 1.0)


def test_an_objective_may_read_the_model_in_a_run():
    """The objective that the docstring of `nf.mixture_of_experts` shows, through `nf.train`."""

    def objective(predict, batch):
        inside = nf.capture(predict.model, "**/router/balance_loss")
        y, taps = inside(predict.params, batch[0], key=predict.ctx.key, state=predict.ctx.state)
        balance = taps["mixture_of_experts/router/balance_loss"].mean()
        return nf.losses.mse(y, batch[1]).mean() + balance, {"balance": balance}

    def build(h):
        model = nf.serial(nf.linear(3, 4), nf.mixture_of_experts(4, 8, 3), nf.linear(4, 2))
        return nf.Task(model, objective, nf.optimizers.adamw(h["rate"]))

    data = nf.data.arrays((np.ones((8, 3), np.float32), np.ones((8, 2), np.float32)), 4)
    _, history = nf.train(build, {"rate": 1e-3}, data, steps=2, key=KEY)
    assert 1 <= history.train["balance"][0] <= 3


def test_model_state_keeps_its_type_and_its_shape():
    def task(new):
        def forward(params, x, ctx):
            return params["w"] * x, nf.Out(state={"n": new(ctx.state["n"])})

        start = {"w": jnp.ones(1)}
        layer = nf.Model(lambda key: start, forward=forward, init_state=lambda: {"n": jnp.zeros(2)})
        return lambda h: nf.Task(layer, nf.regression(), nf.optimizers.sgd(0.1))

    batch = (jnp.ones((4, 1)), jnp.ones((4, 1)))
    init, step = nf.trainer(task(lambda n: (n + 1).astype(jnp.float16)))
    state, _ = step({}, init({}, KEY), batch)
    assert state.model_state["n"].dtype == jnp.float32
    assert state.model_state["n"].tolist() == [1, 1]
    init, step = nf.trainer(task(lambda n: n[:1]))
    with pytest.raises(ValueError, match="new state should have the shapes of its init_state"):
        step({}, init({}, KEY), batch)


def test_predict_refuses_other_numbers_than_it_was_trained_on():
    preprocessing = Preprocessing("npz", {"dtype": "uint8", "shape": [2]})
    assert load_inputs(preprocessing, np.array([[0.0, 255.0]]))[0].dtype == np.uint8
    with pytest.raises(ValueError, match=r"integers \(uint8\).*got fractions"):
        load_inputs(preprocessing, np.array([[0.5, 1.0]]))
    with pytest.raises(ValueError, match=r"should fit uint8.*from 0.0 to 256.0"):
        load_inputs(preprocessing, np.array([[0.0, 256.0]]))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nf.cnn(10, image_size=32), (2, 32, 32, 3), r"Make this layer for 3 channels.* in_dim=3\."),
        (nf.cnn(10, in_dim=3, image_size=32), (2, 3, 32, 32), r"Channels are last: jnp\.moveaxis"),
        (nf.cnn(10), (2, 28, 28), r"without a channel axis: x\[\.\.\., None\]\."),
        (nf.cnn(10, in_dim=3), (2, 28, 28), r"x\[\.\.\., None\], in a model with in_dim=1\."),
        (nf.cnn(10, in_dim=3), (28, 28), r"x\[\.\.\., None\], in a model with in_dim=1\."),
        (nf.cnn(10, in_dim=3), (2, 28, 84), r"rows of pixels\? x\.reshape\(.*, 28, 28, 3\)\."),
        (nf.cnn(10), (2, 784), r"flat\? Then x\.reshape\(\*x\.shape\[:-1\], 28, 28, 1\)"),
        (nf.conv(3, 4, 3), (2, 28, 28), r"x\[\.\.\., None\], in a layer with in_dim=1\."),
        (nf.conv(3, 4, 3), (2, 28, 28, 1), r"for 1 channels.* in_dim=1\."),
    ],
)
def test_hints_look_at_what_came(model, shape, message):
    params = jax.eval_shape(model.init, KEY)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, params, jnp.zeros(shape))


def test_hints_of_losses_look_at_what_came():
    logits, column = jnp.zeros((4, 3)), jnp.zeros((4, 1))
    with pytest.raises(ValueError, match=r"Convert one-hot labels to class indices: labels\.argmax\(-1\)"):
        nf.losses.cross_entropy(logits, jnp.zeros((4, 3), int))
    with pytest.raises(ValueError, match=r"labels\[\.\.\., 0\]"):
        nf.losses.cross_entropy(logits, jnp.zeros((4, 1), int))
    with pytest.raises(ValueError, match=r"Take its last axis away: prediction\[\.\.\., 0\]"):
        nf.losses.mse(column, jnp.zeros(4))
    with pytest.raises(TypeError, match=r"nf\.embedding for ids"):
        nf.linear(3, 2).apply({"weight": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}, jnp.zeros((4, 3), int))


MODEL = nf.mlp([4, 8, 3])
PARAMS, X = MODEL.init(KEY), jnp.ones((5, 4))
BATCH = X, jnp.zeros(5, int)


def run_step(objective, model=MODEL, batch=BATCH, **options):
    task = nf.Task(model, objective, options.pop("optimizer", nf.optimizers.sgd(0.1)), **options)
    init, step = nf.trainer(lambda h: task)
    return step({}, init({}, KEY), batch)


def test_batch_norm_in_a_vmapped_predict_says_so():
    model = nf.serial(nf.batch_norm(4), nf.linear(4, 2))
    objective = lambda predict, batch: (jax.vmap(predict)(batch[0]).mean(), {})
    with pytest.raises(ValueError, match=r"batch_norm: .*jax\.vmap\(predict\) sees one example"):
        run_step(objective, model)


def test_a_model_is_not_called():
    for call in (lambda: MODEL(X), lambda: MODEL(PARAMS, X), lambda: jax.jit(MODEL)(X)):
        with pytest.raises(
            TypeError, match=r"mlp\(widths=\[4, 8, 3\]\)>: it .* not called.*model\.apply\(params, x\).*net\."
        ):
            call()
    # it is callable for Python all the same, and still a layer where functions are layers too
    assert "hidden_0" in nf.mlp([4, 8, 3], activation=nf.prelu()).init(KEY)
    assert nf.sweeps.space.Space({"model": MODEL}).fixed == {"model": MODEL}


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda params, batch: (MODEL.apply(params, batch[0]).sum(), {}), r"predict is the model.*Call predict\(x\)"),
        (lambda params, batch: (sum(map(jnp.sum, jax.tree.leaves(params))), {}), r"no tree of arrays.*predict\.params"),
        (lambda params, batch: (params["head"]["bias"].sum(), {}), r"no attribute 'head'.*predict\.params\['head'\]"),
        (lambda predict, batch: (predict.head(batch[0]).sum(), {}), r"no attribute 'head'; write predict\(x\)"),
        (lambda predict, batch: (predict.aply(batch[0]).sum(), {}), "no attribute 'aply'; there is 'model', 'params'"),
        (lambda predict, batch: (predict(predict.params, batch[0]).sum(), {}), "has its parameters already"),
        (lambda predict, batch: (predict(batch[0]).argmax(), {}), "loss should be a float, got int32"),
        (nf.losses.cross_entropy, r"predict is the model with its parameters"),
    ],
)
def test_predict_is_not_the_parameters(objective, message):
    with pytest.raises((TypeError, AttributeError), match=f"objective: .*{message}"):
        run_step(objective)


def test_predict_of_several_models_names_them():
    models = {"body": nf.linear(4, 2), "head": nf.linear(2, 1)}
    with pytest.raises(AttributeError, match=r"predict: no model is called 'wrong_name'; there is 'body', 'head'"):
        run_step(lambda predict, batch: (predict.wrong_name(batch[0]).sum(), {}), models)
    with pytest.raises(AttributeError, match=r"predict\.body: there is no attribute 'weight'.*predict\.body\.params"):
        run_step(lambda predict, batch: (predict.body.weight.sum(), {}), models)
    flow = nf.wire(lambda net, x: net.body.weight, body=nf.linear(4, 2))
    with pytest.raises(AttributeError, match=r"net\.body: there is no attribute 'weight'.*net\.body\.params"):
        flow.apply(flow.init(KEY), X)


def test_the_training_pair_says_how_it_is_called():
    hypers = {"rate": 0.1}
    trainer = nf.trainer(lambda h: nf.Task(MODEL, nf.classification(), nf.optimizers.sgd(h["rate"])))
    init, step = trainer
    state = init(hypers, KEY)
    cases = [
        (lambda: init(hypers), r"trainer\.init: it needs key\. Call it as trainer\.init\(hypers, key, \.\.\.\)"),
        (lambda: init(KEY, hypers), r"key should be one random key, got {'rate': 0\.1}"),
        (
            lambda: step(state, hypers, BATCH),
            r"trainer\.step: .*TrainState, got {'rate'.*order .* step\(hypers, state, batch\)",
        ),
        (lambda: jax.jit(step)(state, hypers, BATCH), r"trainer\.step: state should be a TrainState"),
        (lambda: step(hypers, BATCH, state), r"The order of the arguments is step\(hypers, state, batch\)"),
        (lambda: step(hypers, state.params, BATCH), r"with the state of trainer\.init or of the last step"),
        (lambda: step(hypers, (state, {}), BATCH), r"a pair \(state, metrics\).*state, metrics = step"),
        (lambda: step(hypers, state), r"trainer\.step: it needs batch"),
        (lambda: step(hypers, state, *BATCH), r"trainer\.step: it should get at most 3 positional arguments, got 4"),
        (lambda: trainer.observe(state, hypers, {"loss": 1.0}), r"order .* is observe\(hypers, state, metrics\)"),
    ]
    for call, message in cases:
        with pytest.raises(TypeError, match=message):
            call()


def test_factories_are_to_be_called():
    objective = nf.classification()
    cases = [
        (
            lambda: run_step(nf.classification),
            r"the objective .* got classification.*Call it: classification\(\.\.\.\)",
        ),
        (lambda: run_step(nf.regression), r"Call it: regression\("),
        (lambda: run_step(objective, optimizer=nf.optimizers.adam), r"Call it: adam\(learning_rate, \.\.\.\)"),
        (lambda: run_step(objective, optimizer=optax.adam), r"Call it: adam\(learning_rate, \.\.\.\)"),
        (lambda: run_step(objective, model=nf.mlp), r"build: model: .* function mlp\. Call it: mlp\(widths, \.\.\.\)"),
        (lambda: nf.serial(nf.linear), r"serial: layer 0: .*Call it: linear\(in_dim, out_dim, \.\.\.\)"),
        (lambda: run_step(objective, average=nf.averages.ema), r"average should .* Call it: ema\("),
        (lambda: run_step(objective, plateau=nf.reduce_on_plateau), r"plateau should .* Call it: reduce_on_plateau\("),
        (lambda: run_step(objective, augment=nf.augment.shift), r"augment should .* Call it: shift\("),
        (lambda: nf.optimizers.sgd(nf.schedules.cosine), r"sgd: learning_rate: .* Call it: cosine\(start, total_steps"),
        (lambda: nf.train(lambda h: None, {}, nf.data.digits, steps=1, key=KEY), r"data should .* Call it: digits\("),
    ]
    for call, message in cases:
        with pytest.raises(TypeError, match=message) as caught:
            call()
        assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_regression_never_broadcasts(loss):
    column, row = nf.linear(4, 1), nf.serial(nf.linear(4, 1), lambda y: y[..., 0])
    with pytest.raises(ValueError, match=rf"{loss}: .*prediction\[\.\.\., 0\]; or add one: target\[\.\.\., None\]"):
        run_step(nf.regression(loss), column, (X, jnp.zeros(5)))
    with pytest.raises(ValueError, match=rf"{loss}: .*target\[\.\.\., 0\]; or add one: prediction\[\.\.\., None\]"):
        run_step(nf.regression(loss), row, (X, jnp.zeros((5, 1))))
    run_step(nf.regression(loss), row, (X, jnp.zeros(5)))
