"""Golden values and gradients of attention and positions, from PyTorch in float64.

python scripts/golden/attention.py        (needs torch; renews tests/golden/attention.npz)

Each case holds its inputs, y, dy (drawn at random) and the gradients of sum(y * dy), as d<name>.
torch's axes are [batch, heads, time, dim], ours [batch, time, heads, dim].
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
draw = np.random.default_rng(0)
golden: dict[str, np.ndarray] = {}


def run(case, function, constants=None, **inputs):
    """Keep the inputs, y = function(**inputs), dy, and the gradient of each input."""
    leaves = {n: torch.tensor(value, requires_grad=True) for n, value in inputs.items()}
    y = function(**leaves)
    dy = draw.normal(size=y.shape)
    y.backward(torch.tensor(dy))
    values = {"y": y.detach(), "dy": dy, **inputs, **(constants or {})}
    values |= {f"d{n}": leaf.grad for n, leaf in leaves.items()}
    golden.update({f"{case}/{n}": np.asarray(value) for n, value in values.items()})


def arrays(time=4, source=5, heads=4, kv_heads=4, dim=4):
    """q, k and v of a batch of two, in our order of axes."""
    return {
        "q": draw.normal(size=(2, time, heads, dim)),
        "k": draw.normal(size=(2, source, kv_heads, dim)),
        "v": draw.normal(size=(2, source, kv_heads, dim)),
    }


def swap(x):
    return x.transpose(1, 2)


def torchs(**settings):
    """torch's own function, in our order of axes."""

    def function(q, k, v, bias=None):
        more = settings if bias is None else {**settings, "attn_mask": bias}
        grouped = q.shape[2] != k.shape[2]
        y = F.scaled_dot_product_attention(swap(q), swap(k), swap(v), enable_gqa=grouped, **more)
        return swap(y)

    return function


def formula(allowed=None, added=None, cap=None):
    """softmax(cap * tanh(q k^T / sqrt(dim) / cap) + added) v, where allowed."""

    def function(q, k, v):
        times = q.shape[2] // k.shape[2]
        k, v = (swap(x).repeat_interleave(times, dim=1) for x in (k, v))
        scores = swap(q) @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        scores = scores if cap is None else cap * torch.tanh(scores / cap)  # Gemma 2, section 2
        scores = scores if added is None else scores + added
        if allowed is not None:
            scores = scores.masked_fill(~torch.as_tensor(allowed), -torch.inf)
        return swap(torch.softmax(scores, -1) @ v)

    return function


def behind(time, source):
    """How far query i, at place source - time + i, stands behind each key."""
    return torch.arange(source - time, source)[:, None] - torch.arange(source)[None]


run("plain", torchs(), **arrays())
run("causal", torchs(is_causal=True), **arrays(5, 5))
run("grouped", torchs(is_causal=True), **arrays(5, 5, kv_heads=2))
run("one_key_head", torchs(), **arrays(kv_heads=1))
run("scale", torchs(scale=0.3), **arrays())
mask = draw.random((2, 4, 5)) < 0.6
mask[..., 0] = True
run("mask", torchs(attn_mask=torch.tensor(mask)[:, None]), {"mask": mask}, **arrays(kv_heads=2))
heads_mask = draw.random((2, 4, 4, 5)) < 0.6
heads_mask[..., 0] = True
run("mask_of_heads", torchs(attn_mask=torch.tensor(heads_mask)), {"mask": heads_mask}, **arrays())
lengths = np.array([2, 5])
inside = torch.arange(5)[None] < torch.tensor(lengths)[:, None]
run("lengths", torchs(attn_mask=inside[:, None, None]), {"lengths": lengths}, **arrays(kv_heads=2))
run("bias", torchs(), **arrays(), bias=draw.normal(size=(4, 4, 5)))
apart = behind(3, 6)
run("last_queries", torchs(attn_mask=apart >= 0), **arrays(3, 6, kv_heads=2))
run("window", torchs(attn_mask=(apart >= 0) & (apart < 2)), **arrays(3, 6))
run("window_both_sides", torchs(attn_mask=behind(6, 6).abs() < 3), **arrays(6, 6))
run("soft_cap", formula(behind(5, 5) >= 0, cap=0.7), **arrays(5, 5, kv_heads=2))


def slopes(n):
    """get_slopes of the authors, github.com/ofirpress/attention_with_linear_biases (fairseq)."""

    def of_a_power(n):
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(n).is_integer():
        return of_a_power(n)
    below = 2 ** math.floor(math.log2(n))
    return of_a_power(below) + slopes(2 * below)[0::2][: n - below]


