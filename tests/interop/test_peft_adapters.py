"""LoRA adapters in PEFT's format, by its formula and against PEFT."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.published_weights import filled
from safetensors.numpy import load_file, save_file

import nnfunc as nf

LLAMA = nf.llama(33, dim=16, layers=2, heads=4, kv_heads=2, hidden=24)
GPT = nf.gpt(33, block_size=16, layers=2, heads=4, dim=16)
IDS = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)


def drawn(tree):
    leaves = nf.paths.flatten(tree)
    return nf.paths.unflatten(
        {path: jnp.asarray(filled(path, leaf.shape), jnp.float32) for path, leaf in leaves.items()}
    )


@pytest.fixture(scope="module")
def bases():
    return {model: drawn(jax.eval_shape(model.init, jax.random.key(0))) for model in (LLAMA, GPT)}


def adapters_of_gpt(folder, **changes):
    """What PEFT saves for GPT-2 with target_modules=["c_attn", "mlp.c_proj"]."""
    tensors = {}
    for i in range(2):
        for module, shape in (("attn.c_attn", (16, 48)), ("mlp.c_proj", (64, 16))):
            name = f"base_model.model.transformer.h.{i}.{module}"
            tensors |= {f"{name}.lora_A.weight": (3, shape[0]), f"{name}.lora_B.weight": (shape[1], 3)}
    tensors = {name: filled(name, shape).astype("f4") for name, shape in tensors.items()}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["c_attn", "mlp.c_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"fan_in_fan_out": True} | changes))
    return tensors


@pytest.mark.parametrize("rslora", [False, True])
def test_adapters_are_added_to_the_published_weights(bases, tmp_path, rslora):
    base = bases[GPT]
    tensors = adapters_of_gpt(tmp_path / "adapter", use_rslora=rslora)
    adapted, params = nf.lora_from_peft(tmp_path / "adapter", GPT, base)
    merged = nf.merge_lora(adapted, params)
    nf.to_pretrained(GPT, base, tmp_path / "base")
    nf.to_pretrained(GPT, merged, tmp_path / "merged")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    scale = 6 / np.sqrt(3) if rslora else 6 / 3
    for name, array in before.items():
        a, b = (tensors.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight") for x in "AB")
        expected = array if a is None else array + scale * (b @ a).T  # GPT-2's weights are [in, out]
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)
    written = nf.lora_to_peft(adapted, params, tmp_path / "again")
    for name, array in load_file(written / "adapter_model.safetensors").items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)


def test_adapters_come_back_as_they_were(bases, tmp_path):
    adapted = nf.lora(
        LLAMA, bases[LLAMA], ("**/query/weight", "**/value/weight", "**/mlp/down/weight"), rank=2, alpha=8
    )
    params = drawn(jax.eval_shape(adapted.init, jax.random.key(0)))
    folder = nf.lora_to_peft(adapted, params, tmp_path / "adapter", base_name="owner/base")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["target_modules"] == ["mlp.down_proj", "self_attn.q_proj", "self_attn.v_proj"]
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (2, 8.0, False)
    again, same = nf.lora_from_peft(folder, LLAMA, bases[LLAMA])
    jax.tree.map(np.testing.assert_array_equal, same, params)
    y = adapted.apply(params, IDS, state=adapted.init_state())
    np.testing.assert_array_equal(again.apply(same, IDS, state=again.init_state()), y)


@pytest.mark.parametrize("on", ["**/attend/*/weight", ("**/query/weight", "**/value/weight")])
def test_adapters_of_one_published_matrix_are_joined(bases, tmp_path, on):
    """query, key and value of GPT-2 are c_attn: an adapter of three times the rank, with zeros between the blocks."""
    adapted = nf.lora(GPT, bases[GPT], on, rank=2, alpha=8)
    params = drawn(jax.eval_shape(adapted.init, jax.random.key(0)))
    folder = nf.lora_to_peft(adapted, params, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (
        2,
        {"attn.c_attn": 6},
        {"attn.c_attn": 24},
    )
    tensors = load_file(folder / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.transformer.h.1.attn.c_attn.lora_{x}.weight"] for x in "AB")
    merged = nf.merge_lora(adapted, params)["blocks"]["attend"]
    names = ("query", "key", "value")
    change = [merged[name]["weight"][1] - bases[GPT]["blocks"]["attend"][name]["weight"][1] for name in names]
    np.testing.assert_allclose(24 / 6 * (b @ a).T, np.concatenate(change, axis=-1), rtol=1e-4, atol=1e-4)
    again, same = nf.lora_from_peft(folder, GPT, bases[GPT])
    jax.tree.map(np.testing.assert_array_equal, same, params)
    y = adapted.apply(params, IDS, state=adapted.init_state())
    np.testing.assert_array_equal(again.apply(same, IDS, state=again.init_state()), y)
    file = folder / "adapter_model.safetensors"
    save_file({name: np.ones_like(x) for name, x in tensors.items()}, file)
    with pytest.raises(ValueError, match=r"c_attn.weight has an adapter of rank 6 that is not 3 of rank 2"):
        nf.lora_from_peft(folder, GPT, bases[GPT])
    edit(folder, rank_pattern={"attn.c_attn": 5})
    with pytest.raises(ValueError, match=r"rank_pattern should be \{\}, as nf.lora has one rank and one alpha, got"):
        nf.lora_from_peft(folder, GPT, bases[GPT])


def drop_a_layer(folder):
    file = folder / "adapter_model.safetensors"
    save_file({name: x for name, x in load_file(file).items() if ".h.0." in name}, file)


def drop_a_matrix(folder):
    file = folder / "adapter_model.safetensors"
    save_file({name: x for name, x in load_file(file).items() if "h.0.mlp.c_proj.lora_B" not in name}, file)


def edit(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: edit(f, use_dora=True), "use_dora should be False, the only value that nf.lora supports, got True"),
        (lambda f: edit(f, r=4), r"c_attn.lora_A.weight should have shape \(4, 16\), got shape \(3, 16\)"),
        (lambda f: edit(f, r="3"), "adapter_config.json: r should be an integer"),
        (drop_a_layer, "every layer of blocks/attend/query/weight should have an adapter, got 1 of them"),
        (drop_a_matrix, "transformer.h.0.mlp.c_proj.lora_B.weight has no tensor"),
        (lambda f: (f / "adapter_config.json").unlink(), "it has no adapter_config.json"),
    ],
)
def test_what_is_wrong_with_adapters_is_said(bases, tmp_path, damage, message):
    adapters_of_gpt(tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        nf.lora_from_peft(tmp_path / "adapter", GPT, bases[GPT])


def test_adapters_of_another_model_are_refused(bases, tmp_path):
    adapters_of_gpt(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"transformer.h.0.attn.c_attn.lora_A.weight has no weight of the model"):
        nf.lora_from_peft(tmp_path / "adapter", LLAMA, bases[LLAMA])


def test_adapters_that_the_format_does_not_have_are_refused(bases, tmp_path, key):
    trained = nf.lora(LLAMA, bases[LLAMA], "**/query/weight", rank=2, train="norm/scale")
    with pytest.raises(ValueError, match="PEFT's format holds only adapters, but norm/scale is trained fully"):
        nf.lora_to_peft(trained, trained.init(key), tmp_path / "out")
    with pytest.raises(TypeError, match=r"model should be the result of nf.lora, got"):
        nf.lora_to_peft(LLAMA, bases[LLAMA], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "model, on",
    [(LLAMA, ("**/query/weight", "**/mlp/*/weight")), (GPT, ("**/query/weight", "**/value/weight", "**/mlp/*/weight"))],
)
def test_peft_loads_what_is_written(bases, model, on, tmp_path):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    adapted = nf.lora(model, bases[model], on, rank=2, alpha=8)
    params = drawn(jax.eval_shape(adapted.init, jax.random.key(0)))
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        nf.to_pretrained(model, bases[model], tmp_path / "base")
    )
    folder = nf.lora_to_peft(adapted, params, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(reference, folder).eval()
    y = adapted.apply(params, IDS, state=adapted.init_state())
    with torch.no_grad():
        expected = theirs(torch.tensor(np.asarray(IDS))).logits.numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    theirs.save_pretrained(tmp_path / "saved")
    _, again = nf.lora_from_peft(tmp_path / "saved", model, bases[model])
    jax.tree.map(np.testing.assert_array_equal, again, params)
