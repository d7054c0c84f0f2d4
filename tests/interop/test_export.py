"""Models written for other runtimes: each file computes what its model computes."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import ROOT

import nnfunc as nf
from nnfunc import tuning
from nnfunc.errors import InvalidTypeError, InvalidValueError
from nnfunc.interop import simple_primitives

GENERATOR = np.random.default_rng(0)


def images(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


def tokens(*shape):
    return GENERATOR.integers(0, 11, shape).astype(np.int32)


MODELS = {
    "mlp": (lambda: nf.mlp([12, 16, 4], norm="batch", activation="gelu"), images(5, 12)),
    "cnn": (lambda: nf.cnn(4, image_size=12, widths=[4, 8], hidden=8, norm="batch"), images(5, 12, 12, 1)),
    "resnet": (lambda: nf.resnet(4, depths=[1, 1], widths=[4, 8]), images(3, 32, 32, 3)),
    "convnext": (lambda: nf.convnext(4, depths=[1, 2], widths=[4, 8], layer_scale=0.5), images(3, 32, 32, 3)),
    "lstm": (lambda: nf.rnn_classifier(6, 4, dim=8), images(3, 7, 6)),
    "gru": (lambda: nf.rnn_classifier(6, 4, dim=8, cell="gru", layers=2, bidirectional=True), images(3, 7, 6)),
    "gpt": (lambda: nf.gpt(11, block_size=8, layers=2, heads=2, dim=8), tokens(3, 8)),
    "llama": (lambda: nf.llama(11, layers=2, heads=4, kv_heads=2, dim=16), tokens(3, 8)),
    "bert": (lambda: nf.bert(11, block_size=8, layers=2, heads=2, dim=8), tokens(3, 8)),
    "experts": (lambda: nf.llama(11, layers=2, heads=2, dim=8, hidden=8, num_experts=3), tokens(3, 8)),
    "vit": (lambda: nf.vit(4, image_size=8, patch=4, in_dim=1, layers=2, heads=2, dim=8), images(3, 8, 8, 1)),
}


@cache
def trained(name):
    """(model, params, state, x) with parameters and statistics that are not those of the start."""
    model, x = MODELS[name][0](), MODELS[name][1]
    numbers = np.random.default_rng(1)
    change = lambda leaf: np.asarray(leaf) + np.abs(0.2 * numbers.normal(size=leaf.shape)).astype(leaf.dtype)
    return model, *(jax.tree.map(change, tree) for tree in (model.init(jax.random.key(0)), model.init_state())), x


def export(name, file, **options):
    model, params, state, x = trained(name)
    return nf.export(model, params, file, x, state=state, **options)


def outputs(name, x):
    model, params, state, _ = trained(name)
    return model.apply(params, x, state=state)


# StableHLO


QUICK = ("mlp", "gru", "gpt")
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", ALL)
def test_stablehlo_computes_the_same_for_any_batch(name, tmp_path):
    pytest.importorskip("flatbuffers")
    report = export(name, tmp_path / "model.stablehlo", to="stablehlo")
    assert report.difference < 1e-5
    assert report.examples == len(trained(name)[3])
    x = np.concatenate([trained(name)[3]] * 3)
    loaded = nf.load_exported(tmp_path / "model.stablehlo")
    np.testing.assert_allclose(loaded(x), outputs(name, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(loaded)(x), loaded(x), rtol=1e-5, atol=1e-6)
    assert loaded.program.platforms == ("cpu", "cuda", "tpu")


def test_a_file_has_preprocessing_names_and_versions(tmp_path):
    pytest.importorskip("flatbuffers")
    model = nf.mlp([4, 3])
    params, x = model.init(jax.random.key(0)), np.arange(20, dtype=np.uint8).reshape(5, 4)
    transform = lambda x: (x.astype(jnp.float32) / 255 - 0.5) / 0.25
    file = tmp_path / "model.stablehlo"
    labels = np.arange(5) % 3
    names, more = ["a", "b", "c"], {"preprocessing": {"scale": 255}}
    report = nf.export(
        model, params, file, x, to="stablehlo", transform=transform, names=names, metadata=more, labels=labels
    )
    loaded = nf.load_exported(file)
    np.testing.assert_allclose(loaded(x), model.apply(params, transform(x)), rtol=1e-5, atol=1e-6)
    assert loaded.names == ("a", "b", "c")
    assert loaded.metadata["preprocessing"] == {"scale": 255}
    assert loaded.metadata["nnfunc"] == nf.__version__
    assert loaded.metadata["model"] == "mlp(widths=[4, 3])"
    assert loaded.metadata["inputs"] == [{"name": "x", "shape": ["batch", 4], "dtype": "uint8"}]
    correct = (np.asarray(loaded(x)).argmax(-1) == labels).mean()
    assert (report.metric, report.model, report.file) == ("accuracy", correct, correct)
    assert "accuracy of the model" in str(report)


def test_a_file_needs_no_code_of_the_model_and_no_other_package(tmp_path):
    """Only JAX and flatbuffers: whatever else nnfunc needs is blocked."""
    pytest.importorskip("flatbuffers")
    export("mlp", tmp_path / "model.stablehlo", to="stablehlo")
    x = trained("mlp")[3]
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys
blocked = ("optax", "safetensors", "pydantic", "typer", "rich", "tomli_w", "sklearn", "matplotlib", "nnfunc.models.mlp")
for name in blocked[:-1]:
    sys.modules[name] = None
import numpy as np, nnfunc as nf
model = nf.load_exported({str(tmp_path / "model.stablehlo")!r})
np.save({str(tmp_path / "y.npy")!r}, model(np.load({str(tmp_path / "x.npy")!r})))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), outputs("mlp", x), rtol=1e-5, atol=1e-5)


def test_inputs_of_a_loaded_model_are_checked(tmp_path):
    pytest.importorskip("flatbuffers")
    export("gpt", tmp_path / "model.stablehlo", to="stablehlo")
    model = nf.load_exported(tmp_path / "model.stablehlo")
    x = trained("gpt")[3]
    np.testing.assert_array_equal(model(x.astype(np.int64)), model({"x": x}))
    with pytest.raises(InvalidValueError, match=r"x should have the shape \[batch, 8\], got shape \(3, 7\)"):
        model(x[:, :7])
    with pytest.raises(InvalidTypeError, match="x should hold int32, got float32"):
        model(x.astype(np.float32))
    with pytest.raises(InvalidValueError, match="x should be from -2147483648"):
        model(x.astype(np.int64) + 2**40)
    assert repr(model).endswith("x int32[batch, 8] -> y float32[batch, 8, 11]>")


def test_inputs_may_be_a_tuple_of_arrays(tmp_path):
    pytest.importorskip("flatbuffers")
    model = nf.bert(11, block_size=8, layers=1, heads=2, dim=8)
    params = model.init(jax.random.key(0))
    x = nf.BertInput(tokens(3, 8), mask=np.arange(8)[None] < np.array([[8], [5], [2]]))
    nf.export(model, params, tmp_path / "bert.stablehlo", x, to="stablehlo")
    loaded = nf.load_exported(tmp_path / "bert.stablehlo")
    assert [spec["name"] for spec in loaded.metadata["inputs"]] == ["ids", "mask"]
    np.testing.assert_allclose(loaded(x), model.apply(params, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(loaded({"ids": x.ids, "mask": x.mask}), loaded(x))


def test_numbers_of_64_bits_become_those_of_the_model(tmp_path):
    pytest.importorskip("flatbuffers")
    model = nf.mlp([4, 3])
    x = np.ones((2, 4))  # float64
    nf.export(model, model.init(jax.random.key(0)), tmp_path / "model", x, to="stablehlo")
    loaded = nf.load_exported(tmp_path / "model")
    assert loaded.metadata["inputs"][0]["dtype"] == "float32"
    assert loaded(x).shape == (2, 3)


@pytest.mark.parametrize("damage", ["cut", "text", "flipped", "newer", "missing weight"])
def test_damaged_files_are_refused(damage, tmp_path):
    pytest.importorskip("flatbuffers")
    file = tmp_path / "model.stablehlo"
    export("mlp", file, to="stablehlo")
    content = bytearray(file.read_bytes())
    if damage in ("newer", "missing weight"):
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        table = json.loads(members["metadata.json"])
        table["version"] += damage == "newer"
        members["metadata.json"] = json.dumps(table).encode()
        if damage == "missing weight":
            del members["weights/head/bias"]
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    elif damage == "flipped":  # a bit of a weight
        content[content.index(b"weights/head/bias") + 20] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[:-100] if damage == "cut" else b"not an archive")
    with pytest.raises(InvalidValueError, match=r"model\.stablehlo: it"):
        nf.load_exported(file)


def test_a_missing_file_is_named(tmp_path):
    pytest.importorskip("flatbuffers")
    with pytest.raises(FileNotFoundError):
        nf.load_exported(tmp_path / "none.stablehlo")


# ONNX and LiteRT, where they are installed


@pytest.mark.parametrize("name", ALL)
def test_onnx_computes_the_same(name, tmp_path):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    report = export(name, file, to="onnx", metadata={"more": {"a": 1}})
    assert report.difference < 1e-5
    session = runtime.InferenceSession(file)
    x = np.concatenate([trained(name)[3]] * 2)
    (y,) = session.run(["y"], {"x": x})
    np.testing.assert_allclose(y, outputs(name, x), rtol=1e-4, atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["more"]) == {"a": 1}


@pytest.mark.parametrize("method", ["dynamic", "weights"])
def test_a_quantized_file_is_smaller_and_close(method, tmp_path):
    pytest.importorskip("jax2onnx")
    model = nf.mlp([32, 64, 4])
    params, x = model.init(jax.random.key(0)), images(20, 32)
    labels = np.asarray(model.apply(params, x)).argmax(-1)
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    report = nf.export(model, params, small, x, to="onnx", labels=labels, quantize=method)
    nf.export(model, params, large, x, to="onnx")
    assert small.stat().st_size == report.size < 0.5 * large.stat().st_size
    difference, accuracy = report.quantized
    assert report.difference < 1e-5 < difference < 0.05
    assert (report.model, report.file) == (1.0, 1.0)
    assert accuracy > 0.9


def test_an_unknown_primitive_is_named_with_its_layer(tmp_path):
    pytest.importorskip("jax2onnx")
    call = lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
    model = nf.serial(body=nf.serial(up=nf.linear(4, 4), strange=call))
    message = "serial cannot be exported to onnx: jax2onnx has no primitive pure_callback, which is in the layer at "
    with pytest.raises(InvalidValueError, match=f"{message}body/strange"):
        nf.export(model, model.init(jax.random.key(0)), tmp_path / "model.onnx", images(2, 4), to="onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ALL)
def test_litert_computes_the_same(name, tmp_path):
    pytest.importorskip("litert_converter")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    file = tmp_path / "model.tflite"
    assert export(name, file, to="litert").difference < 1e-5
    runner = interpreter.Interpreter(model_path=str(file)).get_signature_runner("serving_default")
    x = trained(name)[3][:1]
    np.testing.assert_allclose(runner(x=x)["y"], outputs(name, x), rtol=1e-4, atol=1e-5)
    assert b'"nnfunc"' in file.read_bytes()


@pytest.mark.parametrize(
    "module, to, extra", [("jax2onnx", "onnx", "onnx"), ("litert_converter.mlir.ir", "litert", "litert")]
)
def test_a_missing_package_is_named_with_its_extra(module, to, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'nnfunc\[{extra}\]'"):
        export("mlp", tmp_path / "model", to=to)
    assert list(tmp_path.iterdir()) == []


# The rewriting of programs for them


@pytest.mark.parametrize("name", ["cnn", "gru", "gpt"])
@pytest.mark.parametrize("unroll", [False, True])
def test_rewritten_programs_compute_the_same(name, unroll):
    model, params, state, x = trained(name)
    with tuning.portable():
        traced = jax.make_jaxpr(lambda x: model.apply(params, x, state=state))(x)
    simple = jax.make_jaxpr(lambda x: simple_primitives.evaluate(traced.jaxpr, traced.consts, [x], unroll=unroll))(x)
    (y,) = jax.jit(jax.extend.core.jaxpr_as_fun(simple))(x)
    np.testing.assert_allclose(y, outputs(name, x), rtol=1e-5, atol=1e-5)
    names = set(simple_primitives.primitives(simple.jaxpr))
    assert not names & {"jit", "pjit", "custom_jvp_call", "reduce_precision", "pad", "reduce_window_max"}
    assert ("scan" in names) == (name == "gru" and not unroll)


def test_what_no_output_needs_is_left_out():
    """Such as the losses of a router, with the size of the batch as a number, which jax2onnx does not have."""
    model = nf.serial(first=nf.mixture_of_experts(4, 4, 3), second=nf.linear(4, 2))
    params = model.init(jax.random.key(0))
    (batch,) = jax.export.symbolic_shape("batch")
    traced = jax.make_jaxpr(lambda x: model.apply(params, x))(jax.ShapeDtypeStruct((batch, 4), np.float32))
    assert "dim_as_value" in simple_primitives.primitives(traced.jaxpr)
    x = jax.ShapeDtypeStruct((batch, 4), np.float32)
    simple = jax.make_jaxpr(lambda x: simple_primitives.evaluate(traced.jaxpr, traced.consts, [x]))(x)
    assert "dim_as_value" not in simple_primitives.primitives(simple.jaxpr)


def test_windows_and_pads_are_rewritten_exactly():
    def pools(x):
        x = nf.avg_pool(2, 1, padding=[[0, 1], [1, 0]]).apply({}, nf.max_pool(3, 2, padding=1).apply({}, x))
        sizes, ones = (1, 2, 3, 1), (1, 1, 1, 1)
        padding = [(0, 0), (1, 0), (0, 2), (0, 0)]
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, sizes, ones, padding, window_dilation=(1, 3, 2, 1))

    x = images(2, 15, 14, 3)
    with tuning.portable():
        traced = jax.make_jaxpr(pools)(x)
    (y,) = jax.jit(lambda x: simple_primitives.evaluate(traced.jaxpr, traced.consts, [x]))(x)
    np.testing.assert_allclose(y, pools(x), rtol=1e-6)


def test_no_static_fact_comes_from_jax():
    """jnp.shape, jnp.ndim and jnp.size are symbolic under jax2onnx; NumPy's are numbers, of tracers too."""
    wrong = []
    for file in sorted((ROOT / "nnfunc").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("jnp.shape", "jnp.ndim", "jnp.size"):
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: write {ast.unparse(node).replace('jnp', 'np')}")
    assert not wrong, "\n".join(wrong)


def test_programs_for_any_platform_have_forms_of_no_platform():
    """Convolutions are XLA's, also those that a CPU computes as one product."""
    model = nf.conv(1, 4, 3)
    params, x = model.init(jax.random.key(0)), images(2, 8, 8, 1)
    apply = jax.jit(model.apply)
    assert "convolution" not in apply.lower(params, x).as_text() or jax.default_backend() != "cpu"
    with tuning.portable():
        assert "convolution" in apply.lower(params, x).as_text()


# NumPy


NUMPY_MODELS = {
    "mlp": (lambda: nf.mlp([6, 5, 5, 3], norm="layer", activation="silu"), images(4, 6)),
    "mlp rms": (lambda: nf.mlp([6, 5, 3], norm="rms", activation=nf.activations.gelu), images(4, 6)),
    "mlp batch": (lambda: nf.mlp([6, 5, 3], norm="batch", activation="selu"), images(4, 6)),
    "cnn": (
        lambda: nf.cnn(3, in_dim=2, image_size=9, widths=[4, 3], convs=2, hidden=5, norm="batch"),
        images(4, 9, 9, 2),
    ),
    "cnn even": (
        lambda: nf.cnn(3, image_size=8, widths=[4], kernel=4, pool="avg", head="global", hidden=0, activation="tanh"),
        images(4, 8, 8, 1),
    ),
    "gpt": (lambda: nf.gpt(11, block_size=8, layers=2, heads=2, dim=8), tokens(3, 6)),
    "gpt plain": (
        lambda: nf.gpt(11, block_size=8, layers=2, heads=4, dim=8, bias=False, tied=False, activation="swiglu"),
        tokens(3, 8),
    ),
}


@pytest.mark.parametrize("name", NUMPY_MODELS)
def test_numpy_programs_compute_the_same(name, tmp_path):
    model, x = NUMPY_MODELS[name][0](), NUMPY_MODELS[name][1]
    numbers = np.random.default_rng(1)
    change = lambda leaf: np.asarray(leaf) + np.abs(0.2 * numbers.normal(size=leaf.shape)).astype(leaf.dtype)
    params, state = jax.tree.map(change, (model.init(jax.random.key(0)), model.init_state()))
    report = nf.export(model, params, tmp_path / "model.py", x, to="numpy", state=state)
    assert report.difference < 1e-5
    assert {file.name for file in tmp_path.iterdir()} == {"model.py", "model.safetensors"}
    text = (tmp_path / "model.py").read_text()
    imports = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imports <= {"math", "sys", "pathlib", "numpy", "safetensors.numpy"}
    assert len(text.splitlines()) < 100
    assert max(map(len, text.splitlines())) <= 120


def test_activations_of_numpy_programs_are_those_of_the_library():
    from nnfunc.interop.numpy_templates import ACTIVATIONS

    x = np.linspace(-8, 8, 201, dtype=np.float32)
    for name, expression in ACTIVATIONS.items():
        y = eval(expression, {"np": np, "math": __import__("math"), "x": x})
        np.testing.assert_allclose(y, nf.activations.by_name(name)(x), rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nf.linear(4, 3), "the model should be made by nf.mlp, nf.cnn, nf.gpt for numpy"),
        (lambda: nf.mlp([4, 3, 3], activation=jnp.sin), "the activation of mlp should be one of identity, relu"),
        (lambda: nf.mlp([4, 3, 3], activation=nf.prelu()), "the activation of mlp should be one of identity, relu"),
    ],
)
def test_models_without_a_numpy_program_are_refused(make, message, tmp_path):
    model = make()
    with pytest.raises(InvalidValueError, match=message):
        nf.export(model, model.init(jax.random.key(0)), tmp_path / "model.py", images(2, 4), to="numpy")
    assert list(tmp_path.iterdir()) == []


