"""The command `nnfunc summary`: the layers of a config's model."""

from pathlib import Path

import jax

from nnfunc.config import load
from nnfunc.summary import summary


def print_summary(config_file: Path, settings: list[str]) -> None:
    """Print the layers of a model for one batch. config_file: a TOML file. settings: its overrides."""
    config = load(config_file, settings)
    data = config.data()
    batch = jax.eval_shape(lambda: data.batch(0))
    print(summary(config.build(config.hypers).model, batch[0]))
