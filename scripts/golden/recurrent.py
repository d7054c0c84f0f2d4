"""Golden values and gradients of recurrent layers, in float64: from PyTorch, or from the papers.

python scripts/golden/recurrent.py        (needs torch; renews tests/golden/recurrent.npz)

Each case holds x, y, dy, the initial and last carries (h0, c0, h1, c1), lengths where there are some,
and the gradients of sum(y * dy) + sum(cos(h1)) + sum(sin(c1)) by x, the carries and the parameters,
whose names are ours: p/layer_0/weight and dp/layer_0/weight. PyTorch's two biases of a gate appear as
their sum. Peepholes and the GRU that resets before the product, which PyTorch has not, are loops
written from the equations of Gers et al. 2002 (section 3) and Cho et al. 2014 (section 2.3).
"""

from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
draw = np.random.default_rng(0)
golden: dict[str, np.ndarray] = {}
BATCH, TIME, IN, DIM = 3, 5, 2, 3


def leaf(array):
    return torch.tensor(array, requires_grad=True)


def keep(case, values):
    for name, value in values.items():
        value = value.detach() if isinstance(value, torch.Tensor) else value
        golden[f"{case}/{name}"] = np.asarray(value)


def ours(layer, kind, gru, bidirectional):
    """{our path: (array of the values, the same of the gradients)} of a PyTorch layer."""
    found = {}
    for i in range(layer.num_layers):
        for way, end in (("forward", ""), ("backward", "_reverse"))[: 1 + bidirectional]:
            place = f"layer_{i}/{way}" if bidirectional else f"layer_{i}"
            for part in ("data", "grad"):
                own = {n: getattr(getattr(layer, f"{n}_l{i}{end}"), part).numpy() for n in kind}
                made = {"weight": own["weight_ih"].T, "recurrent_weight": own["weight_hh"].T}
                if "bias_ih" in kind:
                    one, two = own["bias_ih"], own["bias_hh"]
                    if gru:
                        made["recurrent_bias"], two = (two[2 * DIM :], np.r_[two[: 2 * DIM], [0] * DIM])
                    # the gradient of a sum is that of either part
                    made["bias"] = one + two if part == "data" else one
                for name, value in made.items():
                    found.setdefault(f"{place}/{name}", []).append(value.copy())
    return found


def run(case, layer, *, lengths=None, scale=1.0, batch=BATCH, time=TIME):
    """One case of PyTorch's nn.RNN, nn.GRU or nn.LSTM; scale: that of the inputs."""
    ways = 2 if layer.bidirectional else 1
    for parameter in layer.parameters():
        parameter.data = torch.tensor(draw.normal(size=parameter.shape) * (0.7 if scale == 1 else 1))
    x = leaf(draw.normal(size=(batch, time, IN)) * scale)
    carry = [leaf(draw.normal(size=(layer.num_layers * ways, batch, DIM))) for _ in range(2)]
    is_lstm = isinstance(layer, torch.nn.LSTM)
    start = tuple(carry) if is_lstm else carry[0]
    if lengths is None:
        y, last = layer(x, start)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
        y, last = layer(packed, start)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=time)
    last = last if is_lstm else (last,)
    dy = draw.normal(size=y.shape)
    loss = (y * torch.tensor(dy)).sum() + torch.cos(last[0]).sum()
    loss = loss + torch.sin(last[1]).sum() if is_lstm else loss
    loss.backward()
    values = {"x": x, "y": y, "dy": dy, "dx": x.grad, "h0": carry[0], "dh0": carry[0].grad, "h1": last[0]}
    if is_lstm:
        values |= {"c0": carry[1], "dc0": carry[1].grad, "c1": last[1]}
    if lengths is not None:
        values["lengths"] = np.array(lengths)
    kind = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if layer.bias else [])
    made = ours(layer, kind, isinstance(layer, torch.nn.GRU), layer.bidirectional)
    for path, (value, gradient) in made.items():
        values |= {f"p/{path}": value, f"dp/{path}": gradient}
    keep(case, values)


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def gru_before(p, x, carry):
    """Cho et al. 2014: equations 5 to 8."""
    (h,) = carry
    W, U, b = p["weight"], p["recurrent_weight"], p["bias"]
    d = DIM
    r = sigmoid(x @ W[:, :d] + h @ U[:, :d] + b[:d])
    z = sigmoid(x @ W[:, d : 2 * d] + h @ U[:, d : 2 * d] + b[d : 2 * d])
    new = torch.tanh(x @ W[:, 2 * d :] + (r * h) @ U[:, 2 * d :] + b[2 * d :])
    return (z * h + (1 - z) * new,)


