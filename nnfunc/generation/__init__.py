"""Generation, token by token: one compiled loop, with what the layers have seen kept in their state.

`prefill` and `decode` are the two calls that a layer with a cache answers, `generate` the loop on
top. A Transformer's cache is its keys and values, a recurrent model's its carry.
"""

from nnfunc.calls import explain_calls
from nnfunc.generation.cache import decode, prefill
from nnfunc.generation.generate import Generated, generate
from nnfunc.generation.sample_token import draw

__all__ = ["Generated", "decode", "draw", "generate", "prefill"]

explain_calls(__name__)
