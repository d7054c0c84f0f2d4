"""Write tests/golden/losses.json: values and gradients of PyTorch's losses in float64 and float32.

    python scripts/golden/losses.py        (needs torch; the tests do not)

Gradients are of the sum of the loss. Where PyTorch has no such loss, or one that is not finite, the
formula of the docstring is written out here in float64, and float32 is left out.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

draw = np.random.default_rng(7)
LOGITS = np.round(draw.normal(size=(7, 5)) * 3, 3).tolist()
LABELS = [0, 4, 2, 2, 1, 3, 0]
IGNORED = [0, -100, 2, 2, -100, 3, 0]
NASTY = [
    [1e4, -1e4, 0.0, 1e4, 1.0],  # ties at the top, one of them the label
    [-1e4, -1e4, -1e4, -1e4, -1e4],
    [1e4, 1e4, 1e4, 1e4, 1e4],
    [1e4, -1e4, -1e4, -1e4, -1e4],  # sure and right
    [1e4, -1e4, -1e4, -1e4, -1e4],  # sure and wrong
    [1e4, 9999.0, 9998.5, 9997.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.0],
]
NASTY_LABELS = [3, 0, 2, 0, 1, 2, 4]
DENSE = draw.dirichlet(np.ones(5), size=7).round(4)
DENSE[:, 0] += 1 - DENSE.sum(1)
DENSE[1] = [0, 0, 1, 0, 0]
DENSE[2] = [0.5, 0.5, 0, 0, 0]
DENSE = DENSE.round(4).tolist()
WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]

LINE = [-1e4, -90.0, -30.0, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.7, 1.0, 2.5, 30.0, 90.0, 1e4]
X = LINE + LINE + LINE
YES_NO = [0.0] * len(LINE) + [1.0] * len(LINE) + [0.3] * len(LINE)
P = [1e-10, 1e-3, 0.2, 0.5, 0.9, 0.999] * 3
P_TARGETS = [0.0] * 6 + [1.0] * 6 + [0.3] * 6
A = [0.0, 1.0, -1.0, 0.5, 2.0, -3.0, 1e4, -1e4, 1.2, 1e-4]
B = [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, -1e4, 1e4, 1.1, 0.0]
VECTORS = [np.round(draw.normal(size=(5, 4)), 3).tolist() + [[1e4, -1e4, 1e4, 1.0]] for _ in range(3)]
VECTORS[0][0] = VECTORS[1][0]  # a distance of 0, and of more than the margin
VECTORS[2][0] = [9.0, 9.0, 9.0, 9.0]
MEAN, VARIANCE = [0.0, 1.0, -2.0, 1e4, 3.0], [1.0, 0.25, 4.0, 2.0, 1e-8]
COUNTS, LOG_RATES = [0.0, 1.0, 3.0, 20.0, 2.0, 5.0], [0.0, -1.5, 1.0, 3.0, -1e4, 40.0]


def smooth(target, smoothing, classes):
    return (1 - smoothing) * target + smoothing / classes


def focal(x, y, gamma, alpha=None):
    log_p = F.log_softmax(x, -1)
    log_p_y = log_p.gather(-1, y[..., None])[..., 0]
    others = log_p.exp().scatter(-1, y[..., None], 0.0).sum(-1)
    factor = 1.0 if alpha is None else torch.tensor(alpha, dtype=x.dtype)[y]
    return -factor * others**gamma * log_p_y


def binary_focal(x, t, gamma, alpha=None):
    """torchvision.ops.sigmoid_focal_loss for each of the two answers, weighed by the target."""
    p, a = torch.sigmoid(x), 1.0 if alpha is None else alpha
    b = 1.0 if alpha is None else 1 - alpha
    yes = a * t * torch.sigmoid(-x) ** gamma * -F.logsigmoid(x)
    return yes + b * (1 - t) * p**gamma * -F.logsigmoid(-x)


N = {"reduction": "none"}
CASES = []


def case(name, function, args, *, differentiate=(0,), only64=False, **kwargs):
    """Record a call of nnfunc's `name` and what `function` gives for the same arguments."""
    record = {"name": name, "args": args, "kwargs": kwargs}
    for dtype in [torch.float64] + ([] if only64 else [torch.float32]):
        tensors = [torch.tensor(arg, dtype=torch.int64 if _whole(arg) else dtype) for arg in args]
        for i in differentiate:
            tensors[i].requires_grad_()
        value = function(*tensors)
        value.sum().backward()
        assert torch.isfinite(value).all(), (name, kwargs, value)
        gradients = [tensors[i].grad for i in differentiate]
        assert all(torch.isfinite(g).all() for g in gradients), (name, kwargs, gradients)
        record[str(dtype).removeprefix("torch.")] = {
            "value": _short(value),
            "gradients": {str(i): _short(tensors[i].grad) for i in differentiate},
        }
    CASES.append(record)