def peephole_lstm(p, x, carry):
    """Gers et al. 2002: i and f look at the old cell, o at the new one."""
    h, c = carry
    W, U, b, look = p["weight"], p["recurrent_weight"], p["bias"], p["peephole"]
    i, f, g, o = (
        x @ W[:, k * DIM : (k + 1) * DIM] + h @ U[:, k * DIM : (k + 1) * DIM] + b[k * DIM : (k + 1) * DIM]
        for k in range(4)
    )
    i = sigmoid(i + look[:DIM] * c)
    f = sigmoid(f + look[DIM : 2 * DIM] * c)
    new = f * c + i * torch.tanh(g)
    o = sigmoid(o + look[2 * DIM :] * new)
    return o * torch.tanh(new), new


def run_loop(case, step, gates, carries, peepholes=False, lengths=None):
    """One case of a step written above, over time."""
    sizes = {"weight": (IN, gates * DIM), "recurrent_weight": (DIM, gates * DIM), "bias": (gates * DIM,)}
    sizes |= {"peephole": (3 * DIM,)} if peepholes else {}
    params = {name: leaf(draw.normal(size=size)) for name, size in sizes.items()}
    x = leaf(draw.normal(size=(BATCH, TIME, IN)))
    start = [leaf(draw.normal(size=(1, BATCH, DIM))) for _ in range(carries)]
    carry, ys = [part[0] for part in start], []
    for t in range(TIME):
        new = step(params, x[:, t], carry)
        real = torch.ones(BATCH, 1, dtype=torch.bool) if lengths is None else (t < torch.tensor(lengths)[:, None])
        carry = [torch.where(real, a, b) for a, b in zip(new, carry, strict=True)]
        ys.append(torch.where(real, carry[0], torch.zeros(())))
    y = torch.stack(ys, 1)
    dy = draw.normal(size=y.shape)
    loss = (y * torch.tensor(dy)).sum() + torch.cos(carry[0]).sum()
    loss = loss + torch.sin(carry[1]).sum() if carries == 2 else loss
    loss.backward()
    values = {"x": x, "y": y, "dy": dy, "dx": x.grad, "h0": start[0], "dh0": start[0].grad}
    values["h1"] = carry[0][None]
    if carries == 2:
        values |= {"c0": start[1], "dc0": start[1].grad, "c1": carry[1][None]}
    if lengths is not None:
        values["lengths"] = np.array(lengths)
    for name, value in params.items():
        values |= {f"p/layer_0/{name}": value, f"dp/layer_0/{name}": value.grad}
    keep(case, values)


nn = torch.nn
LAYERS = {
    "rnn": lambda **more: nn.RNN(IN, DIM, batch_first=True, **more),
    "relu": lambda **more: nn.RNN(IN, DIM, nonlinearity="relu", batch_first=True, **more),
    "gru": lambda **more: nn.GRU(IN, DIM, batch_first=True, **more),
    "lstm": lambda **more: nn.LSTM(IN, DIM, batch_first=True, **more),
}
for name, make in LAYERS.items():
    run(f"{name}/one", make())
    run(f"{name}/deep", make(num_layers=2, bidirectional=True))
    run(f"{name}/lengths", make(bidirectional=True), lengths=[2, 5, 1])
    run(f"{name}/step", make(bias=False), batch=1, time=1)
for name in ("rnn", "gru", "lstm"):
    run(f"{name}/saturated", LAYERS[name](num_layers=2), scale=1e3)
run_loop("before/one", gru_before, 3, 1)
run_loop("before/lengths", gru_before, 3, 1, lengths=[2, 5, 0])
run_loop("peepholes/one", peephole_lstm, 4, 2, peepholes=True)
run_loop("peepholes/lengths", peephole_lstm, 4, 2, peepholes=True, lengths=[2, 5, 0])

path = Path(__file__).parents[2] / "tests/golden/recurrent.npz"
np.savez_compressed(path, **golden)
size = path.stat().st_size
print(f"{len(golden)} arrays in {path.name}, {size} bytes, torch {torch.__version__}")
