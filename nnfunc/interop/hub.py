"""Folders of the Hugging Face hub: the only source of weights that uses the network."""

import re
from pathlib import Path

from nnfunc import check

__all__ = ["HUB", "fetch_snapshot"]

HUB = "hf://"
FILES = ["*.json", "*.safetensors", "*.model"]
"""No Python and no pickled files are fetched."""


def fetch_snapshot(source: str, revision: str | None) -> tuple[Path, str]:
    """(the folder of a model in the hub's cache, its commit). source: "hf://owner/name". revision: of `pretrained`.

    Raises: ValueError when source is not such a name; ModuleNotFoundError without the package huggingface_hub.
    """
    name = source.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        check.fail("pretrained", expected=f"source should be {HUB}owner/name", actual=repr(source))
    hub = check.package("pretrained", "huggingface_hub", "nnfunc[hub]")
    commit = hub.HfApi().model_info(name, revision=revision).sha
    folder = hub.snapshot_download(name, revision=commit, allow_patterns=FILES)
    return Path(folder), commit
