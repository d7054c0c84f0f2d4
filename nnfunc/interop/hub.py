"""Folders of the Hugging Face hub: the only source of weights that uses the network."""

import re
from pathlib import Path

from nnfunc import check

HUB = "hf://"
FILES = ["*.json", "*.safetensors", "*.model"]
"""No Python and no pickled files are fetched."""


def fetch_snapshot(source: str, revision: str | None) -> tuple[Path, str]:
    """(the folder of a model in the hub's cache, its commit).

    source: "hf://owner/name".
    revision: of `pretrained`.

    Raises: ValueError when source is not such a name; ModuleNotFoundError without the package huggingface_hub; OSError
    when the hub has no such model, or cannot be read. With HF_HUB_OFFLINE=1 the cache alone is read.
    """
    name = source.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        check.fail("pretrained", expected=f"source should be {HUB}owner/name", actual=repr(source))
    hub = check.package("pretrained", "huggingface_hub", "nnfunc[hub]")
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    try:
        commit = revision if offline else hub.HfApi().model_info(name, revision=revision).sha
        folder = Path(hub.snapshot_download(name, revision=commit, allow_patterns=FILES, local_files_only=offline))
    except Exception as error:  # of the package, and of the one with which it reads the network
        reason = (str(error).strip() or "no reason is known").splitlines()[0]
        hint = "Check the name, the network and HF_TOKEN, or pass a folder that was fetched before."
        problem = f"{type(error).__name__}: {reason.rstrip('.')}"
        check.fail(source, f"the model cannot be fetched ({problem}).", hint=hint, exc_type=OSError)
    return folder, folder.name  # the cache has a folder for each commit
