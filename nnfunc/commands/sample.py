"""The command `nnfunc sample`: text from a trained language model."""

import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Model
from nnfunc.commands import train
from nnfunc.config import Config, restore
from nnfunc.generation import generate
from nnfunc.runs import run_folder

__all__ = ["sample"]


def sample(
    folder: Path,
    prompt: str = "\n",
    *,
    steps: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    samples: int = 1,
    stop: str | None = None,
    which: str = "best",
) -> list[str]:
    """Print and return texts: the prompt and what a run's model makes of it.

    prompt: "-" reads it from standard input. stop: the text of one token, which ends a sample.
    """
    check.size("sample", steps=steps, samples=samples)
    check.size("sample", 0, 2**32 - 1, seed=seed)
    train.use_compilation_cache()
    folder = run_folder.find(folder)
    config, codec = restore.read_config(folder), _codec(folder)
    ids = codec.encode(sys.stdin.read() if prompt == "-" else prompt)
    if len(ids) == 0:
        check.fail("sample", "the prompt should hold at least one token, got none.")
    context = _context(config)
    if context is not None and len(ids) > context:
        seen = f"the model sees the last {context} of them, its block_size"
        warnings.warn(f"The prompt has {len(ids)} tokens; {seen}.", stacklevel=2)
    model, params, state = restore.load_run(folder, which)
    found = generate(
        _of_vocabulary(model, codec.size),
        params,
        np.tile(ids, (samples, 1)),
        steps,
        key=jax.random.key(seed),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop=None if stop is None else _one(codec, stop),
        block_size=context,
        state=state,
    )
    tokens, lengths = jax.device_get(found)
    if (tokens < 0).any():
        check.fail("sample", f"the model of {folder} should give numbers, but its logits are NaN.")
    texts = [codec.decode(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
    print(("\n" + "-" * 40 + "\n").join(texts))
    return texts


def _codec(folder: Path) -> Any:
    """What turns text into the tokens of a run, as it was when the run began."""
    from nnfunc.data.tokenizers import load_codec

    if not (folder / "codec.json").is_file():
        wanted = f"{folder} should hold a codec.json, as runs on text do, but has none"
        check.fail("sample", f"{wanted}: without it tokens are no text.")
    return load_codec(folder / "codec.json")


def _context(config: Config) -> int | None:
    """How many positions a model with a table of them has seen in training; None without a table."""
    blocks = [config.part(table)[2].get("block_size") for table in ("model", "data")]
    return None if blocks[0] is None else min(block for block in blocks if block is not None)


def _of_vocabulary(model: Model, size: int) -> Model:
    """The model without the logits that stand for no token."""

    def forward(params, x, ctx):
        y, out = model.forward(params, x, ctx)
        return y[..., :size], out

    return Model(model.init, forward=forward, init_state=model.init_state, name=model.name)


def _one(codec: Any, text: str) -> int:
    ids = codec.encode(text)
    if len(ids) != 1:
        check.fail("sample", f"stop should be one token, got {text!r}, which is {len(ids)}.")
    return int(ids[0])
