"""Published weights against the reference library (tests/golden/published), in and out.

The golden numbers are float64, made with transformers 5.24 by scripts/golden/published_models.py from weights that
`filled` repeats.
"""

import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import GOLDEN
from helpers.published_weights import filled
from safetensors.numpy import load_file, save_file

import nnfunc as nf
from nnfunc.interop.tensor_files import open_tensors

FOLDER = GOLDEN / "published"
CASES = sorted(file.stem for file in FOLDER.glob("*.npz"))
DECODERS = [
    *("gpt2", "llama", "llama-linear", "llama-dynamic", "llama-yarn", "llama-llama3"),
    *("mistral", "mixtral", "qwen2", "qwen2-windows", "qwen3", "phi3", "phi3-longrope", "gemma", "gemma2", "gemma3"),
]
ENCODERS = [f"{name}-{output}" for name in ("bert", "roberta", "distilbert") for output in ("tokens", "classes")]
ENCODERS += ["bert-token-classes", "roberta-spans", "t5-encoder"]
CLASSIFIERS = ["gpt2-classes", "gemma2-classes"]
SEQ2SEQ = ["bart", "t5", "t5-gated", "mt5"]
TIMM = ["timm-convnext", "timm-vit"]
VISION = ["vit", "deit", "resnet-basic", "resnet-bottleneck", "convnext", *TIMM]
QUICK = (
    "vit",
    "timm-vit",
    "timm-convnext",
    "resnet-bottleneck",
    "bert-tokens",
    "distilbert-classes",
    "bert-token-classes",
    "t5-encoder",
    "gpt2",
    "gpt2-classes",
    "llama-llama3",
    "mistral",
    "phi3",
)
DOUBLE = ("gpt2", "bert-tokens", "roberta-classes", "distilbert-classes", "bart", "clip", *VISION)
"""The models whose reference computes all in float64; others have rotary angles or norms in float32."""


def some_slow(cases, quick=QUICK):
    return [pytest.param(case, marks=[pytest.mark.slow] * (case not in quick)) for case in cases]


@functools.cache
def golden(case):
    with np.load(FOLDER / f"{case}.npz") as file:
        return {name: file[name] for name in file.files}


def tensors(case):
    shapes = json.loads(str(golden(case)["names"]))
    return {name: np.asarray(filled(name, tuple(shape)), "f4") for name, shape in shapes.items()}


