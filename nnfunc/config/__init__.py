"""Configs: a TOML file and `key=value` overrides, turned into what `nf.train` runs.

The schema comes from the functions: the keys of `model = { name = "mlp", ... }` are the arguments of
`nf.mlp`, and their types are its annotations. One error reports all mistakes, a line for each.

    config = load("configs/digits_mlp.toml", ["schedule.peak=1e-2"])
    nf.train(config.build, config.hypers, config.data(), key=config.key(), **config.train)
"""

from nnfunc.config.build import Recipe
from nnfunc.config.config import Config
from nnfunc.config.config_errors import ConfigError
from nnfunc.config.load import load, resolve
from nnfunc.config.schema import factories

__all__ = ["Config", "ConfigError", "Recipe", "factories", "load", "resolve"]
