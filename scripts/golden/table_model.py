"""Golden outputs and gradients of nf.table_model, from PyTorch in float64.

python scripts/golden/table_model.py      (needs torch; renews tests/golden/table_model.json)

The model has the parts of fastai's TabularModel: an nn.Embedding for each column, whose vectors are concatenated with
the numbers, then linear, batch norm, relu, linear. Weights and inputs come from `value`, a formula of their name and
shape that the test repeats; stored are y in evaluation and training mode, and for training mode the gradients of
sum(y * dy) by every parameter.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

NUMBERS, CATEGORIES, DIMS, HIDDEN, OUTPUTS, BATCH = 3, (4, 6), (3, 2), 5, 2, 7


def value(name, shape):
    """Numbers that look drawn."""
    i = np.arange(math.prod(shape), dtype=np.float64)
    return 0.6 * np.sin(0.37 * i * i + i + zlib.crc32(name.encode()) % 1000).reshape(shape)


class TableModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.column_0, self.column_1 = (nn.Embedding(*pair) for pair in zip(CATEGORIES, DIMS, strict=True))
        self.linear = nn.Linear(NUMBERS + sum(DIMS), HIDDEN, bias=False)
        self.norm = nn.BatchNorm1d(HIDDEN)
        self.head = nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, numbers, categories):
        vectors = [self.column_0(categories[:, 0]), self.column_1(categories[:, 1])]
        return self.head(F.relu(self.norm(self.linear(torch.cat([numbers, *vectors], 1)))))


def main():
    model = TableModel().double()
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            leaf.copy_(torch.tensor(value(name, leaf.shape)))
    numbers = torch.tensor(value("numbers", (BATCH, NUMBERS)))
    ids = np.stack([np.arange(BATCH) * 3 % size for size in CATEGORIES], 1)
    golden = {"torch": torch.__version__}
    for mode in ("eval", "train"):
        getattr(model, mode)()
        y = model(numbers, torch.tensor(ids))
        golden[mode] = y.tolist()
    (y * torch.tensor(value("dy", y.shape))).sum().backward()
    golden["grads"] = {name: leaf.grad.tolist() for name, leaf in model.named_parameters()}
    file = Path(__file__).parents[2] / "tests" / "golden" / "table_model.json"
    file.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