def write(case, folder):
    """The folder that the reference wrote."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(str(golden(case)["config"]))
    save_file(tensors(case), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return functools.cache(lambda case: nf.pretrained(write(case, tmp_path_factory.mktemp("published") / case)))


def inputs(case):
    if case in SEQ2SEQ:
        ids, target = (jnp.asarray(golden(case)[name], jnp.int32) for name in ("ids", "target"))
        return nf.Seq2SeqInput(ids, target, source_mask=jnp.asarray(golden(case)["source_mask"], bool))
    if case == "clip":
        return jnp.asarray(filled("x", (2, 3, 8, 8)).transpose(0, 2, 3, 1)), jnp.asarray(golden(case)["ids"], jnp.int32)
    if case in VISION:
        side = int(golden(case)["side"])
        return jnp.asarray(filled("x", (2, 3, side, side)).transpose(0, 2, 3, 1))
    ids = jnp.asarray(golden(case)["ids"], jnp.int32)
    if case in DECODERS + CLASSIFIERS:
        return ids
    if case == "t5-encoder":
        return nf.Seq2SeqInput(ids)
    types = golden(case).get("types")
    return nf.BertInput(ids, None if types is None else jnp.asarray(types, jnp.int32))


def loss_of(logits):
    flat = logits.reshape(-1, logits.shape[-1])
    labels = jnp.arange(len(flat), dtype=jnp.int32) % flat.shape[-1]
    return nf.losses.cross_entropy(flat, labels).mean()


@functools.cache
def compiled(model):
    """(logits, the norm of the gradient of the loss), compiled once."""
    state = model.init_state()

    @jax.jit
    def run(params, x):
        def loss(params):
            logits = model.apply(params, x, state=state)
            return loss_of(logits), logits

        (_, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return logits, jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))

    return run


def near(actual, expected, tolerance=1e-4):
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(np.asarray(actual) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("case", some_slow(DECODERS))
def test_decoders_compute_what_the_reference_computes(case, loaded):
    model, params = loaded(case)
    expected = golden(case)
    ids = jnp.asarray(expected["ids"], jnp.int32)
    logits, norm = compiled(model)(params, ids)
    near(logits, expected["logits"])
    near(norm, expected["gradient_norm"])
    for side in ("left", "right"):
        mask = expected[f"{side}_mask"]
        positions = jnp.asarray(np.maximum(mask.cumsum(-1) - 1, 0), jnp.int32)
        padded = jax.jit(model.apply)(params, nf.TokenInput(ids, jnp.asarray(mask, bool), positions=positions))
        near(padded[mask.astype(bool)], expected[f"{side}_logits"])


@pytest.mark.parametrize("case", some_slow(ENCODERS))
def test_encoders_compute_what_the_reference_computes(case, loaded):
    model, params = loaded(case)
    expected, x = golden(case), inputs(case)
    logits, norm = compiled(model)(params, x)
    near(logits, expected["logits"])
    near(norm, expected["gradient_norm"])
    mask_name = "source_mask" if case == "t5-encoder" else "mask"
    mask = expected["right_mask"].astype(bool)
    padded = jax.jit(model.apply)(params, x._replace(**{mask_name: jnp.asarray(mask)}))
    near(padded if padded.ndim == 2 else padded[mask], expected["right_logits"])
    if "left_mask" in expected:
        mask = expected["left_mask"]
        positions = {} if case == "t5-encoder" else {"positions": jnp.asarray(np.maximum(mask.cumsum(-1) - 1, 0), "i4")}
        padded = jax.jit(model.apply)(params, x._replace(**{mask_name: jnp.asarray(mask, bool)}, **positions))
        near(padded[mask.astype(bool)], expected["left_logits"])


@pytest.mark.parametrize("case", some_slow(CLASSIFIERS))
def test_classifiers_read_the_last_token_before_padding(case, loaded):
    model, params = loaded(case)
    logits, norm = compiled(model)(params, inputs(case))
    near(logits, golden(case)["logits"])
    near(norm, golden(case)["gradient_norm"])


def test_the_states_of_a_decoder_are_those_before_its_head(tmp_path):
    model, params = nf.pretrained(write("llama-llama3", tmp_path), output="hidden")
    states = jax.jit(model.apply)(params, inputs("llama-llama3"))
    near(states @ tensors("llama-llama3")["lm_head.weight"].T, golden("llama-llama3")["logits"])
    config = json.loads((nf.to_pretrained(model, params, tmp_path / "out") / "config.json").read_text())
    assert config["architectures"] == ["LlamaModel"]
    assert repr(nf.pretrained(tmp_path / "out").model) == repr(model)


@pytest.mark.parametrize("case", some_slow(VISION))
def test_vision_models_compute_what_the_reference_computes(case, loaded):
    model, params = loaded(case)
    logits, norm = compiled(model)(params, inputs(case).astype(jnp.float32))
    near(logits, golden(case)["logits"])
    near(norm, golden(case)["gradient_norm"])


@pytest.mark.parametrize("case", some_slow(SEQ2SEQ, ("bart", "mt5")))
def test_encoder_decoders_compute_what_the_reference_computes(case, loaded):
    model, params = loaded(case)
    expected, x = golden(case), inputs(case)
    logits, norm = compiled(model)(params, x)
    near(logits, expected["logits"])
    near(norm, expected["gradient_norm"])
    apply = jax.jit(model.apply)
    for side in ("left", "right"):
        source, target = (jnp.asarray(expected[f"{side}_{part}"], bool) for part in ("source", "target"))
        padded = apply(params, x._replace(source_mask=source, target_mask=target))
        near(padded[np.asarray(target)], expected[f"{side}_logits"])


@pytest.mark.parametrize("case", some_slow(SEQ2SEQ, ("bart",)))
def test_greedy_decoding_of_a_source_is_that_of_the_reference(case, loaded):
    model, params = loaded(case)
    tokens = golden(case)["tokens"]
    memory = model.apply(params, nf.Seq2SeqInput(inputs(case).source))
    decoder = nf.wire(lambda net, x: net.model(nf.Seq2SeqInput(memory=memory[: len(x)], target=x)), model=model)
    actual = nf.generate(decoder, {"model": params}, tokens[:, :1].astype("i4"), 64)
    np.testing.assert_array_equal(actual.tokens, tokens)


def test_clip_and_its_towers_compute_what_the_reference_computes(loaded, tmp_path):
    expected, (images, ids) = golden("clip"), inputs("clip")
    model, params = loaded("clip")
    logits, norm = compiled(model)(params, (images.astype(jnp.float32), ids))
    near(logits, expected["logits"])
    near(norm, expected["gradient_norm"])
    folder = write("clip", tmp_path / "clip")
    for family, x, name in (("clip_vision_model", images, "image"), ("clip_text_model", ids, "text")):
        tower, params = nf.pretrained(folder, family=family)
        y = np.asarray(jax.jit(tower.apply)(params, x.astype(jnp.float32) if name == "image" else x))
        y = y / np.linalg.norm(y, axis=-1, keepdims=True)
        near(y @ y.T, expected[f"{name}_cosines"])
        out = nf.to_pretrained(tower, params, tmp_path / name)
        assert json.loads((out / "config.json").read_text())["model_type"] == family
        jax.tree.map(np.testing.assert_array_equal, nf.pretrained(out).params, params)


@pytest.mark.parametrize("case", some_slow(DOUBLE, ("gpt2", "vit", "bart")))
def test_logits_in_float64_are_those_of_the_reference(case, tmp_path):
    with jax.enable_x64(True):
        model, params = nf.pretrained(write(case, tmp_path), dtype=jnp.float64)
        logits, norm = compiled(model)(params, inputs(case))
        near(logits, golden(case)["logits"], 1e-9)
        near(norm, golden(case)["gradient_norm"], 1e-9)


@pytest.mark.parametrize("case", some_slow(DECODERS))
def test_greedy_generation_is_that_of_the_reference(case, loaded):
    model, params = loaded(case)
    expected = golden(case)["tokens"]
    actual = nf.generate(model, params, expected[:, :-64].astype("i4"), 64)
    np.testing.assert_array_equal(actual.tokens, expected)


@pytest.mark.parametrize("case", CASES)
def test_written_weights_are_those_that_were_read(case, loaded, tmp_path):
    model, params = loaded(case)
    folder = nf.to_pretrained(model, params, tmp_path / "out", family=loaded(case).family)
    written, original = load_file(folder / "model.safetensors"), tensors(case)
    assert {*written} == {*original}
    for name, array in original.items():
        if "num_batches" in name:
            continue
        unused = 2 * ("roberta.embeddings.position" in name or "embed_positions" in name)  # before the first position
        tolerance = 2e-7 * case.startswith("gemma")  # 1 is added to its scales
        pair = np.atleast_1d(written[name])[unused:], np.atleast_1d(array)[unused:]
        np.testing.assert_allclose(*pair, rtol=0, atol=tolerance, err_msg=name)
    is_timm = case in TIMM  # whose weights are written without a config.json
    again, same = nf.pretrained(folder, model=model if is_timm else None)
    assert repr(again) == repr(model)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    if is_timm:
        return
    config, first = json.loads((folder / "config.json").read_text()), json.loads(str(golden(case)["config"]))
    assert [config[name] for name in ("model_type", "architectures")] == [first["model_type"], first["architectures"]]


@pytest.mark.parametrize("case", ["gemma", "gemma2", "gemma3", "qwen3"])
def test_a_model_that_is_passed_is_read_by_its_config(case, loaded, tmp_path):
    """Several families have the same names, and store them differently."""
    model, params = loaded(case)
    again = nf.pretrained(write(case, tmp_path / case), model=model)
    assert again.family == loaded(case).family
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in TIMM])
def test_the_reference_loads_what_is_written(case, loaded, tmp_path):
    """Needs transformers 5.24 or newer, which the golden file was made with."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    result, expected = loaded(case), golden(case)
    folder = nf.to_pretrained(result.model, result.params, tmp_path / "out", family=result.family)
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    names = {"types": "token_type_ids", "target": "decoder_input_ids", "source_mask": "attention_mask"}
    types = {names[name]: torch.tensor(expected[name]) for name in names if name in expected}
    x = np.asarray(inputs(case)).transpose(0, 3, 1, 2) if case in VISION else expected["ids"]
    pixels = torch.tensor(filled("x", (2, 3, 8, 8)).astype("f4")) if case == "clip" else None
    with torch.no_grad():
        output = model.eval()(torch.tensor(x), **types) if pixels is None else model(torch.tensor(x), pixels)
        actual = torch.stack([*output.values()], -1) if case == "roberta-spans" else output[0]
        near(actual.numpy(), expected["logits"])
    assert transformers.AutoModel.from_pretrained(folder) is not None