def _short(tensor):
    """Numbers in as many digits as their type holds."""
    array = tensor.detach().numpy()
    return np.array([float(str(x)) for x in array.ravel()]).reshape(array.shape).tolist()


def _whole(arg):
    while isinstance(arg, list):
        arg = arg[0]
    return isinstance(arg, int)


for logits, labels in ((LOGITS, LABELS), (NASTY, NASTY_LABELS)):
    for s in (0.0, 0.1, 1.0):
        case(
            "cross_entropy",
            lambda x, y, s=s: F.cross_entropy(x, y, label_smoothing=s, **N),
            [logits, labels],
            label_smoothing=s,
        )

        def weighted(x, y, s=s):
            w = torch.tensor(WEIGHTS, dtype=x.dtype)
            return F.cross_entropy(x, y, weight=w, label_smoothing=s, **N)

        case("cross_entropy", weighted, [logits, labels], label_smoothing=s, weight=WEIGHTS)
        case(
            "cross_entropy_dense",
            lambda x, q, s=s: F.cross_entropy(x, q, label_smoothing=s, **N),
            [logits, DENSE],
            label_smoothing=s,
        )

    def weighted_dense(x, q):
        w = torch.tensor(WEIGHTS, dtype=x.dtype)
        return F.cross_entropy(x, q, weight=w, label_smoothing=0.2, **N)

    case("cross_entropy_dense", weighted_dense, [logits, DENSE], label_smoothing=0.2, weight=WEIGHTS)
    case("kl_divergence", lambda x, q: F.kl_div(F.log_softmax(x, -1), q, **N).sum(-1), [logits, DENSE])
case(
    "cross_entropy",
    lambda x, y: F.cross_entropy(x, y, ignore_index=-100, label_smoothing=0.1, **N),
    [LOGITS, IGNORED],
    label_smoothing=0.1,
    ignore_index=-100,
)

for g in (0.5, 1.0, 2.0, 5.0):
    case("focal", lambda x, y, g=g: focal(x, y, g), [LOGITS, LABELS], only64=True, gamma=g)
case("focal", lambda x, y: focal(x, y, 2.0, WEIGHTS), [LOGITS, LABELS], only64=True, gamma=2.0, alpha=WEIGHTS)

for s in (0.0, 0.1):
    case(
        "binary_cross_entropy",
        lambda p, t, s=s: F.binary_cross_entropy(p, smooth(t, s, 2), **N),
        [P, P_TARGETS],
        label_smoothing=s,
    )
    for w in (1.0, 3.0):

        def with_logits(x, t, s=s, w=w):
            w = torch.tensor(w, dtype=x.dtype)
            t = smooth(t, s, 2)
            return F.binary_cross_entropy_with_logits(x, t, pos_weight=w, **N)

        case("binary_cross_entropy_with_logits", with_logits, [X, YES_NO], label_smoothing=s, pos_weight=w)
MILD = [i for i, x in enumerate(X) if abs(x) < 100]
for g, a in ((0.5, None), (1.0, 0.25), (2.0, 0.25), (2.0, None)):
    case(
        "binary_focal",
        lambda x, t, g=g, a=a: binary_focal(x, t, g, a),
        [[X[i] for i in MILD], [YES_NO[i] for i in MILD]],
        only64=True,
        gamma=g,
        alpha=a,
    )

