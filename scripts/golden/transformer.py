"""Golden values and gradients of the Transformers and the mixture of experts, from PyTorch in float64.

python scripts/golden/transformer.py        (needs torch; renews tests/golden/transformer.npz)

The models are small ones written here after the published code, with its names of parameters:
nanoGPT's GPT, Hugging Face's Llama, BERT and Mixtral experts, timm's ViT and MLP-Mixer; nothing of those
libraries is used. The encoder-decoder is torch.nn.Transformer's own. Weights and inputs come from `filled`, which
the tests repeat. The file holds y, the published names and shapes of the parameters, and the
gradients of sum(y * filled("dy")), one after another.
"""

import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

torch.set_default_dtype(torch.float64)
golden: dict[str, np.ndarray] = {}


def filled(name, shape):
    """Numbers that belong to a name; those of vectors called weight, the scales of norms, are near 1."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return 1 + 0.2 * draw if len(shape) == 1 and name.endswith("weight") else 0.3 * draw


def ids(*shape, below, seed=0):
    return np.random.RandomState(seed).randint(0, below, shape)


def run(case, model, *inputs, part=None, **named):
    """y and gradients of a model whose parameters are filled by name; part of y, where it is masked."""
    shared = {}
    for name, parameter in model.named_parameters():
        parameter.data = torch.tensor(filled(name, parameter.shape))
        shared[name] = parameter
    floats = [torch.tensor(x, requires_grad=x.dtype == np.float64) for x in inputs]
    y = model(*floats, **named)
    y = y if part is None else y * torch.tensor(part).to(y.dtype)
    y.backward(torch.tensor(filled("dy", y.shape)))
    golden[f"{case}/y"] = y.detach().numpy()
    # an expert that no token goes to has no gradient
    grads = [torch.zeros(p.shape) if p.grad is None else p.grad for p in shared.values()]
    golden[f"{case}/names"] = np.array([f"{name} {','.join(map(str, p.shape))}" for name, p in shared.items()])
    golden[f"{case}/grads"] = np.concatenate([grad.numpy().ravel() for grad in grads])
    golden.update({f"{case}/x{i}": x for i, x in enumerate(inputs) if x.dtype != np.float64})
    golden.update({f"{case}/dx{i}": x.grad.numpy() for i, x in enumerate(floats) if x.requires_grad})


def attend(q, k, v, heads, *, causal=False, allowed=None):
    """[batch, time, heads * head_dim] each; grouped queries when k and v have fewer heads."""
    batch, _, width = q.shape
    head_dim = width // heads
    q, k, v = (t.view(batch, t.shape[1], -1, head_dim).transpose(1, 2) for t in (q, k, v))
    k, v = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (k, v))
    scores = q @ k.transpose(-2, -1) / math.sqrt(head_dim)
    if causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, -1, width)


class Named(nn.Module):
    """A module made of named children; its parts are reached by their published names."""

    def __init__(self, /, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


# nanoGPT: model.py of karpathy/nanoGPT; GPT-2 has the same with gelu's tanh form.


class GPT(nn.Module):
    def __init__(self, vocabulary, block_size, layers, heads, dim, bias, approximate):
        super().__init__()
        self.heads, self.approximate = heads, approximate
        blocks = [
            Named(
                ln_1=nn.LayerNorm(dim, bias=bias),
                attn=Named(c_attn=nn.Linear(dim, 3 * dim, bias), c_proj=nn.Linear(dim, dim, bias)),
                ln_2=nn.LayerNorm(dim, bias=bias),
                mlp=Named(c_fc=nn.Linear(dim, 4 * dim, bias), c_proj=nn.Linear(4 * dim, dim, bias)),
            )
            for _ in range(layers)
        ]
        self.transformer = Named(
            wte=nn.Embedding(vocabulary, dim),
            wpe=nn.Embedding(block_size, dim),
            h=nn.ModuleList(blocks),
            ln_f=nn.LayerNorm(dim, bias=bias),
        )

    def forward(self, idx):
        its = self.transformer
        x = its.wte(idx) + its.wpe(torch.arange(idx.shape[1]))
        for block in its.h:
            q, k, v = block.attn.c_attn(block.ln_1(x)).chunk(3, dim=-1)
            x = x + block.attn.c_proj(attend(q, k, v, self.heads, causal=True))
            inner = functional.gelu(block.mlp.c_fc(block.ln_2(x)), approximate=self.approximate)
            x = x + block.mlp.c_proj(inner)
        return its.ln_f(x) @ its.wte.weight.T


run("gpt", GPT(13, 7, 2, 2, 8, True, "tanh"), ids(2, 6, below=13))
run("gpt:plain", GPT(13, 7, 2, 4, 8, False, "none"), ids(2, 7, below=13))


# Hugging Face's Llama: modeling_llama.py; rotary after its rotate_half.


def rotated(x, heads, base):
    batch, time, width = x.shape
    half = width // heads // 2
    angles = torch.arange(time)[:, None] * base ** (-torch.arange(half) / half)
    cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
    x = x.view(batch, time, heads, 2 * half)
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return (x * cos + turned * sin).reshape(batch, time, width)


class Llama(nn.Module):
    def __init__(self, vocabulary, dim, layers, heads, kv_heads, hidden, base, eps):
        super().__init__()
        self.heads, self.kv_heads, self.base = heads, kv_heads, base
        line = lambda i, o: nn.Linear(i, o, bias=False)
        narrow = dim // heads * kv_heads
        blocks = [
            Named(
                self_attn=Named(
                    q_proj=line(dim, dim), k_proj=line(dim, narrow), v_proj=line(dim, narrow), o_proj=line(dim, dim)
                ),
                mlp=Named(gate_proj=line(dim, hidden), up_proj=line(dim, hidden), down_proj=line(hidden, dim)),
                input_layernorm=nn.RMSNorm(dim, eps),
                post_attention_layernorm=nn.RMSNorm(dim, eps),
            )
            for _ in range(layers)
        ]
        self.model = Named(
            embed_tokens=nn.Embedding(vocabulary, dim), layers=nn.ModuleList(blocks), norm=nn.RMSNorm(dim, eps)
        )
        self.lm_head = line(dim, vocabulary)

    def forward(self, idx):
        x = self.model.embed_tokens(idx)
        for block in self.model.layers:
            a, m, h = block.self_attn, block.mlp, block.input_layernorm(x)
            q = rotated(a.q_proj(h), self.heads, self.base)
            k = rotated(a.k_proj(h), self.kv_heads, self.base)
            x = x + a.o_proj(attend(q, k, a.v_proj(h), self.heads, causal=True))
            h = block.post_attention_layernorm(x)
            x = x + m.down_proj(functional.silu(m.gate_proj(h)) * m.up_proj(h))
        return self.lm_head(self.model.norm(x))


run("llama", Llama(13, 16, 2, 4, 2, 12, 10000.0, 1e-5), ids(2, 6, below=13))
run("llama:base", Llama(13, 8, 1, 2, 2, 12, 500.0, 1e-2), ids(2, 6, below=13))


# Hugging Face's BERT: modeling_bert.py.


class BERT(nn.Module):
    def __init__(self, vocabulary, block_size, layers, heads, dim, hidden, output):
        super().__init__()
        self.heads, self.output = heads, output
        norm = lambda: nn.LayerNorm(dim, eps=1e-12)
        self.embeddings = Named(
            word_embeddings=nn.Embedding(vocabulary, dim),
            position_embeddings=nn.Embedding(block_size, dim),
            token_type_embeddings=nn.Embedding(2, dim),
            LayerNorm=norm(),
        )
        blocks = []
        for _ in range(layers):
            own = {name: nn.Linear(dim, dim) for name in ("query", "key", "value")}
            out = Named(dense=nn.Linear(dim, dim), LayerNorm=norm())
            last = Named(dense=nn.Linear(hidden, dim), LayerNorm=norm())
            attention = Named(self=Named(**own), output=out)
            blocks += [Named(attention=attention, intermediate=Named(dense=nn.Linear(dim, hidden)), output=last)]
        self.encoder = Named(layer=nn.ModuleList(blocks))
        if output == "classes":
            self.pooler, self.classifier = Named(dense=nn.Linear(dim, dim)), nn.Linear(dim, 3)
        if output == "tokens":
            head = Named(transform=Named(dense=nn.Linear(dim, dim), LayerNorm=norm()))
            head.bias = nn.Parameter(torch.zeros(vocabulary))
            self.cls = Named(predictions=head)

    def forward(self, idx, types, mask):
        e = self.embeddings
        x = e.word_embeddings(idx) + e.position_embeddings(torch.arange(idx.shape[1])) + e.token_type_embeddings(types)
        x, allowed = e.LayerNorm(x), mask[:, None, None, :].bool()
        for block in self.encoder.layer:
            own, out = block.attention.self, block.attention.output
            y = attend(own.query(x), own.key(x), own.value(x), self.heads, allowed=allowed)
            x = out.LayerNorm(x + out.dense(y))
            x = block.output.LayerNorm(x + block.output.dense(functional.gelu(block.intermediate.dense(x))))
        if self.output == "classes":
            return self.classifier(torch.tanh(self.pooler.dense(x[:, 0])))
        if self.output == "tokens":
            head = self.cls.predictions
            x = head.transform.LayerNorm(functional.gelu(head.transform.dense(x)))
            return x @ e.word_embeddings.weight.T + head.bias
        return x


padded = np.array([[1] * 6, [1, 1, 1, 1, 0, 0]])
for output in ("hidden", "tokens", "classes"):
    part = None if output == "classes" else padded[..., None]
    model = BERT(13, 7, 2, 2, 8, 12, output)
    run(f"bert:{output}", model, ids(2, 6, below=13), ids(2, 6, below=2, seed=1), padded, part=part)


# timm's VisionTransformer and MlpMixer.


class ViT(nn.Module):
    def __init__(self, classes, grid, patch, in_dim, dim, layers, heads, pool):
        super().__init__()
        self.heads, self.pool = heads, pool
        extra = 1 if pool == "class" else 0
        norm = lambda: nn.LayerNorm(dim, eps=1e-6)
        if extra:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid + extra, dim))
        self.patch_embed = Named(proj=nn.Conv2d(in_dim, dim, patch, stride=patch))
        blocks = [
            Named(
                norm1=norm(),
                attn=Named(qkv=nn.Linear(dim, 3 * dim), proj=nn.Linear(dim, dim)),
                norm2=norm(),
                mlp=Named(fc1=nn.Linear(dim, 2 * dim), fc2=nn.Linear(2 * dim, dim)),
            )
            for _ in range(layers)
        ]
        self.blocks, self.norm, self.head = nn.ModuleList(blocks), norm(), nn.Linear(dim, classes)

    def forward(self, images):
        x = self.patch_embed.proj(images.movedim(-1, 1)).flatten(2).transpose(1, 2)
        if self.pool == "class":
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.pos_embed
        for block in self.blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
            x = x + block.attn.proj(attend(q, k, v, self.heads))
            x = x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))
        x = self.norm(x)
        return self.head(x[:, 0] if self.pool == "class" else x.mean(1))


run("vit:class", ViT(3, 6, 2, 2, 8, 2, 2, "class"), filled("x", (2, 6, 4, 2)))
run("vit:mean", ViT(3, 6, 2, 2, 8, 1, 4, "mean"), filled("x", (2, 6, 4, 2)))


class Mixer(nn.Module):
    def __init__(self, classes, grid, patch, in_dim, dim, layers, token_hidden, channel_hidden):
        super().__init__()
        norm = lambda: nn.LayerNorm(dim, eps=1e-6)
        mlp = lambda width, hidden: Named(fc1=nn.Linear(width, hidden), fc2=nn.Linear(hidden, width))
        blocks = [
            Named(norm1=norm(), mlp_tokens=mlp(grid, token_hidden), norm2=norm(), mlp_channels=mlp(dim, channel_hidden))
            for _ in range(layers)
        ]
        self.stem = Named(proj=nn.Conv2d(in_dim, dim, patch, stride=patch))
        self.blocks, self.norm, self.head = nn.ModuleList(blocks), norm(), nn.Linear(dim, classes)

    def forward(self, images):
        x = self.stem.proj(images.movedim(-1, 1)).flatten(2).transpose(1, 2)
        run = lambda mlp, x: mlp.fc2(functional.gelu(mlp.fc1(x)))
        for block in self.blocks:
            x = x + run(block.mlp_tokens, block.norm1(x).transpose(1, 2)).transpose(1, 2)
            x = x + run(block.mlp_channels, block.norm2(x))
        return self.head(self.norm(x).mean(1))


run("mixer", Mixer(3, 6, 2, 2, 8, 2, 5, 12), filled("x", (2, 6, 4, 2)))


# torch.nn.Transformer between embeddings of Vaswani et al. 2017.


class Seq2Seq(nn.Module):
    def __init__(self, vocabulary, dim, heads, hidden, layers, first):
        super().__init__()
        self.dim = dim
        self.tokens = nn.Embedding(vocabulary, dim)
        sizes = {"dim_feedforward": hidden, "dropout": 0.0, "norm_first": first, "batch_first": True}
        norm = lambda: nn.LayerNorm(dim) if first else None
        encoder = nn.TransformerEncoderLayer(dim, heads, **sizes)
        decoder = nn.TransformerDecoderLayer(dim, heads, **sizes)
        self.encoder = nn.TransformerEncoder(encoder, layers, norm(), enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, layers, norm())

    def embed(self, idx):
        place, pair = torch.arange(idx.shape[1])[:, None], torch.arange(0, self.dim, 2)
        angles = place / 10000 ** (pair / self.dim)
        table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        return self.tokens(idx) * math.sqrt(self.dim) + table

    def forward(self, source, target, mask):
        padding = mask == 0
        memory = self.encoder(self.embed(source), src_key_padding_mask=padding)
        later = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        y = self.decoder(self.embed(target), memory, tgt_mask=later, memory_key_padding_mask=padding)
        return y @ self.tokens.weight.T


for order in ("pre", "post"):
    model = Seq2Seq(13, 8, 2, 12, 2, order == "pre")
    run(f"seq2seq:{order}", model, ids(2, 6, below=13), ids(2, 5, below=13, seed=1), padded)


# Hugging Face's MixtralSparseMoeBlock, written as a loop over tokens.


class Experts(nn.Module):
    def __init__(self, dim, hidden, count, k, weighing):
        super().__init__()
        self.k, self.weighing = k, weighing
        line = lambda i, o: nn.Linear(i, o, bias=False)
        self.gate = line(dim, count)
        experts = [Named(w1=line(dim, hidden), w2=line(hidden, dim), w3=line(dim, hidden)) for _ in range(count)]
        self.experts = nn.ModuleList(experts)

    def forward(self, x):
        shares = self.gate(x).softmax(-1)
        rows = []
        for token, its in zip(x, shares, strict=True):
            best, chosen = its.topk(self.k)
            weights = best / best.sum() if self.weighing == "chosen" else best
            run = lambda e, token=token: e.w2(functional.silu(e.w1(token)) * e.w3(token))
            rows.append(sum(w * run(self.experts[e]) for w, e in zip(weights, chosen, strict=True)))
        hits = functional.one_hot(shares.topk(self.k).indices, shares.shape[-1]).sum((0, 1)) / (len(x) * self.k)
        balance = shares.shape[-1] * (hits * shares.mean(0)).sum()
        z = self.gate(x).logsumexp(-1).square().mean()
        return torch.cat([torch.stack(rows).flatten(), balance[None], z[None]])


for weighing, k in (("chosen", 2), ("all", 1), ("all", 3)):
    run(f"experts:{weighing}{k}", Experts(4, 6, 5, k, weighing), 3 * filled("x", (7, 4)))

path = Path(__file__).parents[2] / "tests/golden/transformer.npz"
np.savez_compressed(path, **golden)
print(f"{len(golden)} arrays in {path.name}, {path.stat().st_size} bytes, torch {torch.__version__}")
