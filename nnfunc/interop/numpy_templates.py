"""The text of programs in NumPy: what `string.Template` fills in begins with a dollar."""

PROGRAM = '''"""$title

    python ${name}.py inputs.npy outputs.npy

or `from ${name} import forward`. It needs numpy and safetensors, and ${name}.safetensors in its folder.
Inputs: $inputs. Outputs: $outputs.
Written by nnfunc $version.
"""

${imports}import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

W = load_file(Path(__file__).with_suffix(".safetensors"))  # the weights by their paths in the model
$constants


$functions


if __name__ == "__main__":
    np.save(sys.argv[2], forward(np.load(sys.argv[1])))
'''

ACTIVATIONS = {
    "identity": "x",
    "relu": "np.maximum(x, 0)",
    "relu6": "np.clip(x, 0, 6)",
    "leaky_relu": "np.where(x > 0, x, 0.01 * x)",
    "elu": "np.where(x > 0, x, np.expm1(np.minimum(x, 0)))",
    "selu": "1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))",
    "gelu": "x * 0.5 * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2)))",
    "gelu_tanh": "x * 0.5 * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))",
    "sigmoid": "0.5 * (1 + np.tanh(0.5 * x))",
    "silu": "x * 0.5 * (1 + np.tanh(0.5 * x))",
    "tanh": "np.tanh(x)",
    "softplus": "np.logaddexp(x, 0)",
    "softsign": "x / (1 + np.abs(x))",
    "mish": "x * np.tanh(np.logaddexp(x, 0))",
    "squared_relu": "np.maximum(x, 0) ** 2",
}
"""The activations as expressions of NumPy."""

LINEAR = '''
def linear(path, x):
    """x @ weight + bias."""
    return x @ W[f"{path}/weight"] + W.get(f"{path}/bias", np.float32(0))
'''

NORMS = {
    "batch": '''
def norm(path, x, eps=1e-5):
    """Batch norm with the means and variances of the training."""
    y = (x - W[f"{path}/mean"]) / np.sqrt(W[f"{path}/var"] + np.float32(eps))
    return y * W[f"{path}/scale"] + W[f"{path}/bias"]
''',
    "layer": '''
def norm(path, x, eps=1e-5):
    """Layer norm: mean 0 and variance 1 over the last axis."""
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + np.float32(eps))
    return y * W[f"{path}/scale"] + W[f"{path}/bias"]
''',
    "rms": '''
def norm(path, x, eps=1e-6):
    """RMS norm: mean square 1 over the last axis."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.float32(eps)) * W[f"{path}/scale"]
''',
}

CONV = '''
def conv(path, x):
    """A convolution that keeps the size: a matrix product for each element of the kernel."""
    weight = W[f"{path}/weight"]  # [rows, columns, in, out]
    rows, columns = weight.shape[:2]
    height, width = x.shape[1:3]
    x = np.pad(x, [(0, 0), ((rows - 1) // 2, rows // 2), ((columns - 1) // 2, columns // 2), (0, 0)])
    taps = [(i, j) for i in range(rows) for j in range(columns)]
    y = sum(x[:, i : i + height, j : j + width] @ weight[i, j] for i, j in taps)
    return y + W.get(f"{path}/bias", np.float32(0))


def pool(x):
    """The $reduce of each window of 2 x 2."""
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).$reduce((2, 4))
'''

GPT = '''
def linear(w, path, x):
    """x @ weight + bias."""
    return x @ w[f"{path}/weight"] + w.get(f"{path}/bias", np.float32(0))


def norm(w, path, x):
    """Layer norm: mean 0 and variance 1 over the last axis."""
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + np.float32(EPS))
    return y * w[f"{path}/scale"] + w.get(f"{path}/bias", np.float32(0))


def attend(w, x):
    """Causal attention: the mean of the values up to each position, weighted by query and key."""
    n, time, dim = x.shape

    def project(name):
        y = linear(w, f"attend/{name}", x)
        return y.reshape(n, time, HEADS, -1).transpose(0, 2, 1, 3)  # [n, heads, time, head_dim]

    q, k, v = project("query"), project("key"), project("value")
    scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(q.shape[-1]))
    scores = np.where(np.tri(time, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return linear(w, "attend/out", y.transpose(0, 2, 1, 3).reshape(n, time, dim))


def perceptron(w, x):
    """The layer after the attention."""
    $up
    return linear(w, "mlp/down", y)


def forward(x):
    """x: integers [n, time] in [0, $vocab_size), time at most $block_size -> logits [n, time, $vocab_size]."""
    x = W["tokens/weight"][x] + W["positions/weight"][: x.shape[1]]
    blocks = {path[len("blocks/") :]: weight for path, weight in W.items() if path.startswith("blocks/")}
    for layer in range(LAYERS):
        w = {path: weight[layer] for path, weight in blocks.items()}
        x = x + attend(w, norm(w, "attend_norm", x))
        x = x + perceptron(w, norm(w, "mlp_norm", x))
    return norm(W, "norm", x) @ $head
'''
