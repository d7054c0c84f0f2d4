"""Golden numbers for published weights: tiny models of transformers 5.24 and timm, with weights that depend on their names.

    python scripts/golden/published_models.py [case ...]        # writes tests/golden/published/<case>.npz

It needs torch, transformers and timm; the tests need none of them. Each file has the config.json, the names and shapes of the
tensors as `save_pretrained` writes them, the inputs, and what the reference computes in float64: logits (of two
padded batches, too), the norm of the gradient of a loss, and 64 tokens of a greedy generation with a cache.
"""

import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import timm
import torch
import transformers as hf
from safetensors import safe_open
from safetensors.numpy import save_file

FOLDER = Path(__file__).resolve().parents[2] / "tests/golden/published"
VOCAB = 33
DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    **dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id"]),
}
ENCODER = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
}
ROBERTA = {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {
    "vocab_size": VOCAB,
    "dim": 16,
    "hidden_dim": 24,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 20,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": 3,
}
TOWER = {name: VISION[name] for name in [*VISION][:4]}
CLIP_TEXT = {**TOWER, "vocab_size": VOCAB, "max_position_embeddings": 10, "projection_dim": 5, "eos_token_id": 32}
CLIP_VISION = {**TOWER, "image_size": 8, "patch_size": 4, "projection_dim": 5}
T5 = {"vocab_size": VOCAB, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2}
T5 |= {"eos_token_id": None, "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
BASE = {"rope_theta": 10000.0}


def llama(**rope):
    """Heads of 16 channels have frequencies between those that a scaling leaves and those that it divides."""
    more = {"max_position_embeddings": rope.pop("longest", 96), "head_dim": 4 if rope["rope_type"] == "default" else 16}
    return hf.LlamaForCausalLM, hf.LlamaConfig(**{**DECODER, **more}, rope_parameters=BASE | rope)


CASES = {
    "gpt2": lambda: (
        hf.GPT2LMHeadModel,
        hf.GPT2Config(
            vocab_size=VOCAB, n_positions=96, n_embd=16, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
        ),
    ),
    "llama": lambda: llama(rope_type="default"),
    "llama-linear": lambda: llama(rope_type="linear", factor=4.0),
    "llama-dynamic": lambda: llama(rope_type="dynamic", factor=2.0, longest=8),
    "llama-yarn": lambda: llama(rope_type="yarn", factor=4.0, original_max_position_embeddings=24),
    "llama-llama3": lambda: llama(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    ),
    "mistral": lambda: (hf.MistralForCausalLM, hf.MistralConfig(**DECODER, sliding_window=5, head_dim=8)),
    "mixtral": lambda: (hf.MixtralForCausalLM, hf.MixtralConfig(**DECODER, num_local_experts=3)),
    "qwen2": lambda: (hf.Qwen2ForCausalLM, hf.Qwen2Config(**DECODER, tie_word_embeddings=True)),
    "qwen2-windows": lambda: (
        hf.Qwen2ForCausalLM,
        hf.Qwen2Config(**DECODER, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ),
    "qwen3": lambda: (hf.Qwen3ForCausalLM, hf.Qwen3Config(**DECODER, head_dim=8)),
    "phi3": lambda: (hf.Phi3ForCausalLM, hf.Phi3Config(**DECODER, sliding_window=6)),
    "phi3-longrope": lambda: (
        hf.Phi3ForCausalLM,
        hf.Phi3Config(
            **DECODER,
            original_max_position_embeddings=8,
            rope_parameters=BASE
            | {
                "rope_type": "longrope",
                "short_factor": [1.0, 1.5],
                "long_factor": [2.0, 3.0],
                "partial_rotary_factor": 1.0,
            },
        ),
    ),
    "gemma": lambda: (hf.GemmaForCausalLM, hf.GemmaConfig(**DECODER, head_dim=8)),
    "gemma2": lambda: (
        hf.Gemma2ForCausalLM,
        hf.Gemma2Config(**DECODER, head_dim=8, query_pre_attn_scalar=12, sliding_window=4, final_logit_softcapping=3.0),
    ),
    "gemma3": lambda: (
        hf.Gemma3ForCausalLM,
        hf.Gemma3TextConfig(
            **DECODER, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
        ),
    ),
    "bart": lambda: (
        hf.BartForConditionalGeneration,
        hf.BartConfig(
            vocab_size=VOCAB,
            d_model=16,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            max_position_embeddings=96,
            **dict.fromkeys(["eos_token_id", "forced_eos_token_id"]),
        ),
    ),
    "t5": lambda: (hf.T5ForConditionalGeneration, hf.T5Config(**T5)),
    "t5-gated": lambda: (
        hf.T5ForConditionalGeneration,
        hf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "mt5": lambda: (hf.MT5ForConditionalGeneration, hf.MT5Config(**T5)),
    "bert-tokens": lambda: (hf.BertForMaskedLM, hf.BertConfig(**ENCODER)),
    "bert-classes": lambda: (hf.BertForSequenceClassification, hf.BertConfig(**ENCODER, num_labels=3)),
    "roberta-tokens": lambda: (hf.RobertaForMaskedLM, hf.RobertaConfig(**ENCODER | ROBERTA)),
    "roberta-classes": lambda: (
        hf.RobertaForSequenceClassification,
        hf.RobertaConfig(**ENCODER | ROBERTA, num_labels=3),
    ),
    "distilbert-tokens": lambda: (hf.DistilBertForMaskedLM, hf.DistilBertConfig(**DISTILBERT)),
    "distilbert-classes": lambda: (
        hf.DistilBertForSequenceClassification,
        hf.DistilBertConfig(**DISTILBERT, num_labels=3),
    ),
    "t5-encoder": lambda: (hf.T5EncoderModel, hf.T5Config(**T5)),
    "bert-token-classes": lambda: (hf.BertForTokenClassification, hf.BertConfig(**ENCODER, num_labels=5)),
    "roberta-spans": lambda: (hf.RobertaForQuestionAnswering, hf.RobertaConfig(**ENCODER | ROBERTA)),
    "gpt2-classes": lambda: (
        hf.GPT2ForSequenceClassification,
        hf.GPT2Config(
            **{"vocab_size": VOCAB, "n_positions": 20, "n_embd": 16, "n_layer": 2, "n_head": 4, "num_labels": 3},
            pad_token_id=VOCAB - 1,
        ),
    ),
    "gemma2-classes": lambda: (
        hf.Gemma2ForSequenceClassification,
        hf.Gemma2Config(
            **DECODER | {"pad_token_id": VOCAB - 1},
            **{"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0, "num_labels": 3},
        ),
    ),
    "vit": lambda: (hf.ViTForImageClassification, hf.ViTConfig(**VISION)),
    "deit": lambda: (hf.DeiTForImageClassificationWithTeacher, hf.DeiTConfig(**VISION)),
    "resnet-basic": lambda: (
        hf.ResNetForImageClassification,
        hf.ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[2, 3], layer_type="basic", num_labels=3),
    ),
    "resnet-bottleneck": lambda: (
        hf.ResNetForImageClassification,
        hf.ResNetConfig(embedding_size=2, hidden_sizes=[8, 12], depths=[2, 1], num_labels=3),
    ),
    "clip": lambda: (hf.CLIPModel, hf.CLIPConfig(text_config=CLIP_TEXT, vision_config=CLIP_VISION, projection_dim=5)),
    "convnext": lambda: (
        hf.ConvNextForImageClassification,
        hf.ConvNextConfig(hidden_sizes=[4, 6], depths=[1, 2], num_stages=2, num_labels=3),
    ),
}

TIMM = {
    "timm-vit": ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "embed_dim": 24}),
    "timm-convnext": ("convnext_tiny", {"depths": [1, 1, 2, 1], "dims": [4, 6, 8, 10]}),
}
"""Architectures of timm 1.0.31, and what is smaller in them."""


def filled(name, shape):
    """Numbers that belong to a name; tests/helpers/published_weights.py repeats them."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        return 1 + 0.2 * np.abs(draw)
    return 1 + 0.2 * draw if len(shape) == 1 and name.endswith("weight") else 0.3 * draw


def save(model, folder):
    """[(name, shape)] as save_pretrained writes them, in a folder that then has the numbers of `filled`."""
    model.save_pretrained(folder)
    file = Path(folder) / "model.safetensors"
    with safe_open(file, "numpy") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    if getattr(model.config, "scale_decoder_outputs", True) is False:  # T5 1.1, which is published with a head
        shapes["lm_head.weight"] = shapes["shared.weight"]
    save_file({n: np.asarray(filled(n, s), "f4") for n, s in shapes.items()}, file, metadata={"format": "pt"})
    return shapes


def loss_of(logits):
    flat = logits.reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, torch.arange(len(flat)) % flat.shape[-1])


def gradient_norm(model):
    leaves = [*model.parameters(), *model.buffers()]
    return np.sqrt(sum(float(p.grad.square().sum()) for p in leaves if p.grad is not None))


def decoder(model, results):
    ids = np.random.RandomState(1).randint(0, VOCAB, (2, 12))
    logits = model(torch.tensor(ids)).logits
    loss_of(logits).backward()
    results |= {"ids": ids, "logits": logits.detach().numpy(), "gradient_norm": gradient_norm(model)}
    for side, mask in (("left", [[0] * 5 + [1] * 7, [1] * 12]), ("right", [[1] * 7 + [0] * 5, [1] * 12])):
        mask = torch.tensor(mask)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            padded = model(torch.tensor(ids), attention_mask=mask, position_ids=positions).logits
            if not padded[mask.bool()].isfinite().all():  # eager masks in float64: each sequence alone
                rows = zip(torch.tensor(ids), mask.bool(), strict=True)
                padded[mask.bool()] = torch.cat([model(row[real][None]).logits[0] for row, real in rows])
        results |= {f"{side}_mask": mask.numpy(), f"{side}_logits": padded[mask.bool()].numpy()}
    # LongRoPE computes the cache again once a sequence is longer than the first context: here it is from the start
    prompt = 12 if "longrope" in model.config.to_json_string() else 5
    tokens = model.float().generate(
        torch.tensor(ids[:1, :prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False, use_cache=True
    )
    results["tokens"] = tokens.numpy()


def classifier(model, results):
    """The texts of a batch end with the id of padding."""
    ids = np.random.RandomState(1).randint(0, VOCAB - 1, (2, 12))
    ids[0, 7:] = VOCAB - 1
    logits = model(torch.tensor(ids)).logits
    loss_of(logits).backward()
    results |= {"ids": ids, "logits": logits.detach().numpy(), "gradient_norm": gradient_norm(model)}


def scores(output):
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], -1)
    return output.logits if "logits" in output else output.last_hidden_state


def encoder(model, results):
    """Ids without the id of padding, for which RoBERTa and BERT have no gradient."""
    ids = np.random.RandomState(1).randint(3, VOCAB, (2, 9))
    mask = np.array([[1] * 6 + [0] * 3, [1] * 9])
    padded = torch.tensor(np.where(mask, ids, model.config.pad_token_id))
    has_types = getattr(model.config, "type_vocab_size", 1) > 1
    types = {"token_type_ids": torch.tensor(ids % 2)} if has_types else {}
    logits = scores(model(torch.tensor(ids), **types))
    loss_of(logits).backward()
    with torch.no_grad():
        right = scores(model(padded, attention_mask=torch.tensor(mask), **types))
        if right.ndim == 3:  # the other heads read the first token
            left_mask = np.array([[0] * 3 + [1] * 6, [1] * 9])
            shifted = torch.tensor(np.where(left_mask, ids, model.config.pad_token_id))
            positions = torch.tensor(np.maximum(left_mask.cumsum(-1) - 1, 0))
            counts = model.config.model_type in ("roberta", "t5")  # positions from the mask, or relative ones
            more = {} if counts else {"position_ids": positions}
            left = scores(model(shifted, attention_mask=torch.tensor(left_mask), **more, **types))
            results |= {"left_mask": left_mask, "left_logits": left[torch.tensor(left_mask).bool()].numpy()}
    right = right if right.ndim == 2 else right[torch.tensor(mask).bool()]
    results |= {"ids": ids, "logits": logits.detach().numpy(), "gradient_norm": gradient_norm(model)}
    results |= {"right_mask": mask, "right_logits": right.numpy()} | ({"types": ids % 2} if has_types else {})


def vision(model, results):
    side = getattr(model.config, "image_size", 16)
    side = side if side < 64 else 16
    logits = model(torch.tensor(filled("x", (2, 3, side, side)))).logits
    loss_of(logits).backward()
    results |= {"side": side, "logits": logits.detach().numpy(), "gradient_norm": gradient_norm(model)}


def towers(model, results):
    """The end token is not the last one."""
    images = torch.tensor(filled("x", (2, 3, 8, 8)))
    ids = np.random.RandomState(1).randint(3, VOCAB - 1, (3, 7))
    ids[[0, 1, 2], [6, 3, 4]] = VOCAB - 1
    output = model(input_ids=torch.tensor(ids), pixel_values=images)
    loss_of(output.logits_per_image).backward()
    results |= {"side": 8, "ids": ids, "logits": output.logits_per_image.detach().numpy()}
    results |= {"gradient_norm": gradient_norm(model)}
    results["image_cosines"] = (output.image_embeds @ output.image_embeds.T).detach().numpy()
    results["text_cosines"] = (output.text_embeds @ output.text_embeds.T).detach().numpy()


def translator(model, results):
    ids = np.random.RandomState(1).randint(3, VOCAB, (2, 9))
    target = np.random.RandomState(2).randint(3, VOCAB, (2, 5))
    mask = np.array([[1] * 6 + [0] * 3, [1] * 9])
    x = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.requires_grad_()  # a buffer there, a parameter here
    logits = model(**x, decoder_input_ids=torch.tensor(target)).logits
    loss_of(logits).backward()
    results |= {"ids": ids, "target": target, "source_mask": mask, "logits": logits.detach().numpy()}
    results |= {"gradient_norm": gradient_norm(model)}
    pair = mask, np.array([[1] * 3 + [0] * 2, [1] * 5])
    for side in ("left", "right"):
        masks = [torch.tensor(np.sort(m, axis=-1)[:, :: 1 if side == "left" else -1].copy()) for m in pair]
        names = dict(zip(["attention_mask", "decoder_attention_mask"], masks, strict=True))
        with torch.no_grad():
            padded = model(torch.tensor(ids), decoder_input_ids=torch.tensor(target), **names).logits
        results |= {f"{side}_source": masks[0].numpy(), f"{side}_target": masks[1].numpy()}
        results |= {f"{side}_logits": padded[masks[1].bool()].numpy()}
    options = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False, "use_cache": True}
    results["tokens"] = model.float().generate(torch.tensor(ids), decoder_start_token_id=3, **options).numpy()


KINDS = {
    "bart": translator,
    "t5": translator,
    "mt5": translator,
    "clip": towers,
    "bert": encoder,
    "roberta": encoder,
    "distilbert": encoder,
    "t5-encoder": encoder,
    "gpt2-classes": classifier,
    "gemma2-classes": classifier,
} | dict.fromkeys(["vit", "deit", "resnet", "convnext"], vision)


def run_timm(case):
    name, changes = TIMM[case]
    model = timm.create_model(name, num_classes=3, **changes).double().eval()
    with tempfile.TemporaryDirectory() as folder:
        timm.models.save_for_hf(model, folder, safe_serialization=True)
        results = {"config": (Path(folder) / "config.json").read_text()}
    shapes = {name: tuple(leaf.shape) for name, leaf in model.state_dict().items()}
    model.load_state_dict({name: torch.tensor(filled(name, shape).astype("f4")) for name, shape in shapes.items()})
    results["names"] = json.dumps(shapes)
    logits = model(torch.tensor(filled("x", (2, 3, 32, 32))))
    loss_of(logits).backward()
    results |= {"side": 32, "logits": logits.detach().numpy(), "gradient_norm": gradient_norm(model)}
    np.savez_compressed(FOLDER / f"{case}.npz", **results)
    print(case, results["gradient_norm"])


def run(case):
    if case in TIMM:
        return run_timm(case)
    model_class, config = CASES[case]()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        shapes = save(model_class(config), folder)
        options = (
            {}
            if KINDS.get(case.split("-")[0]) is vision
            else {"attn_implementation": "eager" if case.startswith("gemma2") else "sdpa"}
        )
        options |= {"experts_implementation": "eager"} if case == "mixtral" else {}
        model = model_class.from_pretrained(folder, **options).double().eval()
        results = {"config": (Path(folder) / "config.json").read_text()}
    results["names"] = json.dumps(shapes)
    KINDS.get(case, KINDS.get(case.split("-")[0], decoder))(model, results)
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{case}.npz", **results)
    assert all(np.isfinite(value).all() for name, value in results.items() if name.endswith("logits")), case
    print(case, results["gradient_norm"])


if __name__ == "__main__":
    for case in sys.argv[1:] or [*CASES, *TIMM]:
        run(case)
