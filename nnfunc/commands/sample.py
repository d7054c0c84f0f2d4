"""The command `nnfunc sample`: text from a trained language model."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Model, Params, PyTree
from nnfunc.config import Config, restore
from nnfunc.data.tokenizers import Tokenizer, load_codec
from nnfunc.generation import generate
from nnfunc.runs import run_folder


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
    checkpoint: str = "best",
) -> list[str]:
    """Print and return texts that begin with the prompt and continue as the model predicts.

    folder: of a run on text.
    prompt: at least one token; "-" reads it from standard input. Before it a model of `nnfunc import` reads what
        its tokenizer puts before a text, such as <s>, which is not printed.
    steps: tokens to generate, at least 1.
    temperature, top_k, top_p: see `nf.generate`.
    seed: of the random draws, from 0 to 2**32 - 1.
    samples: the number of texts, at least 1.
    stop: the text of one token, which ends a sample.
    checkpoint: "best" or "last".
    Raises: ValueError when the run is not one on text, or its logits are NaN.
    """
    check.size("sample", steps=steps, samples=samples)
    check.size("sample", 0, 2**32 - 1, seed=seed)
    folder = run_folder.check_folder(folder)
    config, codec = restore.read_config(folder), _load_codec(folder)
    prompt = sys.stdin.read() if prompt == "-" else prompt
    model, params, state = restore.load_run(folder, checkpoint)
    imported = isinstance(codec, Tokenizer) and (folder / run_folder.IMPORTED).exists()
    start = codec.start() if imported else np.empty(0, np.int32)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "stop": stop, "start": start}
    texts = generate_texts(config, codec, model, params, state, prompt, steps=steps, samples=samples, **options)
    print(("\n" + "-" * 40 + "\n").join(texts))
    return texts


def generate_texts(
    config: Config,
    codec: Any,
    model: Model,
    params: Params,
    state: PyTree,
    prompt: str,
    *,
    steps: int,
    samples: int,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: str | None = None,
    start: Sequence[int] | np.ndarray = (),
) -> list[str]:
    """Texts that begin with the prompt.

    config, codec: of the run.
    model, params, state: trained.
    start: tokens before the prompt, which are not in the texts. The others are those of `sample`.
    """
    ids = np.concatenate([np.asarray(start, np.int32), codec.encode(prompt)])
    if len(ids) == 0:
        check.fail("sample", expected="prompt should have at least one token", actual="none")
    block_size = _block_size(config)
    if block_size is not None and len(ids) > block_size:
        limit = f"the model reads only the last {block_size} of them, its block_size"
        warnings.warn(f"The prompt has {len(ids)} tokens; {limit}.", stacklevel=3)
    sequences = generate(
        _drop_unused_logits(model, codec.size),
        params,
        np.tile(ids, (samples, 1)),
        steps,
        key=jax.random.key(seed),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop=None if stop is None else _stop_token(codec, stop),
        block_size=block_size,
        state=state,
    )
    tokens, lengths = jax.device_get(sequences)
    if (tokens < 0).any():
        check.fail("sample", "the logits of the model are NaN.")
    return [codec.decode(row[len(start) : length]) for row, length in zip(tokens, lengths, strict=True)]


def _load_codec(folder: Path) -> Any:
    """The tokenizer of a run, as it was when the run began."""
    if not (folder / "codec.json").is_file():
        problem = f"{folder} has no codec.json, the tokenizer that every run on text has."
        check.fail("sample", problem, hint="Choose a run that was trained on text.")
    return load_codec(folder / "codec.json")


def _block_size(config: Config) -> int | None:
    """How many positions a model with learned positions has trained; None for other models."""
    model_size, data_size = (config.part(table)[2].get("block_size") for table in ("model", "data"))
    return model_size if model_size is None or data_size is None else min(model_size, data_size)


def _drop_unused_logits(model: Model, vocab_size: int) -> Model:
    """The model without the logits that stand for no token."""

    def forward(params, x, ctx):
        y, out = model.forward(params, x, ctx)
        return y[..., :vocab_size], out

    return model.replace(forward=forward)


def _stop_token(codec: Any, text: str) -> int:
    ids = codec.encode(text)
    if len(ids) != 1:
        check.fail("sample", expected="stop should be one token", actual=f"{text!r}, which is {len(ids)} tokens")
    return int(ids[0])
