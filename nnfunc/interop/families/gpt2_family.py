"""GPT-2, as transformers saves it: linear weights are [in, out], and query, key and value one matrix; nanoGPT."""

from nnfunc.interop.name_table import CONV1D, LINEAR, NORM, TABLE
from nnfunc.interop.published_config import ACTIVATIONS, Family, Setting
from nnfunc.models.gpt import gpt

ROWS = [
    ("transformer.wte", "tokens", TABLE),
    ("transformer.wpe", "positions", TABLE),
    ("transformer.h.{i}.ln_1", "blocks/attend_norm", NORM),
    ("transformer.h.{i}.attn.c_attn", "blocks/attend/query|key|value", CONV1D),
    ("transformer.h.{i}.attn.c_proj", "blocks/attend/out", CONV1D),
    ("transformer.h.{i}.ln_2", "blocks/mlp_norm", NORM),
    ("transformer.h.{i}.mlp.c_fc", "blocks/mlp/up", CONV1D),
    ("transformer.h.{i}.mlp.c_proj", "blocks/mlp/down", CONV1D),
    ("transformer.ln_f", "norm", NORM),
    ("lm_head", "head", LINEAR),
]
SETTINGS = [
    Setting("vocab_size", "vocab_size"),
    Setting(("n_positions", "n_ctx"), "block_size"),
    Setting("n_embd", "dim"),
    Setting("n_layer", "layers"),
    Setting("n_head", "heads"),
    Setting("n_inner", "hidden", int, None),
    Setting("activation_function", "activation", ACTIVATIONS, "gelu_tanh"),
    Setting("layer_norm_epsilon", "eps", float, 1e-5),
    Setting("tie_word_embeddings", "tied", bool, True),
]
GPT2 = Family(
    name="gpt2",
    factory=gpt,
    settings=SETTINGS,
    rows=ROWS,
    architectures={"GPT2LMHeadModel": {}},
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    prefix="transformer.",
    ignored=("*.attn.bias", "*.attn.masked_bias", "lm_head.weight"),
)
NANOGPT = GPT2._replace(
    name="nanogpt",
    settings=[],
    rows=[(name, path, LINEAR if leaves is CONV1D else leaves) for name, path, leaves in ROWS],
    architectures={},
)