# What is wrong with a file or a folder.


@pytest.fixture
def folder(tmp_path):
    return write("gpt2", tmp_path / "gpt2")


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def shard(folder, missing=""):
    """The weights in two files and an index."""
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(arrays)
    parts = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for file, part in parts.items():
        if file != missing:
            save_file({name: arrays[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_read_as_one_file(folder):
    whole = nf.pretrained(folder).params
    shard(folder)
    jax.tree.map(np.testing.assert_array_equal, nf.pretrained(folder).params, whole)


def test_written_shards_are_as_large_as_asked(folder, tmp_path):
    model, params = nf.pretrained(folder)
    out = nf.to_pretrained(model, params, tmp_path / "out", shard_bytes=9000)
    files = sorted(file.name for file in out.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 2
    jax.tree.map(np.testing.assert_array_equal, nf.pretrained(out).params, params)


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def claim_a_longer_header(folder):
    file = folder / "model.safetensors"
    file.write_bytes((10**9).to_bytes(8, "little") + file.read_bytes()[8:])


def spoil_the_header(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'{"', b'{{"', 1))


def leave_the_folder(folder):
    index = {"weight_map": {"wte.weight": "../other.safetensors"}}
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def claim_another_shard(folder):
    shard(folder)
    file = folder / "model.safetensors.index.json"
    file.write_text(file.read_text().replace('wte.weight": "model-2', 'wte.weight": "model-1'))


def edit_header(change):
    """A function of a folder that changes the header of its weights, as JSON."""

    def edit(folder):
        file = folder / "model.safetensors"
        raw = file.read_bytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        header = change(raw[8:end].decode()).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + raw[end:])

    return edit


def share_bytes(text):
    header = json.loads(text)
    first, second = sorted({*header} - {"__metadata__"}, key=lambda name: header[name]["shape"])[:2]
    return json.dumps(header | {second: header[first]})


def test_tensors_without_values_share_no_bytes(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    raw = json.dumps(header | {"b": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    assert {name: tensor.shape for name, tensor in open_tensors(tmp_path).items()} == {"a": (2,), "b": (0,)}


def store_integers(folder):
    arrays = load_file(folder / "model.safetensors")
    arrays["transformer.ln_f.bias"] = arrays["transformer.ln_f.bias"].astype(np.int32)
    save_file(arrays, folder / "model.safetensors")


def replace_by_a_folder(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


@pytest.mark.parametrize(
    "damage, message",
    [
        (edit_header(lambda text: text.rstrip()[:-1] + ',"a":{},"a":{}}'), "its header has a twice. It is cut short"),
        (edit_header(share_bytes), "its header gives .* and .* the same bytes. It is cut short or damaged"),
        (
            lambda f: edit_config(f, n_layer=3, architectures=["GPT2DoubleHeadsModel"]),
            "without a tensor. Its architecture is GPT2DoubleHeadsModel; those of gpt2 that are read are GPT2LMHeadModel, ",
        ),
        (store_integers, "transformer.ln_f.bias is int32, no dtype of parameters. Pass dtype=jnp.float32"),
        (replace_by_a_folder, r"model.safetensors: it cannot be read \(Is a directory\)"),
        (
            lambda f: edit_config(f, quantization_config={"quant_method": "gptq"}),
            r"config.json: the weights are quantized \(gptq\), which is not read",
        ),
        (cut, r"model.safetensors: it has \d+ bytes, but its header says that \S+ ends at byte \d+. It is cut short"),
        (claim_a_longer_header, r"it has \d+ bytes, and its header claims to have 1000000000. It is cut short"),
        (spoil_the_header, "its header is not JSON. It is cut short or damaged: fetch it again"),
        (lambda f: (f / "model.safetensors").write_bytes(b"PK"), "it has 2 bytes, and its header claims"),
        (lambda f: (f / "model.safetensors").unlink(), "gpt2: it has no file of weights. It should hold one of model"),
        (lambda f: shard(f, "model-2.safetensors"), "index.json: it names model-2.safetensors, which is missing"),
        (leave_the_folder, "it names '../other.safetensors', which is not a file in its folder"),
        (claim_another_shard, "it says that model-1.safetensors holds transformer.wte.weight, which it does not"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: it is not JSON"),
        (lambda f: (f / "config.json").unlink(), "no config.json with a model_type.* Pass the model that it is"),
        (lambda f: edit_config(f, n_embd="16"), r"config.json: n_embd should be an integer, got '16' \(str\)"),
        (lambda f: edit_config(f, n_layer=0), "config.json: gpt: layers should be at least 1, got 0"),
        (
            lambda f: edit_config(f, architectures="GPT2Model"),
            "architectures should be a list of names, got 'GPT2Model'",
        ),
        (lambda f: edit_config(f, n_embd=None), "config.json: it has no n_embd, which sets dim of the model"),
        (lambda f: edit_config(f, activation_function="gelu_nwe"), "activation_function .* did you mean 'gelu_new'"),
        (
            lambda f: edit_config(f, scale_attn_by_inverse_layer_idx=True),
            "scale_attn_by_inverse_layer_idx should be False, the only value that nnfunc supports in this model, got True",
        ),
        (
            lambda f: edit_config(
                f, model_type="gpt_neox", trust_remote_code=True, auto_map={"AutoModel": "evil.Model"}
            ),
            r"architecture 'gpt_neox' is not known; those that are: bart, .*gpt2.* To add one, write a Family",
        ),
        (
            lambda f: edit_config(f, n_inner=20),
            r"model.safetensors: transformer.h.0.mlp.c_fc.weight should have shape \(16, 20\) for blocks/mlp/up/weight, "
            r"got shape \(16, 64\). The sizes of the model and of the file differ",
        ),
        (
            lambda f: edit_config(f, n_layer=3),
            r"gpt2: it has 16 parameters without a tensor. To allow it: unfilled=\"path(.|\n)*"
            r"parameter blocks/attend_norm/scale: no tensor transformer.h.2.ln_1.weight",
        ),
        (
            lambda f: edit_config(f, n_layer=1),
            r"it has 12 tensors without a parameter(.|\n)*tensor transformer.h.1.attn.c_attn",
        ),
    ],
)
def test_what_is_wrong_has_one_message(folder, damage, message):
    damage(folder)
    with pytest.raises((ValueError, OSError), match=message):
        nf.pretrained(folder)


def test_every_name_that_does_not_fit_is_in_the_message(folder):
    """Names that differ in their numbers alone, such as those of layers, are one line: the first and the last."""
    arrays = load_file(folder / "model.safetensors")
    names = {f"{name}{i}": np.ones(1, "f4") for name in "abcdefghijklmnop" for i in range(20)}
    lost = [name for name in arrays if "c_fc.weight" in name]
    save_file({name: x for name, x in (arrays | names).items() if name not in lost}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="320 tensors without a parameter and 1 parameter without a tensor") as error:
        nf.pretrained(folder)
    lines = str(error.value).splitlines()
    assert lines[1:-1] == [f"  tensor {name}0 to {name}19 (20): no parameter" for name in "abcdefghijklmnop"]
    assert lines[-1].startswith("  parameter blocks/mlp/up/weight: no tensor transformer.h.1.mlp.c_fc.weight")


def test_patterns_allow_what_is_missing(folder, key):
    edit_config(folder, n_layer=3)
    with pytest.raises(ValueError, match=r"key should be given, .* Pass key=jax.random.key\(0\)"):
        nf.pretrained(folder, unfilled="blocks/**")
    result = nf.pretrained(folder, unfilled="blocks/**", key=key)
    assert len(result.unfilled) == 16
    initial = result.model.init(key)["blocks"]["mlp"]["up"]["weight"]
    np.testing.assert_array_equal(result.params["blocks"]["mlp"]["up"]["weight"][2], initial[2])
    np.testing.assert_array_equal(
        result.params["blocks"]["mlp"]["up"]["weight"][1], tensors("gpt2")["transformer.h.1.mlp.c_fc.weight"]
    )
    edit_config(folder, n_layer=1)
    assert len(nf.pretrained(folder, unused="transformer.h.1.*").unused) == 12


@pytest.mark.parametrize(
    "case, change, pool",
    [
        ("vit", {"classes": None}, lambda y: y[:, 0]),
        ("deit", {"classes": None}, lambda y: y[:, :2]),
        ("bert-classes", {"output": "pooled"}, lambda y: y),
        ("convnext", {"classes": None}, lambda y: y),
        ("resnet-bottleneck", {"classes": None}, lambda y: y),
    ],
)
def test_states_without_a_head_give_the_logits_of_the_reference(case, change, pool, tmp_path):
    folder = write(case, tmp_path / case)
    model, params = nf.pretrained(folder, unused="*classifier.*", **change)
    x = inputs(case) if case == "bert-classes" else inputs(case).astype(jnp.float32)
    state = pool(jax.jit(model.apply)(params, x, state=model.init_state()))
    state = state[:, None] if state.ndim == 2 else state
    heads = {"deit": ["cls_classifier", "distillation_classifier"], "resnet-bottleneck": ["classifier.1"]}
    heads = heads.get(case, ["classifier"])
    arrays = tensors(case)
    logits = [state[:, i] @ arrays[f"{head}.weight"].T + arrays[f"{head}.bias"] for i, head in enumerate(heads)]
    near(sum(logits) / len(heads), golden(case)["logits"])
    out = nf.to_pretrained(model, params, tmp_path / "out")
    names = {"vit": "ViTModel", "deit": "DeiTModel", "bert-classes": "BertModel", "convnext": "ConvNextModel"}
    names |= {"resnet-bottleneck": "ResNetModel"}
    assert json.loads((out / "config.json").read_text())["architectures"] == [names[case]]
    again, same = nf.pretrained(out, **({"output": "pooled"} if "bert" in case else {}))
    assert repr(again) == repr(model)
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.slow
@pytest.mark.parametrize("case, name", [("vit", "ViTModel"), ("deit", "DeiTModel"), ("bert-classes", "BertModel")])
def test_the_reference_loads_what_is_written_without_a_head(case, name, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    change = {"output": "pooled"} if name == "BertModel" else {"classes": None}
    model, params = nf.pretrained(write(case, tmp_path / case), unused="*classifier.*", **change)
    folder = nf.to_pretrained(model, params, tmp_path / "out")
    options = {} if name == "BertModel" else {"add_pooling_layer": False}
    reference, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report.values())
    x = inputs(case)
    arrays = (x.ids, None, x.types) if name == "BertModel" else (x.astype(jnp.float32).transpose(0, 3, 1, 2),)
    with torch.no_grad():
        output = reference.eval()(*[y if y is None else torch.tensor(np.array(y)) for y in arrays])
    x = x if name == "BertModel" else x.astype(jnp.float32)
    near(model.apply(params, x), output[1 if name == "BertModel" else 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CLIPTextModel", "CLIPVisionModel", "BartModel", "T5Model", "MT5Model"])
def test_models_without_a_head_compute_the_same(name, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    is_tower, is_image = name.startswith("CLIP"), name == "CLIPVisionModel"
    case = "clip" if is_tower else name.removesuffix("Model").lower()
    config = json.loads(str(golden(case)["config"]))
    torch.manual_seed(0)
    reference = getattr(transformers, name)
    config = config[f"{name[4:-5].lower()}_config"] if is_tower else config
    reference = reference(reference.config_class(**config)).eval()
    reference.save_pretrained(tmp_path / "saved")
    model, params = nf.pretrained(tmp_path / "saved")
    arrays = [golden(case)[part] for part in ("ids", "target") if part in golden(case)]
    if is_image:
        arrays = [np.array(inputs("clip")[0].astype(jnp.float32).transpose(0, 3, 1, 2))]

    def compute(module):
        names = ["pixel_values" if is_image else "input_ids", "decoder_input_ids"]
        with torch.no_grad():
            output = module(**{name: torch.tensor(x) for name, x in zip(names, arrays, strict=False)})
        return output.pooler_output if is_image else output[0]

    x = [x.transpose(0, 2, 3, 1) if is_image else jnp.asarray(x, jnp.int32) for x in arrays]
    y = model.apply(params, x[0] if is_tower else nf.Seq2SeqInput(*x))
    near(y[:, 0] if is_image else y, compute(reference))
    folder = nf.to_pretrained(model, params, tmp_path / "out")
    again, report = type(reference).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    near(compute(again.eval()).numpy(), compute(reference))


@pytest.mark.parametrize(
    "case, head, scale", [("bart", "model.shared", 1), ("t5", "shared", 1 / 4), ("t5-gated", "lm_head", 1)]
)
def test_the_states_of_a_decoder_that_reads_a_source(case, head, scale, tmp_path):
    arrays, bias = tensors(case), "final_logits_bias"
    options = {"unused": bias, "logit_bias": False} if case == "bart" else {}
    model, params = nf.pretrained(write(case, tmp_path / "in"), output="hidden", **options)
    states = jax.jit(model.apply)(params, inputs(case))
    near(scale * states @ arrays[f"{head}.weight"].T + arrays.get(bias, 0), golden(case)["logits"])
    out = nf.to_pretrained(model, params, tmp_path / "out")
    name = "BartModel" if case == "bart" else "T5Model"
    assert json.loads((out / "config.json").read_text())["architectures"] == [name]
    again, same = nf.pretrained(out)
    assert repr(again) == repr(model)
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_the_head_of_a_body_of_bart_is_its_table(tmp_path):
    """As of bart-base, whose config.json names the body; transformers takes zeros for the bias of the logits."""
    model, params = nf.pretrained(write("bart", tmp_path / "in"), output="hidden", unused="final_logits_bias")
    folder = nf.to_pretrained(model, params, tmp_path / "body")
    model, params = nf.pretrained(folder, output="tokens")
    near(model.apply(params, inputs("bart")) + tensors("bart")["final_logits_bias"], golden("bart")["logits"])
    out = nf.to_pretrained(model, params, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BartForConditionalGeneration"]
    assert repr(nf.pretrained(out).model) == repr(model)


def test_the_body_alone_has_names_without_a_prefix(folder):
    arrays = load_file(folder / "model.safetensors")
    whole = nf.pretrained(folder).params
    arrays |= {"transformer.h.0.attn.bias": np.tri(4)[None, None]}  # a buffer of older files
    save_file({name.removeprefix("transformer."): x for name, x in arrays.items()}, folder / "model.safetensors")
    result = nf.pretrained(folder)
    assert result.ignored == ("h.0.attn.bias",)
    jax.tree.map(np.testing.assert_array_equal, result.params, whole)


def test_dtypes_are_those_of_the_file_or_as_asked(folder):
    arrays = load_file(folder / "model.safetensors")
    half = {name: np.asarray(jnp.asarray(x, jnp.bfloat16)) for name, x in arrays.items()}
    save_file(half, folder / "model.safetensors")
    model, params = nf.pretrained(folder)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    _, wide = nf.pretrained(folder, dtype=jnp.float32)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype("f4"), b), params, wide)
    assert np.isfinite(jax.jit(model.apply)(params, jnp.array([[1, 2]])).astype("f4")).all()
    save_file({name: x.astype("f8") for name, x in arrays.items()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"is float64, which needs x64. Pass dtype=jnp.float32"):
        nf.pretrained(folder)
    with pytest.raises(ValueError, match="dtype should be of floats, got int32"):
        nf.pretrained(folder, dtype=jnp.int32)


def test_parameters_do_not_change_with_the_file(folder):
    _, params = nf.pretrained(folder)
    before = jax.tree.map(np.array, params)
    file = folder / "model.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_arguments_of_the_model_can_be_changed(folder):
    model, _ = nf.pretrained(folder, dropout=0.1)
    assert "dropout=0.1" in repr(model)
    with pytest.raises(TypeError, match="there is no argument 'dropot'; did you mean 'dropout'"):
        nf.pretrained(folder, dropot=0.1)
    with pytest.raises(ValueError, match="the model is given, so dropout should be left out"):
        nf.pretrained(folder, model=model, dropout=0.1)


def test_pickled_files_need_pytorch(folder, monkeypatch):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"torch is not installed. Pickled files .* Convert it where"):
        nf.pretrained(folder)


ADVICE = "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely succeed.\n"


@pytest.mark.parametrize(
    "error, reason",
    [
        (EOFError(), "EOFError"),
        (KeyError(101), "KeyError: 101"),
        (
            RuntimeError("failed finding central directory. This is an error."),
            "RuntimeError: failed finding central dir",
        ),
        (
            ValueError(f"{ADVICE}WeightsUnpickler error: \n\nUnsupported operand 149\n\nCheck"),
            "Unsupported operand 149",
        ),
        (ValueError(f"{ADVICE}\tWeightsUnpickler error: GLOBAL io.open was not an allowed global"), "GLOBAL io.open"),
    ],
)
def test_a_pickled_file_is_refused_without_bad_advice(error, reason, folder, monkeypatch):
    """PyTorch's own, which is to run the code of the file."""

    def load(*args, **kwargs):
        raise error

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "torch", SimpleNamespace(load=load))
    with pytest.raises(ValueError, match=rf"loader refuses it \({reason}") as raised:
        nf.pretrained(folder)
    assert "False" not in str(raised.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"qkv_bias": True, "qk_norm": True},
            "no family has such a model.(.|\n)*qwen2: qk_norm should be False in this family",
        ),
        ({"mlp": nf.feed_forward(8, 4)}, "no family has such a model"),
    ],
)
def test_models_that_no_family_has_are_refused(change, message, tmp_path, key):
    model = nf.llama(5, **{"dim": 8, "layers": 1, "heads": 2, "hidden": 4} | change)
    with pytest.raises(ValueError, match=message):
        nf.to_pretrained(model, model.init(key), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoder_of_bart_alone_is_refused(tmp_path, key):
    """transformers has no such model; that of T5 it has."""
    model = nf.seq2seq(
        9, **{"dim": 4, "layers": 1, "heads": 2, "block_size": 8, "embedding_norm": True}, decoder_layers=0
    )
    with pytest.raises(ValueError, match="decoder_layers should be above 0 in this family, got 0"):
        nf.to_pretrained(model, model.init(key), tmp_path / "out", family="bart")
    assert not (tmp_path / "out").exists()


def test_only_models_of_factories_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"model should be the result of bert, .*gpt, .*llama"):
        nf.to_pretrained(nf.linear(2, 3), {}, tmp_path / "out")


def test_the_hub_is_asked_only_by_name(monkeypatch, tmp_path):
    class Hub:
        constants = type("Constants", (), {"HF_HUB_OFFLINE": False})

        class HfApi:
            def model_info(self, name, revision):
                return type("Info", (), {"sha": f"commit of {name} at {revision}"})

        @staticmethod
        def snapshot_download(name, revision, allow_patterns, local_files_only):
            assert not any("py" in pattern or "bin" in pattern for pattern in allow_patterns)
            assert not local_files_only
            return write("gpt2", tmp_path / revision.replace("/", "-"))

    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", Hub)
    result = nf.pretrained("hf://openai/gpt2", revision="main")
    assert result.revision == "commit of openai-gpt2 at main"
    for source, message in (("hf://gpt2", "source should be hf://owner/name"), ("gpt2", "revision is that of hf://")):
        with pytest.raises(ValueError, match=message):
            nf.pretrained(source, revision="main")


def test_matrices_larger_than_a_block_are_transposed_whole(tmp_path):
    """They are copied in blocks of 64 columns."""
    model = nf.llama(7, dim=72, layers=2, heads=4, hidden=130)
    shapes = nf.paths.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    params = nf.paths.unflatten({path: filled(path, leaf.shape).astype("f4") for path, leaf in shapes.items()})
    folder = nf.to_pretrained(model, params, tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, nf.pretrained(folder).params, params)
    written = load_file(folder / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_array_equal(written, params["blocks"]["mlp"]["up"]["weight"][1].T)
