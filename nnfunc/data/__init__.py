"""Data sets as pure functions of the step: `batch(step)`, the same for the same seed and step.

What a factory returns is `Splits` on the host; `splits.data(batch_size)` puts it on the device,
`splits.stream(batch_size)` leaves it where it is. A config names the factories.
"""

from nnfunc.calls import explain_calls
from nnfunc.data.augment import chain, flip, shift
from nnfunc.data.batch_transforms import Normalise, next_tokens
from nnfunc.data.check_arrays import check_labels
from nnfunc.data.dataset import Data, GatheredBatch, arrays, take
from nnfunc.data.generated import GeneratedData, generated
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.shuffle import indices, permute, positions
from nnfunc.data.sources.cifar import cifar10
from nnfunc.data.sources.digits import digits
from nnfunc.data.sources.forecasting import forecasting
from nnfunc.data.sources.image_folder import images
from nnfunc.data.sources.mnist import fashion_mnist, mnist, read_idx
from nnfunc.data.sources.npz import npz
from nnfunc.data.sources.table import table
from nnfunc.data.sources.tagging import tagging
from nnfunc.data.sources.text import text
from nnfunc.data.sources.text_classification import text_classification
from nnfunc.data.sources.token_files import tokens
from nnfunc.data.splits import Splits, split
from nnfunc.data.stream import Stream, prefetch
from nnfunc.data.tokenizers import Bytes, Characters, Codec, Tokenizer, load_codec

__all__ = [
    "Bytes",
    "Characters",
    "Codec",
    "Data",
    "GatheredBatch",
    "GeneratedData",
    "Normalise",
    "Preprocessing",
    "Splits",
    "Stream",
    "Tokenizer",
    "arrays",
    "chain",
    "check_labels",
    "cifar10",
    "digits",
    "fashion_mnist",
    "flip",
    "forecasting",
    "generated",
    "images",
    "indices",
    "load_codec",
    "mnist",
    "next_tokens",
    "npz",
    "permute",
    "positions",
    "prefetch",
    "read_idx",
    "shift",
    "split",
    "table",
    "tagging",
    "take",
    "text",
    "text_classification",
    "tokens",
]

explain_calls(__name__)
