"""Data sets as pure functions of the step: `batch(step)`, the same for the same seed and step.

What a factory returns is `Splits` on the host; `splits.data(batch_size)` puts it on the device,
`splits.stream(batch_size)` leaves it where it is. A config names the factories.
"""

from nnfunc.data.arrays import Data, arrays, labels, take
from nnfunc.data.augment import chain, flip, shift
from nnfunc.data.cifar import cifar10
from nnfunc.data.codecs import Bytes, Characters, Codec, Tokenizer, load_codec
from nnfunc.data.digits import digits
from nnfunc.data.idx import fashion_mnist, mnist, read_idx
from nnfunc.data.images import images
from nnfunc.data.learned import Learned
from nnfunc.data.npz import npz
from nnfunc.data.order import indices, permute, positions
from nnfunc.data.pixels import Normalise
from nnfunc.data.splits import Splits, split
from nnfunc.data.stream import Given, Stream, prefetch
from nnfunc.data.tables import table
from nnfunc.data.text import text
from nnfunc.data.tokens import next_tokens, tokens

__all__ = [
    "Bytes", "Characters", "Codec", "Data", "Given", "Learned", "Normalise", "Splits", "Stream",
    "Tokenizer", "arrays", "chain", "cifar10", "digits", "fashion_mnist", "flip", "images", "indices",
    "labels", "load_codec", "mnist", "next_tokens", "npz", "permute", "positions", "prefetch",
    "read_idx", "shift", "split", "table", "take", "text", "tokens",
]  # fmt: skip