# Mistakes


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    from nnfunc.interop import numpy_templates

    file = tmp_path / "model.py"
    file.write_text("kept")
    monkeypatch.setitem(numpy_templates.ACTIVATIONS, "gelu", "np.maximum(x, 0)")
    with pytest.raises(InvalidValueError, match=r"the outputs of the numpy file differ from those of mlp by 0\.\d+"):
        export("mlp", file, to="numpy")
    assert file.read_text() == "kept"
    assert export("mlp", file, to="numpy", tolerance=10.0).difference > 1e-3
    assert file.read_text() != "kept"


def test_a_model_that_branches_on_the_batch_is_named(tmp_path):
    pytest.importorskip("flatbuffers")
    model = nf.serial(body=nf.linear(4, 4), odd=lambda x: x * 2 if x.shape[0] > 2 else x)
    message = r"its layer at odd raises InconclusiveDimensionOperation: .*may not branch on it"
    with pytest.raises(InvalidValueError, match=message):
        nf.export(model, model.init(jax.random.key(0)), tmp_path / "model", images(3, 4), to="stablehlo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"to": "onx"}, "to should be one of 'stablehlo', 'onnx', 'litert', 'numpy', got 'onx'; did you mean 'onnx'"),
        ({"tolerance": 0.0}, "tolerance should be above 0"),
        ({"quantize": "weights"}, "quantize should be left out"),
        ({"file": "model.txt"}, r"file should end with \.py"),
        ({"file": "my-model.py"}, r"a name that Python can import"),
        ({"example": np.float32(1.0)}, "example should be arrays with the same leading axis"),
        (
            {"example": np.zeros((0, 4), np.float32)},
            "example should be arrays with the same leading axis, of at least 1",
        ),
        ({"labels": [0, 1, 2]}, r"labels should have the leading axis of example, 2, got shape \(3,\)"),
        ({"names": ["a"]}, "names should be those of the 3 outputs, got 1 name"),
        ({"transform": jnp.sin}, "transform should be a Normalise for numpy"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(options, message, tmp_path):
    model = nf.mlp([4, 3])
    example, file = options.pop("example", images(2, 4)), tmp_path / options.pop("file", "model.py")
    with pytest.raises(InvalidValueError, match=message):
        nf.export(model, model.init(jax.random.key(0)), file, example, **{"to": "numpy", **options})
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_the_file_is_made(tmp_path):
    export("mlp", tmp_path / "new" / "deep" / "model.py", to="numpy")
    assert (tmp_path / "new" / "deep" / "model.py").is_file()
