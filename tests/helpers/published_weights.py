"""Parameters by the names that others published, as ours: a rename, a transpose and a stacking of layers."""

import zlib
from collections.abc import Callable

import jax
import numpy as np

State = dict[str, np.ndarray]


def filled(name, shape):
    """The numbers of scripts/golden/transformer.py that belong to a name."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return 1 + 0.2 * draw if len(shape) == 1 and name.endswith("weight") else 0.3 * draw


def with_bias(state: State, name: str, params: dict) -> dict:
    return params | ({"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {})


def line(state: State, name: str) -> dict:
    return with_bias(state, name, {"weight": state[f"{name}.weight"].T})


def norm(state: State, name: str) -> dict:
    return with_bias(state, name, {"scale": state[f"{name}.weight"]})


def patches(state: State, name: str) -> dict:
    """torch's kernels are [out, in, height, width]."""
    return with_bias(state, name, {"weight": state[f"{name}.weight"].transpose(2, 3, 1, 0)})


def in_one(state: State, weight: str, bias: str) -> dict:
    """Query, key and value that are one matrix there."""
    parts = {name: {"weight": w.T} for name, w in zip(QKV, np.split(state[weight], 3), strict=True)}
    if bias in state:
        for name, part in zip(QKV, np.split(state[bias], 3), strict=True):
            parts[name]["bias"] = part
    return parts


def stacked(state: State, prefix: str, block: Callable[[str], dict]) -> dict:
    places = {name[len(prefix) :].split(".")[1] for name in state if name.startswith(f"{prefix}.")}
    blocks = [block(f"{prefix}.{i}") for i in range(len(places))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)


QKV = ("query", "key", "value")


def gpt(state: State) -> dict:
    """nanoGPT's names. Hugging Face's GPT-2 has them, too, with its linear weights not transposed."""

    def block(at):
        own = in_one(state, f"{at}.attn.c_attn.weight", f"{at}.attn.c_attn.bias")
        return {
            "attend_norm": norm(state, f"{at}.ln_1"),
            "attend": {**own, "out": line(state, f"{at}.attn.c_proj")},
            "mlp_norm": norm(state, f"{at}.ln_2"),
            "mlp": {"up": line(state, f"{at}.mlp.c_fc"), "down": line(state, f"{at}.mlp.c_proj")},
        }

    return {
        "tokens": {"weight": state["transformer.wte.weight"]},
        "positions": {"weight": state["transformer.wpe.weight"]},
        "blocks": stacked(state, "transformer.h", block),
        "norm": norm(state, "transformer.ln_f"),
    }


def llama(state: State) -> dict:
    def block(at):
        its = {**dict(zip(QKV, "qkv", strict=True)), "out": "o"}
        return {
            "attend_norm": norm(state, f"{at}.input_layernorm"),
            "attend": {n: line(state, f"{at}.self_attn.{i}_proj") for n, i in its.items()},
            "mlp_norm": norm(state, f"{at}.post_attention_layernorm"),
            "mlp": {n: line(state, f"{at}.mlp.{n}_proj") for n in ("gate", "up", "down")},
        }

    return {
        "tokens": {"weight": state["model.embed_tokens.weight"]},
        "blocks": stacked(state, "model.layers", block),
        "norm": norm(state, "model.norm"),
        "head": line(state, "lm_head"),
    }


