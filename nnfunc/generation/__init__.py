"""Generation of sequences, token by token, in one compiled loop with a cache in the state of the model.

`prefill` and `decode` call a model with a cache, and `generate` is the loop that uses them. The cache of a
Transformer is its keys and values, that of a recurrent model its carry.
"""

from nnfunc.calls import explain_calls
from nnfunc.generation.generate import Generated, generate
from nnfunc.generation.prefill_decode import decode, prefill
from nnfunc.generation.sample_token import draw

__all__ = ["Generated", "decode", "draw", "generate", "prefill"]

explain_calls(__name__)
