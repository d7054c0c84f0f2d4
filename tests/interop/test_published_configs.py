"""The settings of config.json in the forms in which they were published: older names and places."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nnfunc as nf
from nnfunc.interop.families.timm_configs import timm_family
from nnfunc.interop.published_config import PublishedConfig, arguments_of
from nnfunc.interop.registry import FAMILIES

DECODER = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
QWEN_WINDOWS = {"use_sliding_window": True, "sliding_window": 8}
MIXED = ["full_attention", "sliding_attention"] * 2
LONG = {"type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [2.0, 3.0]}


def arguments(family, **config):
    return FAMILIES[family].arguments(PublishedConfig(config, "config.json"))


@pytest.mark.parametrize(
    "family, config, expected",
    [
        ("llama", {}, {"rotary_base": 1e4, "eps": 1e-5, "tied": False, "qkv_bias": False}),
        ("llama", {"attention_bias": True}, {"qkv_bias": True, "out_bias": True}),
        (
            "llama",
            {"rope_theta": 5e5, "rope_scaling": LLAMA3},  # Llama 3.1
            {
                "rotary_base": 5e5,
                "rotary_scaling": {"name": "llama3", "factor": 8.0, "length": 8192, "low": 1.0, "high": 4.0},
            },
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rotary_scaling": {"name": "linear", "factor": 4.0}},
        ),
        (
            "llama",
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            {"rotary_scaling": {"name": "dynamic", "factor": 2.0, "length": 4096}},
        ),
        (
            "qwen2",
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
            {"rotary_scaling": {"name": "yarn", "factor": 4.0, "length": 1024}, "qkv_bias": True},
        ),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 131072}, {"qkv_bias": True}),
        ("qwen2", QWEN_WINDOWS | {"max_window_layers": 2}, {"windows": [math.inf, math.inf, 8.0, 8.0]}),
        ("qwen2", QWEN_WINDOWS | {"max_window_layers": 0}, {"window": 8}),
        ("qwen3", QWEN_WINDOWS | {"layer_types": MIXED}, {"windows": [math.inf, 8.0] * 2, "qk_norm": True}),
        ("mistral", {"sliding_window": 4096, "rope_theta": 1e4}, {"window": 4096}),
        ("mistral", {"sliding_window": None, "rope_theta": 1e6}, {"rotary_base": 1e6}),
        (
            "phi3",
            {"rope_scaling": LONG, "original_max_position_embeddings": 1024, "sliding_window": 2047},
            {
                "rotary_scaling": {
                    "name": "longrope",
                    "factor": 4.0,
                    "length": 1024,
                    "short": [1.0, 1.1],
                    "long": [2.0, 3.0],
                },
                "window": 2047,
            },
        ),
        ("phi3", {"partial_rotary_factor": 0.5}, {"rotary_dim": 2}),
        ("gemma", {"hidden_act": "gelu"}, {"activation": "geglu_tanh", "tied": True, "embedding_scale": 4.0}),
        (
            "gemma2",
            {"sliding_window": 8, "query_pre_attn_scalar": 16},
            {"windows": [8.0, math.inf, 8.0, math.inf], "scale": 0.25, "post_norm": True},
        ),
        (
            "gemma3_text",
            {"num_hidden_layers": 7, "sliding_window": 8, "rope_theta": 1e6, "rope_local_base_freq": 1e4},
            {"windows": [8.0] * 5 + [math.inf, 8.0], "rotary_bases": [1e4] * 5 + [1e6, 1e4], "qk_norm": True},
        ),
        ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, {"rotary_factors": [1.0] * 4}),
        ("gemma3_text", {"sliding_window_pattern": 2, "sliding_window": 8}, {"windows": [8.0, math.inf] * 2}),
        ("gemma2", {}, {"head_dim": 256}),  # the defaults of transformers
        ("qwen3", {}, {"head_dim": 128}),
        ("qwen3", {"head_dim": 64}, {"head_dim": 64}),
    ],
)
def test_published_forms_are_read(family, config, expected):
    actual = arguments(family, **{**DECODER, **config})
    assert {name: actual.get(name) for name in expected} == expected
    if "window" not in expected:
        assert "window" not in actual


def test_the_text_part_of_gemma_3_with_images_is_read(tmp_path, key):
    """Its config.json leaves out what is the default, and its tensors have a prefix."""
    text = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 6, "sliding_window": 4, "vocab_size": 30}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "head_dim": 4}
    expected = arguments("gemma3", text_config=text)
    assert expected["rotary_factors"] == [1.0] * 5 + [8.0]
    assert [expected[name] for name in ("heads", "kv_heads", "tied", "scale")] == [8, 4, True, 1 / 16]
    model = nf.llama(**expected)
    params = model.init(key)
    nf.to_pretrained(model, params, tmp_path / "text", family="gemma3_text")
    ids = jax.numpy.array([[1, 2, 3, 4, 5, 6, 7]])
    y = model.apply(params, ids)
    again = nf.pretrained(tmp_path / "text")
    np.testing.assert_array_equal(again.model.apply(again.params, ids), y)
    plain = nf.llama(**expected | {"rotary_factors": None})
    assert np.abs(plain.apply(params, ids) - y).max() > 1e-6  # the factors are used
    tensors = load_file(tmp_path / "text" / "model.safetensors")
    both = {f"language_model.{name}": x for name, x in tensors.items()} | {"vision_tower.x": np.ones(2, np.float32)}
    (tmp_path / "both").mkdir()
    save_file(both, tmp_path / "both" / "model.safetensors")
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    (tmp_path / "both" / "config.json").write_text(json.dumps(config))
    result = nf.pretrained(tmp_path / "both")
    np.testing.assert_array_equal(result.model.apply(result.params, ids), y)


@pytest.mark.parametrize(
    "family, config, message",
    [
        (
            "llama",
            {"mlp_bias": True},
            "mlp_bias should be False, the only value that nnfunc supports in this model, got True",
        ),
        ("llama", {"hidden_act": "gelu_nwe"}, "hidden_act should be one of .* did you mean 'gelu_new'"),
        ("llama", {"rope_scaling": {"type": "linaer"}}, "rope_type should be one of .* did you mean 'linear'"),
        ("llama", {"rope_scaling": {"type": "llama3", "factor": 8.0}}, "'llama3' needs low_freq_factor"),
        ("llama", {"rope_scaling": [8.0]}, r"rope_scaling should be a table, got \[8.0\] \(list\)"),
        ("llama", {"rope_theta": "1e4"}, r"rope_theta should be a number, got '1e4' \(str\)"),
        ("deit", {"architectures": ["DeiTForImageClassification"]}, "architectures should be .*WithTeacher'"),
        ("bert", {"architectures": ["BertForNextSentencePrediction"]}, r"architectures should be \['BertModel'\]"),
        ("llama", {"hidden_size": 16.5}, "hidden_size should be an integer, got 16.5"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings should be true or false, got 1"),
        (
            "gemma3_text",
            {"rope_scaling": {"rope_type": "yarn", "factor": 8.0}},
            "the rope_type of full_attention should be 'default' or 'linear', got 'yarn'",
        ),
    ],
)
def test_settings_that_no_model_has_here_are_refused(family, config, message):
    with pytest.raises(ValueError, match=rf"config.json.*{message}"):
        arguments(family, **{**DECODER, **config})


def test_models_without_a_head_are_read():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    for family, name, head in (
        ("clip_text_model", "CLIPTextModel", "out_dim"),
        ("clip_vision_model", "CLIPVisionModel", "classes"),
    ):
        assert arguments(family, architectures=[name], **sizes)[head] is None
        assert arguments(family, architectures=[f"{name}WithProjection"], **sizes)[head] == 512
    bart = {
        f"{stack}_{name}": 2 for stack in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")
    }
    bart |= {"vocab_size": 9, "d_model": 4, "max_position_embeddings": 8}
    assert arguments("bart", architectures=["BartModel"], **bart)["output"] == "hidden"  # as bart-base and bart-large
    assert arguments("bart", architectures=["BartForConditionalGeneration"], **bart)["output"] == "tokens"
    for family, name in (("llama", "LlamaModel"), ("gemma3_text", "Gemma3TextModel"), ("bert", "BertModel")):
        assert arguments(family, architectures=[name], **DECODER)["output"] == "hidden"
    assert arguments("mt5", architectures=["MT5EncoderModel"], **T5)["decoder_layers"] == 0


T5 = {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}


@pytest.mark.parametrize(
    "family, config, expected",
    [
        ("t5", {}, {"activation": "relu", "tied": True, "head_scale": 512**-0.5, "scale": 1.0, "buckets": 32}),
        (
            "mt5",  # as T5 1.1 and FLAN-T5
            {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3},
            {"activation": "geglu_tanh", "tied": "tables", "decoder_layers": 3, "head_dim": 64, "bias": False},
        ),
    ],
)
def test_the_versions_of_t5_differ_in_their_heads(family, config, expected):
    actual = arguments(family, **T5, **config)
    assert {name: actual[name] for name in expected} == expected
    assert ("head_scale" in actual) == (family == "t5")


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_the_body_of_t5_has_the_head_of_its_config(family):
    """It counts where output="tokens" is asked for: without a head in the file there is none to read."""
    for tied, expected in ((True, True), (False, "tables")):
        names = {"architectures": [f"{family.upper()}Model"], "scale_decoder_outputs": False}
        config = PublishedConfig(T5 | names | {"tie_word_embeddings": tied}, "", {"shared.weight"})
        actual = FAMILIES[family].arguments(config)
        assert (actual["output"], actual["tied"]) == ("hidden", expected)


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_the_head_of_t5_is_the_table_where_the_file_has_no_other(family):
    """transformers 5 writes no head that is equal to the table, whatever tie_word_embeddings was."""
    for names, tied in (({"shared.weight"}, True), ({"shared.weight", "lm_head.weight"}, "tables")):
        config = PublishedConfig(T5 | {"tie_word_embeddings": True, "scale_decoder_outputs": False}, "", names)
        actual = FAMILIES[family].arguments(config)
        assert (actual["tied"], actual.get("head_scale")) == (tied, None)


TIMM_VIT = {"image_size": 224, "patch": 16, "dim": 192, "layers": 12, "heads": 3, "hidden": 768}


@pytest.mark.parametrize(
    "config, family, expected",
    [
        (
            {"architecture": "vit_tiny_patch16_224", "num_classes": 7},
            "timm-vit",
            TIMM_VIT | {"classes": 7, "in_dim": 3},
        ),
        (
            {
                "architecture": "deit_tiny_distilled_patch16_224",
                "model_args": {"img_size": [32, 64], "mlp_ratio": 2, "drop_rate": 0.1, "in_chans": 1},
            },
            "timm-vit",
            TIMM_VIT | {"image_size": (32, 64), "hidden": 384, "pool": "distilled", "in_dim": 1},
        ),
        (
            {"architecture": "resnet50.a1_in1k", "pretrained_cfg": {"input_size": [1, 224, 224]}},
            "torchvision-resnet",
            {"block": "bottleneck", "depths": [3, 4, 6, 3], "classes": 1000, "in_dim": 1},
        ),
        (
            {"architecture": "convnext_base", "model_args": {"depths": [1, 1]}},
            "timm-convnext",
            {"depths": (1, 1), "widths": [128, 256, 512, 1024]},
        ),
    ],
)
def test_the_names_of_timm_are_read(config, family, expected):
    assert timm_family(config["architecture"]) == family
    actual = arguments(family, **config)
    assert {name: actual[name] for name in expected} == expected


@pytest.mark.parametrize(
    "config, message",
    [
        ({"architecture": "vit_base_patch16_clip_224"}, "architecture 'vit_base_patch16_clip_224' is not known"),
        (
            {"architecture": "vit_tiny_patch16_224", "model_args": {"init_values": 1e-5}},
            "config.json: model_args: the names should be among .*, got init_values",
        ),
        ({"architecture": "vit_tiny_patch16_224", "global_pool": "avg"}, "global_pool should be 'token', got 'avg'"),
    ],
)
def test_models_of_timm_that_are_not_here_are_refused(config, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(bytes([2, *[0] * 7]) + b"{}")
    with pytest.raises(ValueError, match=message):
        nf.pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes",
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "embed_dim": 24, "in_chans": 1}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 2}),
        ("resnet18", {}),
        ("resnet50", {}),
        ("convnext_tiny", {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}),
    ],
)
def test_models_of_timm_compute_what_timm_computes(name, changes, tmp_path):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    torch.manual_seed(0)
    reference = timm.create_model(name, num_classes=3, **changes).eval()
    timm.models.save_for_hf(reference, tmp_path / "timm", safe_serialization=True)
    result = nf.pretrained(tmp_path / "timm")
    assert_equal(reference, result, changes.get("in_chans", 3), tmp_path)


def torchvision_models():
    """Small ones of each architecture, with the model here."""
    models = pytest.importorskip("torchvision").models
    stages = [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 2)]
    vit = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
    sizes = {"image_size": 32, "patch": 8, "layers": 2, "heads": 2, "dim": 16, "hidden": 24}
    return {
        "resnet18": lambda: (models.resnet18(num_classes=3), nf.resnet18(3)),
        "resnet50": lambda: (models.resnet50(num_classes=3), nf.resnet50(3)),
        "convnext": lambda: (
            models.convnext.ConvNeXt(stages, num_classes=3),
            nf.convnext(3, depths=[1, 2], widths=[8, 16]),
        ),
        "vit": lambda: (models.VisionTransformer(**vit, num_classes=3), nf.vit(3, **sizes)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext", "vit"])
def test_models_of_torchvision_compute_what_it_computes(name, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    reference, model = torchvision_models()[name]()
    with torch.no_grad():
        for leaf in reference.parameters():  # scales of 1e-6 and heads of zeros hide what is wrong
            leaf += 0.05 * torch.randn_like(leaf)
    reference.eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    result = nf.pretrained(tmp_path / "weights.pth", model=model)
    assert result.family == f"torchvision-{name.rstrip('0158')}"
    assert_equal(reference, result, 3, tmp_path)


def assert_equal(reference, result, channels, folder):
    """Logits, the norm of the gradient of a loss, and the way back."""
    import torch

    model, params = result
    images = np.random.default_rng(0).standard_normal((2, 32, 32, channels)).astype("f4")
    pixels, labels = torch.tensor(images.transpose(0, 3, 1, 2)), np.array([2, 0])
    expected = reference(pixels)
    torch.nn.functional.cross_entropy(expected, torch.tensor(labels)).backward()
    expected_norm = float(sum(leaf.grad.square().sum() for leaf in reference.parameters()).sqrt())

    @jax.jit
    def run(params):
        def loss(params):
            logits = model.apply(params, images, state=model.init_state())
            return nf.losses.cross_entropy(logits, labels).mean(), logits

        (_, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return logits, jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))

    logits, norm = run(params)
    expected = expected.detach().numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert norm == pytest.approx(expected_norm, rel=1e-4)
    out = nf.to_pretrained(model, params, folder / "out", family=result.family)
    written = {name: torch.tensor(x) for name, x in load_file(out / "model.safetensors").items()}
    with torch.no_grad():
        for leaf in (*reference.parameters(), *reference.buffers()):
            leaf.zero_()
        reference.load_state_dict(written)  # every name, and no other
        assert np.abs(reference(pixels).numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_config_json_has_the_names_of_the_classes(tmp_path):
    model = nf.vit(image_size=4, patch=2, classes=2, dim=4, layers=1, heads=1, in_dim=1, pool="class")
    params = model.init(jax.random.key(0))
    nf.to_pretrained(model, params, tmp_path / "vit", names=["cat", "dog"])
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog"}
    assert config["label2id"] == {"cat": 0, "dog": 1}
    with pytest.raises(ValueError, match="names should be those of the 2 classes of the model, got 1 name"):
        nf.to_pretrained(model, params, tmp_path / "other", names=["cat"])
    files = [(tmp_path / "vit" / name).stat().st_mode for name in ("model.safetensors", "config.json")]
    assert files[0] == files[1]  # the weights may be read by whoever may read the config


@pytest.mark.parametrize("family, options", [("qwen3", {"qk_norm": True}), ("gemma", {"activation": "geglu_tanh"})])
def test_the_size_of_a_head_is_written(family, options):
    """The default of transformers is another one in these families."""
    scale = {"embedding_scale": 4.0} if family == "gemma" else {}
    model = nf.llama(9, dim=16, layers=1, heads=2, hidden=8, tied=True, **options, **scale)
    assert FAMILIES[family].config(arguments_of(model)[1])["head_dim"] == 8