def bert(state: State) -> dict:
    def block(at):
        own = {name: line(state, f"{at}.attention.self.{name}") for name in QKV}
        return {
            "attend": {**own, "out": line(state, f"{at}.attention.output.dense")},
            "attend_norm": norm(state, f"{at}.attention.output.LayerNorm"),
            "mlp": {"up": line(state, f"{at}.intermediate.dense"), "down": line(state, f"{at}.output.dense")},
            "mlp_norm": norm(state, f"{at}.output.LayerNorm"),
        }

    its = {"tokens": "word", "positions": "position", "types": "token_type"}
    params = {n: {"weight": state[f"embeddings.{i}_embeddings.weight"]} for n, i in its.items()}
    params |= {"norm": norm(state, "embeddings.LayerNorm")}
    params |= {"blocks": stacked(state, "encoder.layer", block)}
    if "classifier.weight" in state:
        head = {"linear": line(state, "pooler.dense"), "logits": line(state, "classifier")}
        return params | {"head": head}
    if "cls.predictions.bias" in state:
        transform = "cls.predictions.transform"
        head = {"linear": line(state, f"{transform}.dense"), "norm": norm(state, f"{transform}.LayerNorm")}
        return params | {"head": {**head, "shift": {"bias": state["cls.predictions.bias"]}}}
    return params


def vit(state: State) -> dict:
    """timm's names."""

    def block(at):
        own = in_one(state, f"{at}.attn.qkv.weight", f"{at}.attn.qkv.bias")
        return {
            "attend_norm": norm(state, f"{at}.norm1"),
            "attend": {**own, "out": line(state, f"{at}.attn.proj")},
            "mlp_norm": norm(state, f"{at}.norm2"),
            "mlp": {"up": line(state, f"{at}.mlp.fc1"), "down": line(state, f"{at}.mlp.fc2")},
        }

    token = {"token": {"weight": state["cls_token"][0, 0]}} if "cls_token" in state else {}
    return token | {
        "patches": patches(state, "patch_embed.proj"),
        "positions": {"weight": state["pos_embed"][0]},
        "blocks": stacked(state, "blocks", block),
        "norm": norm(state, "norm"),
        "head": line(state, "head"),
    }


def mixer(state: State) -> dict:
    """timm's names."""

    def mlp(at):
        return {"up": line(state, f"{at}.fc1"), "down": line(state, f"{at}.fc2")}

    def block(at):
        return {
            "token_norm": norm(state, f"{at}.norm1"),
            "tokens": mlp(f"{at}.mlp_tokens"),
            "channel_norm": norm(state, f"{at}.norm2"),
            "channels": mlp(f"{at}.mlp_channels"),
        }

    return {
        "patches": patches(state, "stem.proj"),
        "blocks": stacked(state, "blocks", block),
        "norm": norm(state, "norm"),
        "head": line(state, "head"),
    }


def seq2seq(state: State) -> dict:
    """The names of torch.nn.Transformer; its encoder has two norms a block, its decoder three."""

    def block(at):
        def attention(name):
            own = in_one(state, f"{at}.{name}.in_proj_weight", f"{at}.{name}.in_proj_bias")
            return {**own, "out": line(state, f"{at}.{name}.out_proj")}

        names = ["attend", "cross", "mlp"] if f"{at}.norm3.weight" in state else ["attend", "mlp"]
        params = {f"{n}_norm": norm(state, f"{at}.norm{i + 1}") for i, n in enumerate(names)}
        params |= {"attend": attention("self_attn")}
        params |= {"cross": attention("multihead_attn")} if "cross" in names else {}
        up, down = line(state, f"{at}.linear1"), line(state, f"{at}.linear2")
        return params | {"mlp": {"up": up, "down": down}}

    def stack(name):
        params = {"blocks": stacked(state, f"{name}.layers", block)}
        last = f"{name}.norm"
        return params | ({"norm": norm(state, last)} if f"{last}.weight" in state else {})

    tokens = {"tokens": {"weight": state["tokens.weight"]}}
    return {"encoder": {**tokens, **stack("encoder")}, "decoder": stack("decoder")}


def experts(state: State) -> dict:
    """The names of Mixtral in Hugging Face."""
    its = {"gate": "w1", "down": "w2", "up": "w3"}
    block = lambda at: {name: line(state, f"{at}.{own}") for name, own in its.items()}
    return {"router": line(state, "gate"), **stacked(state, "experts", block)}