case("mse", lambda a, b: F.mse_loss(a, b, **N), [A, B], differentiate=(0, 1))
case("mae", lambda a, b: F.l1_loss(a, b, **N), [A, B], differentiate=(0, 1))
for d in (0.3, 1.0, 4.0):
    case("huber", lambda a, b, d=d: F.huber_loss(a, b, delta=d, **N), [A, B], differentiate=(0, 1), delta=d)
for d in (0.0, 0.3, 1.0, 4.0):
    case("smooth_l1", lambda a, b, d=d: F.smooth_l1_loss(a, b, beta=d, **N), [A, B], differentiate=(0, 1), beta=d)

SIGNS = [1.0 if i % 2 else -1.0 for i in range(len(LINE) - 1)]
SCORES = [x for x in LINE if x != 1.0]  # PyTorch's slope at the corner is that of the other side
for m in (0.25, 1.0):
    case(
        "hinge",
        lambda x, t, m=m: F.margin_ranking_loss(x, torch.zeros_like(x), t, margin=m, **N),
        [SCORES, SIGNS],
        margin=m,
    )

case("cosine_distance", lambda a, b: 1 - F.cosine_similarity(a, b, dim=-1), VECTORS[:2], differentiate=(0, 1))
for m in (0.2, 1.0):
    case(
        "triplet",
        lambda a, p, n, m=m: F.triplet_margin_loss(a, p, n, margin=m, eps=0.0, **N),
        VECTORS,
        differentiate=(0, 1, 2),
        margin=m,
    )
case("poisson_nll", lambda x, t: F.poisson_nll_loss(x, t, log_input=True, **N), [LOG_RATES, COUNTS])
for full in (False, True):
    case(
        "gaussian_nll",
        lambda m, v, t, full=full: F.gaussian_nll_loss(m, t, v, full=full, **N),
        [MEAN, VARIANCE, [0.5, 1.0, 1.0, -1e4, 2.0]],
        differentiate=(0, 1, 2),
        full=full,
    )


# later cases draw from a generator of their own, so that those above stay as they are
draw = np.random.default_rng(11)
LOG_P = torch.log_softmax(torch.tensor(LOGITS), -1).numpy().round(6).tolist()
SCORES = np.round(draw.normal(size=(6, 5)) * 2, 3).tolist()
LABEL_SETS = (draw.uniform(size=(6, 5)) < 0.4).astype(float)
LABEL_SETS[0], LABEL_SETS[1] = 0, 1  # no label, all labels
LABEL_SETS = LABEL_SETS.tolist()


def with_weights(function):
    return lambda *args: function(*args, torch.tensor(WEIGHTS, dtype=args[0].dtype))


case("nll", lambda x, y: F.nll_loss(x, y, **N), [LOG_P, LABELS])
weighted_nll = with_weights(lambda x, y, w: F.nll_loss(x, y, weight=w, ignore_index=-100, **N))
case("nll", weighted_nll, [LOG_P, IGNORED], weight=WEIGHTS, ignore_index=-100)
pos_weighted = with_weights(lambda x, t, w: F.binary_cross_entropy_with_logits(x, t, pos_weight=w, **N))
case("binary_cross_entropy_with_logits", pos_weighted, [SCORES, LABEL_SETS], pos_weight=WEIGHTS)
terms = lambda x, q: F.kl_div(F.log_softmax(x, -1), q, **N)
case("kl_divergence", terms, [LOGITS, DENSE], per_class=True)
plain_terms = lambda x, q: F.kl_div(x, q, **N)
case("kl_divergence", plain_terms, [LOG_P, DENSE], log_probabilities=True, per_class=True)

SIGNED = [-1e4, -30.0, -3.0, -0.5, 0.001, 0.7, 1.25, 2.5, 30.0, 1e4]
SIGNS = [1.0, -1.0] * 5
FINITE = SIGNED[1:-1] + SIGNED[1:-1]  # PyTorch's is infinite at -1e4
case("soft_margin", lambda x, t: F.soft_margin_loss(x, t, **N), [FINITE, [1.0] * 8 + [-1.0] * 8])
for m in (0.5, 1.0):
    for signs in (SIGNS, [-s for s in SIGNS]):
        hinge_embedding = lambda x, t, m=m: F.hinge_embedding_loss(x, t, margin=m, **N)
        case("hinge_embedding", hinge_embedding, [SIGNED, signs], margin=m)
        ranking = lambda a, b, t, m=m: F.margin_ranking_loss(a, b, t, margin=m, **N)
        case("margin_ranking", ranking, [SIGNED, SIGNED[::-1], signs], differentiate=(0, 1), margin=m)
