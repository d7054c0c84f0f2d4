"""Rotary positions in a config.json, in their older and newer form, and the arguments of `nf.llama`."""

import math
from collections.abc import Mapping
from typing import Any

from nnfunc import check
from nnfunc.interop.published_config import PublishedConfig, Setting

ROPE_NAMES = {"linear": "linear", "dynamic": "dynamic", "yarn": "yarn", "llama3": "llama3", "longrope": "longrope"}
ROPE_NUMBERS = {
    "factor": "factor",
    "original_max_position_embeddings": "length",
    "low_freq_factor": "low",
    "high_freq_factor": "high",
    "beta_fast": "fast",
    "beta_slow": "slow",
    "attention_factor": "amplitude",
    "truncate": "truncate",
    "short_factor": "short",
    "long_factor": "long",
}
"""The numbers of a rope scaling in config.json, and those of `rotary_scaling`."""
NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor", "length"),
    "yarn": ("factor", "length"),
    "llama3": ("factor", "length", "low", "high"),
    "longrope": ("factor", "length", "short", "long"),
}
OPTIONAL = {"yarn": ("fast", "slow", "amplitude", "truncate"), "longrope": ("amplitude",)}


def read_rope(config: PublishedConfig) -> dict[str, Any]:
    """The rotary arguments; newer files have them in rope_parameters, older ones in rope_theta and rope_scaling."""
    table = {**config.table("rope_scaling"), **config.table("rope_parameters")}
    where = f"{config.where}: rope_parameters"
    name = str(table.get("rope_type", table.get("type", "default")))
    numbers_of = PublishedConfig({**config, **table}, where)
    base = numbers_of.read(Setting("rope_theta", "rotary_base", float, 10000.0))
    fraction = numbers_of.read(Setting("partial_rotary_factor", "rotary_dim", float, 1.0))
    arguments: dict[str, Any] = {"rotary_base": float(base)}
    if fraction != 1:
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        arguments["rotary_dim"] = int(head_dim * fraction)
    if name in ("default", "mrope"):
        return arguments
    name = {"su": "longrope"}.get(name, name)
    check.choice(where, ROPE_NAMES, rope_type=name)
    numbers = {ours: table[there] for there, ours in ROPE_NUMBERS.items() if table.get(there) is not None}
    longest = config.get("max_position_embeddings")
    first = config.get("original_max_position_embeddings")
    numbers.setdefault("length", longest if name == "dynamic" or not first else first)
    if name == "dynamic":
        numbers["length"] = longest
    if "factor" not in numbers and longest and numbers["length"]:
        numbers["factor"] = longest / numbers["length"]
    if name == "yarn" and "amplitude" not in numbers and table.get("mscale") and table.get("mscale_all_dim"):
        ratio = [0.1 * table[m] * math.log(max(numbers["factor"], 1)) + 1 for m in ("mscale", "mscale_all_dim")]
        numbers["amplitude"] = ratio[0] / ratio[1]
    for needed in NEEDED[name]:
        if numbers.get(needed) is None:
            there = next(key for key, ours in ROPE_NUMBERS.items() if ours == needed)
            check.fail(where, f"the rope_type {name!r} needs {there}, which it does not have.")
    names = (*NEEDED[name], *OPTIONAL.get(name, ()))
    arguments["rotary_scaling"] = {"name": name, **{n: numbers[n] for n in names if n in numbers}}
    return arguments


def write_rope(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the rotary arguments, in the newer and in the older form."""
    scaling, base = arguments["rotary_scaling"], float(arguments["rotary_base"])
    head_dim = arguments["head_dim"] or arguments["dim"] // arguments["heads"]
    table: dict[str, Any] = {"rope_type": "default"}
    config: dict[str, Any] = {}
    if scaling is not None:
        inverse = {ours: there for there, ours in ROPE_NUMBERS.items()}
        numbers = {inverse[name]: value for name, value in scaling.items() if name != "name" and value is not None}
        table = {"rope_type": scaling["name"], **numbers}
        longest = scaling.get("length", 2048)
        config["max_position_embeddings"] = (
            longest if scaling["name"] == "dynamic" else int(longest * scaling["factor"])
        )
        if scaling["name"] == "longrope":
            config["original_max_position_embeddings"] = longest
    table["rope_theta"] = base
    if arguments["rotary_dim"] not in (None, head_dim):
        config["partial_rotary_factor"] = table["partial_rotary_factor"] = arguments["rotary_dim"] / head_dim
    return {"rope_theta": base, "rope_parameters": table, **config}
