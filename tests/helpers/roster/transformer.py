"""Rows of the roster: transformer."""

import numpy as np

import nnfunc as nf
from helpers.roster.row import Row, ids, sample

IDS = ids(2, 4, below=5)
SIZES = {"layers": 2, "heads": 2, "dim": 4}
PADDED = np.array([[True, True, True, True], [True, True, False, False]])
IMAGE = {"image_size": 4, "patch": 2, "in_dim": 1, "dim": 4}
TEXTS = np.array([[3, 5, 0], [1, 2, 4]], np.int32)
WORDS = np.array([[[3, 7], [5, 0], [0, 0]], [[1, 6], [2, 8], [4, 7]]], np.int32)
TWO = {"dropout": (0.25, 0.5), "eps": (1e-5, 1e-2)}
LINEAR = {"name": "linear", "factor": 4.0}
BLOCK = (4, nf.attention(4, 2), nf.feed_forward(4, 6))

MODELS: dict[str, Row] = {
    "feed_forward": Row((6, 5), {"activation": "swiglu"}, {"dropout": (0.25, 0.5)}),
    "mixture_of_experts": Row((6, 4, 3), {"activation": "geglu"}),
    "mixture_of_experts:switch": Row(
        (6, 4, 3),
        {"top_k": 1, "weighing": "all", "capacity": 1.0, "bias": False},
        leading_axes=False,  # the tokens of a batch compete for room
    ),
    "transformer_block": Row(BLOCK, numbers={**TWO, "drop_path": (0.5, 0.25)}, x=sample(2, 3, 4)),
    "transformer_block:decoder": Row(
        BLOCK,
        {"cross": nf.attention(4, 2, context_dim=6), "order": "post", "norm": "rms"},
        x=nf.TransformerInput(sample(2, 3, 4), lengths=np.array([3, 2]), context=sample(2, 5, 6)),
    ),
    "gpt": Row((5,), {**SIZES, "block_size": 4}, TWO, x=IDS, order=1),
    "llama": Row(
        (5,),
        {**SIZES, "kv_heads": 1, "hidden": 6, "tied": True},
        {**TWO, "rotary_base": (1e4, 100.0), "window": (3.0, 2.0), "embedding_scale": (2.0, 0.5)},
        x=IDS,
        order=1,
    ),
    "llama:gemma": Row(
        (5,),
        {**SIZES, "hidden": 6, "windows": [2.0, np.inf], "rotary_bases": [1e4, 100.0], "post_norm": True},
        {"scale": (0.5, 1.0), "soft_cap": (2.0, 0.5), "logit_cap": (1.0, 3.0)},
        x=IDS,
        order=1,
    ),
    "llama:padded": Row(
        (5,),
        {**SIZES, "head_dim": 4, "hidden": 6, "qkv_bias": True, "qk_norm": True, "rotary_scaling": LINEAR},
        x=nf.TokenInput(IDS, mask=PADDED[:, ::-1], positions=np.array([[0, 1, 2, 3], [0, 0, 0, 1]])),
        order=1,
    ),
    "bert": Row(
        (5,),
        {**SIZES, "block_size": 4, "output": "classes"},
        {"dropout": (0.25, 0.5), "eps": (1e-3, 1e-2)},
        x=nf.BertInput(IDS, ids(2, 4, below=2), mask=PADDED),
        order=1,
    ),
    "clip_text": Row((5,), {**SIZES, "block_size": 4, "out_dim": 3, "end": 4}, {"eps": (1e-3, 1e-2)}, x=IDS, order=1),
    "clip": Row(
        (nf.linear(6, 3), nf.serial(nf.embedding(5, 3), lambda y: y.sum(-2))),
        numbers={"temperature": (0.07, 1.0)},
        x=(sample(2, 6), IDS[:1]),
        leading_axes=False,
    ),
    "vit:distilled": Row(
        (3,),
        {**IMAGE, "layers": 1, "heads": 2, "pool": "distilled", "pre_norm": True, "patch_bias": False},
        x=sample(2, 4, 4, 1),
        order=1,
    ),
    "vit": Row(
        (3,), {**IMAGE, "layers": 2, "heads": 2}, {**TWO, "drop_path": (0.5, 0.25)}, x=sample(2, 4, 4, 1), order=1
    ),
    "mixer": Row(
        (3,),
        {**IMAGE, "layers": 2, "token_hidden": 3, "channel_hidden": 5},
        {**TWO, "drop_path": (0.5, 0.25)},
        x=sample(2, 4, 4, 1),
        order=1,
    ),
    "seq2seq:bart": Row(
        (5,),
        {**SIZES, "block_size": 4, "embedding_norm": True, "logit_bias": True, "decoder_layers": 1},
        {"embedding_scale": (1.0, 2.0)},
        x=nf.Seq2SeqInput(IDS, ids(2, 3, below=5), source_mask=PADDED),
        order=1,
    ),
    "seq2seq:t5": Row(
        (5,),
        {**SIZES, "head_dim": 3, "order": "pre", "norm": "rms", "bias": False, "buckets": 4, "tied": "tables"},
        {"scale": (1.0, 0.5), "max_distance": (3, 5), "head_scale": (0.5, 2.0), "eps": (1e-6, 0.1)},
        x=nf.Seq2SeqInput(ids(2, 7, below=5), ids(2, 6, below=5)),
        order=1,
    ),
    "seq2seq": Row((5,), SIZES, TWO, x=nf.Seq2SeqInput(IDS, ids(2, 3, below=5), source_mask=PADDED), order=1, seed=3),
    "text_classifier": Row((6, 3), {"dim": 2, "pairs": 7}, {"dropout": (0.25, 0.5)}, x=IDS, order=1),
    "text_classifier:transformer": Row(
        (6, 3), {"body": "transformer", "dim": 4, "heads": 2, "layers": 2}, x=TEXTS, order=1, seed=3
    ),
    "text_classifier:lstm": Row((6, 3), {"body": "lstm", "dim": 2}, x=TEXTS, order=1),
    "tagger": Row((9, 3), {"dim": 2}, {"dropout": (0.25, 0.5)}, x=WORDS, order=1),
    "tagger:transformer": Row((9, 3), {"body": "transformer", "dim": 4, "heads": 2}, x=WORDS, order=1),
}
FUNCTIONS: dict[str, Row] = {}
NOT_FACTORIES: dict[str, str] = {}