for m in (0.0, 0.3):
    cosine = lambda a, b, t, m=m: F.cosine_embedding_loss(a, b, t, margin=m, **N)
    case("cosine_embedding", cosine, [*VECTORS[:2], SIGNS[:6]], differentiate=(0, 1), margin=m)
    case("cosine_embedding", cosine, [*VECTORS[1:], SIGNS[1:7]], differentiate=(0, 1), margin=m)
for q, m in ((1, 1.0), (2, 0.4)):
    multi = lambda x, y, q=q, m=m: F.multi_margin_loss(x, y, p=q, margin=m, **N)
    case("multiclass_margin", multi, [LOGITS, LABELS], p=float(q), margin=m)
    multi = with_weights(lambda x, y, w, q=q, m=m: F.multi_margin_loss(x, y, p=q, margin=m, weight=w, **N))
    case("multiclass_margin", multi, [LOGITS, LABELS], p=float(q), margin=m, weight=WEIGHTS)


def multilabel_margin(x, t):
    """PyTorch takes the numbers of the true labels, then -1."""
    rows = [[i for i, on in enumerate(row) if on] for row in t.tolist()]
    ids = torch.tensor([row + [-1] * (t.shape[-1] - len(row)) for row in rows])
    return F.multilabel_margin_loss(x, ids, **N)


case("multilabel_margin", multilabel_margin, [SCORES, LABEL_SETS])
APART = [np.round(draw.normal(size=(6, 4)), 3).tolist() for _ in range(3)]
for q in (1.0, 2.0, 3.5):
    for swap in (False, True):
        options = dict(margin=1.5, p=q, swap=swap, eps=1e-6)
        apart = lambda a, p, n, options=options: F.triplet_margin_loss(a, p, n, **options, **N)
        case("triplet", apart, APART, differentiate=(0, 1, 2), **options)
RATES = [1e-3, 0.5, 1.0, 2.0, 15.0, 40.0]
for full in (False, True):
    for log_input, rates in ((True, [-1.5, -0.5, 1.0, 3.0, 0.0, 4.0]), (False, RATES)):
        options = dict(log_input=log_input, eps=1e-8)
        poisson = lambda x, t, o=options, full=full: F.poisson_nll_loss(x, t, full=full, **o, **N)
        case("poisson_nll", poisson, [rates, COUNTS], full="stirling" if full else False, **options)

FRAMES = np.round(draw.normal(size=(4, 7, 5)) * 2, 3).tolist()
CTC = {
    "of all lengths": ([[1, 2, 2], [3, 4, 1], [4, 4, 4], [1, 0, 0]], [7, 6, 5, 3], [3, 2, 3, 0], 0),
    "of another blank": ([[1, 2, 2], [3, 0, 1], [0, 0, 0], [1, 3, 1]], [7, 7, 7, 3], [3, 3, 3, 3], 4),
}
for labels, frames, sizes, blank in CTC.values():

    def ctc(x, y, frames=frames, sizes=sizes, blank=blank):
        log_p = F.log_softmax(x, -1).transpose(0, 1)
        return F.ctc_loss(log_p, y, torch.tensor(frames), torch.tensor(sizes), blank=blank, reduction="none")

    case("ctc", ctc, [FRAMES, labels], logit_lengths=frames, label_lengths=sizes, blank=blank)

out = Path(__file__).parents[2] / "tests/golden/losses.json"
lines = [json.dumps(c) for c in CASES]
document = {"torch": torch.__version__.split("+")[0]}
out.write_text(f'{{"made_with": {json.dumps(document)},\n"cases": [\n' + ",\n".join(lines) + "\n]}\n")
print(f"{out}: {len(CASES)} cases, {out.stat().st_size} bytes")
