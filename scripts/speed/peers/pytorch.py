"""PyTorch on a CPU: its fused optimizers, eager and with torch.compile."""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from . import BLOCK, DIM, EPS, HEADS, LAYERS, RATE, ROWS, UNITS, VOCABULARY, Contender, Unavailable, blocks, epochs


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn() -> nn.Module:
    layers = []
    for inputs, width in ((1, 32), (32, 64)):
        conv, norm = nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width, eps=EPS)
        layers += [conv, norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(7 * 7 * 64, 10))


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(ROWS, UNITS, batch_first=True)
        # Two biases that both learn would make one of twice the rate.
        self.rnn.bias_hh_l0.requires_grad_(False)
        self.head = nn.Linear(UNITS, 10)

    def forward(self, x):
        _, (h, _) = self.rnn(x)
        return self.head(h[-1])


class Block(nn.Module):
    """As in nanoGPT."""

    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(DIM, eps=EPS), nn.LayerNorm(DIM, eps=EPS)
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.up, self.down = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x):
        batch, time, _ = x.shape
        q, k, v = self.qkv(self.norm_1(x)).split(DIM, dim=2)
        # [batch, heads, time, head_dim]
        q, k, v = (t.view(batch, time, HEADS, DIM // HEADS).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, DIM))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, DIM), nn.Embedding(BLOCK, DIM)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(DIM, eps=EPS)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T


def optimizer(case: str, model: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if case != "gpt":
        return torch.optim.Adam(trained, lr=RATE, fused=True)
    matrices, others = [p for p in trained if p.dim() >= 2], [p for p in trained if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), fused=True)


def contender(case: str, params: Any, batch: Any, compile_model: bool = False) -> Contender:
    build, weights = CASES[case]
    model = build()
    initial = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in weights(params).items()}
    x, labels = (torch.tensor(array) for array in batch[:2])
    labels = labels.long().flatten()
    if case == "cnn":  # the layout that convolutions on a CPU are fastest in
        x = x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
    initial = {name: tensor.clone() for name, tensor in (model.state_dict() | initial).items()}

    def loss_of(x, labels):
        return F.cross_entropy(model(x).flatten(0, -2), labels)

    if compile_model:
        loss_of = torch.compile(loss_of)

    def start():
        model.load_state_dict(initial)
        return optimizer(case, model)

    def train_step(optimizer, batch):
        loss = loss_of(*batch)
        optimizer.zero_grad()
        loss.backward()
        if case == "gpt":
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return optimizer, loss.detach()

    if case == "epoch":
        return epochs(start, train_step, x, labels, torch.tensor(batch[2], dtype=torch.long))
    return Contender(start, lambda optimizer: train_step(optimizer, (x, labels)))


def compiled(case: str, params: Any, batch: Any) -> Contender:
    """With torch.compile, which needs a C++ compiler on a CPU."""
    try:
        torch.compile(lambda x: torch.sin(x) + 1)(torch.ones(8))
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        raise Unavailable(f"torch.compile does not work here: {message.splitlines()[0]}") from error
    return contender(case, params, batch, compile_model=True)


def linear(name, p):
    return {f"{name}.weight": p["weight"].T, f"{name}.bias": p["bias"]}


def norm(name, p):
    return {f"{name}.weight": p["scale"], f"{name}.bias": p["bias"]}


def mlp_weights(p):
    return linear("0", p["hidden_0"]["linear"]) | linear("2", p["hidden_1"]["linear"]) | linear("4", p["head"])


def cnn_weights(p):
    head = p["head"]["weight"].reshape(7, 7, 64, 10).transpose(2, 0, 1, 3).reshape(-1, 10)  # channels first
    weights = linear("9", {**p["head"], "weight": head})
    for i, at in ((1, 0), (2, 4)):
        conv = p[f"conv_{i}"]
        weights |= {f"{at}.weight": conv["weight"].transpose(3, 2, 0, 1), f"{at}.bias": conv["bias"]}
        weights |= norm(str(at + 1), p[f"norm_{i}"])
    return weights


def lstm_weights(p):
    cell = p["body"]["layer_0"]
    weights = {"rnn.weight_ih_l0": cell["weight"].T, "rnn.weight_hh_l0": cell["recurrent_weight"].T}
    biases = {"rnn.bias_ih_l0": cell["bias"], "rnn.bias_hh_l0": np.zeros_like(cell["bias"])}
    return weights | biases | linear("head", p["head"])


def gpt_weights(p):
    weights = {f"{name}.weight": p[name]["weight"] for name in ("tokens", "positions")}
    weights |= norm("norm", p["norm"])
    for i, block in enumerate(blocks(p)):
        parts = [block["attend"][name] for name in ("query", "key", "value")]
        joined = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in ("weight", "bias")}
        weights |= norm(f"blocks.{i}.norm_1", block["attend_norm"]) | norm(f"blocks.{i}.norm_2", block["mlp_norm"])
        maps = {"qkv": joined, "out": block["attend"]["out"], **block["mlp"]}
        for name, part in maps.items():
            weights |= linear(f"blocks.{i}.{name}", part)
    return weights


CASES = {"mlp": (mlp, mlp_weights), "cnn": (cnn, cnn_weights), "lstm": (LSTM, lstm_weights), "gpt": (GPT, gpt_weights)}
CASES["epoch"] = CASES["mlp"]
