"""Greedy decoding of a published GPT-2 with a cache: a step continues the same prompts by so many tokens."""

from pathlib import Path
from typing import Any

import numpy as np

from . import Contender

PROMPT, NEW, BATCH = 32, 32, 1


def prompts(vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab_size, (BATCH, PROMPT)).astype(np.int32)


def checksum(tokens: Any) -> float:
    """A number that two results share if their tokens are the same: it stands for the loss of a step."""
    tokens = np.asarray(tokens, np.float64)
    return float((tokens * np.arange(1, tokens.shape[-1] + 1)).mean())


def ours(case: str, params: Any, folder: Path) -> Contender:
    import jax

    import nnfunc as nf

    model, params = nf.pretrained(folder)
    ids = prompts(params["tokens"]["weight"].shape[0])

    def step(state: Any) -> tuple[Any, float]:
        return state, checksum(jax.device_get(nf.generate(model, params, ids, NEW).tokens))

    return Contender(lambda: None, step)


def transformers(case: str, params: Any, folder: Path) -> Contender:
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import GPT2LMHeadModel  # pyright: ignore[reportMissingImports]

    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = torch.tensor(prompts(model.config.vocab_size), dtype=torch.long)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}

    def step(state: Any) -> tuple[Any, float]:
        with torch.inference_mode():
            return state, checksum(model.generate(ids, attention_mask=torch.ones_like(ids), **options))

    return Contender(lambda: None, step)


def save(folder: Path, layers: int) -> None:
    """A GPT-2 of random weights as `save_pretrained` writes it, in the shape of GPT-2 small."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import GPT2Config, GPT2LMHeadModel  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=layers)).save_pretrained(folder)