for n in (1, 4, 6, 12):
    golden[f"slopes/{n}"] = np.array(slopes(n))
# arXiv:2108.12409, section 3: -slope * distance, added after the scaling
far = behind(5, 5).abs()[None] * torch.tensor(slopes(6))[:, None, None]
run("alibi", formula(behind(5, 5) >= 0, added=-far), **arrays(5, 5, heads=6, kv_heads=3))


def rotate_half(x):
    """transformers, models/llama/modeling_llama.py."""
    one, two = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-two, one), dim=-1)


def rotary(x, positions, base, dim):
    """apply_rotary_pos_emb there; with a part of the dims as in models/gpt_neox."""
    frequencies = 1.0 / base ** (torch.arange(0, dim, 2) / dim)
    angles = positions[..., None, None] * frequencies  # [..., time, 1, dim / 2]
    angles = torch.cat((angles, angles), dim=-1)
    turned, rest = x[..., :dim], x[..., dim:]
    y = turned * torch.cos(angles) + rotate_half(turned) * torch.sin(angles)
    return torch.cat((y, rest), dim=-1)


def rotary_complex(x, positions, base):
    """apply_rotary_emb of llama/model.py, github.com/meta-llama/llama: pairs (2i, 2i + 1)."""
    dim = x.shape[-1]
    angles = positions[..., None, None] / base ** (torch.arange(0, dim, 2) / dim)
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], dim // 2, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


x = draw.normal(size=(2, 3, 2, 6))
places = np.array([[0, 1, 2], [700, 701, 5000]])
at = torch.tensor(places).double()
run("rotary/half", lambda x: rotary(x, at, 10000.0, 6), {"positions": places}, x=x)
run("rotary/part", lambda x: rotary(x, at, 500.0, 4), {"positions": places}, x=x)
run("rotary/interleaved", lambda x: rotary_complex(x, at, 10000.0), {"positions": places}, x=x)

# arXiv:1706.03762, section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i / d)), PE(pos, 2i + 1) = cos(...)
golden["sinusoidal"] = np.array(
    [[(math.cos if j % 2 else math.sin)(p / 10000 ** ((j - j % 2) / 6)) for j in range(6)] for p in range(40)]
)

NAMES = ("query", "key", "value", "out")


def weights(source_dim):
    """Our parameters of an attention layer of 6 channels: [in, out] weights, and biases."""
    dims = {"query": 6, "key": source_dim, "value": source_dim, "out": 6}
    made = {f"{n}_weight": 0.4 * draw.normal(size=(dims[n], 6)) for n in NAMES}
    return made | {f"{n}_bias": draw.normal(size=6) for n in NAMES}


def module(source_dim, **settings):
    """nn.MultiheadAttention with our parameters put into it, as a function of them."""
    layer = torch.nn.MultiheadAttention(6, 3, kdim=source_dim, vdim=source_dim, batch_first=True).eval()

    def function(x, context=None, **p):
        context = x if context is None else context
        its = {"in_proj_bias": torch.cat([p[f"{n}_bias"] for n in NAMES[:3]])}
        its |= {"out_proj.weight": p["out_weight"].T, "out_proj.bias": p["out_bias"]}
        rows = {n: p[f"{n}_weight"].T for n in NAMES[:3]}
        if source_dim == 6:
            its["in_proj_weight"] = torch.cat([rows[n] for n in NAMES[:3]])
        else:
            its |= {f"{n[0]}_proj_weight": rows[n] for n in NAMES[:3]}
        call = {**settings, "need_weights": False}
        return torch.func.functional_call(layer, its, (x, context, context), call)[0]

    return function


later = torch.ones(4, 4, dtype=torch.bool).triu(1)
run("layer/self", module(6), x=draw.normal(size=(2, 4, 6)), **weights(6))
run("layer/causal", module(6, attn_mask=later), x=draw.normal(size=(2, 4, 6)), **weights(6))
run(
    "layer/cross",
    module(5, key_padding_mask=~inside),
    {"lengths": lengths},
    x=draw.normal(size=(2, 4, 6)),
    context=draw.normal(size=(2, 5, 5)),
    **weights(5),
)

path = Path(__file__).parents[2] / "tests/golden/attention.npz"
np.savez_compressed(path, **golden)
print(f"{len(golden)} arrays in {path.name}, {path.stat().st_size} bytes, torch {torch.__version__}")
