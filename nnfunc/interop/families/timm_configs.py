"""The config.json of timm: the name of an architecture, which sets the sizes, and the arguments that differ from it."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from nnfunc import check
from nnfunc.interop.published_config import PublishedConfig

VIT = re.compile(r"(?:vit|deit)_(tiny|small|base|large)(_distilled)?_patch(\d+)_(\d+)")
VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
RESNETS = {
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
    "resnet152": ("bottleneck", [3, 8, 36, 3]),
}
CONVNEXTS = {
    "convnext_tiny": ([3, 3, 9, 3], 96),
    "convnext_small": ([3, 3, 27, 3], 96),
    "convnext_base": ([3, 3, 27, 3], 128),
    "convnext_large": ([3, 3, 27, 3], 192),
    "convnext_xlarge": ([3, 3, 27, 3], 256),
}
CHANGES = {
    "timm-vit": {"img_size": "image_size", "patch_size": "patch", "embed_dim": "dim", "depth": "layers"}
    | {"num_heads": "heads"},
    "timm-convnext": {"depths": "depths", "dims": "widths"},
    "torchvision-resnet": {"layers": "depths", "channels": "widths"},
}
"""What model_args may change, for each family of names, and the argument here."""
POOLS = {"timm-vit": "token", "timm-convnext": "avg", "torchvision-resnet": "avg"}
NEUTRAL = (
    "drop_rate",
    "drop_path_rate",
    "attn_drop_rate",
    "proj_drop_rate",
    "pos_drop_rate",
    "num_classes",
    "in_chans",
)


def timm_family(architecture: str) -> str:
    """The name of the family of an architecture, or the architecture where none has it."""
    name = architecture.split(".")[0]  # without the tag of the weights
    families = {
        "timm-vit": VIT.fullmatch(name),
        "torchvision-resnet": name in RESNETS,
        "timm-convnext": name in CONVNEXTS,
    }
    return next((family for family, fits in families.items() if fits), architecture)


def sizes_of(name: str) -> dict[str, Any]:
    """The arguments of an architecture."""
    if match := VIT.fullmatch(name):
        size, distilled, patch, image = match.groups()
        dim, layers, heads = VIT_SIZES[size]
        sizes = {"image_size": int(image), "patch": int(patch), "dim": dim, "layers": layers, "heads": heads}
        return sizes | {"pool": "distilled" if distilled else "class"}
    if name in RESNETS:
        block, depths = RESNETS[name]
        return {"block": block, "depths": depths}
    depths, width = CONVNEXTS[name]
    return {"depths": depths, "widths": [width, 2 * width, 4 * width, 8 * width]}


def read_timm(family: str) -> Callable[[PublishedConfig], Mapping[str, Any]]:
    """The `read` of a family of names that timm writes."""

    def read(config: PublishedConfig) -> dict[str, Any]:
        name = str(config.get("architecture", "")).split(".")[0]
        if timm_family(name) != family:
            check.fail(config.where, expected=f"architecture should be one of {family}", actual=repr(name))
        changes, names = dict(config.get("model_args") or {}), CHANGES[family]
        pool = changes.pop("global_pool", config.get("global_pool", POOLS[family]))
        if pool != POOLS[family]:
            check.fail(config.where, expected=f"global_pool should be {POOLS[family]!r}", actual=repr(pool))
        input_size = (config.get("pretrained_cfg") or {}).get("input_size", [3])
        arguments = {
            **sizes_of(name),
            "classes": changes.get("num_classes", config.get("num_classes", 1000)),
            "in_dim": changes.get("in_chans", input_size[0]),
        }
        ratio = changes.pop("mlp_ratio", 4) if family == "timm-vit" else 4
        for key, value in changes.items():
            if key not in names and key not in NEUTRAL:
                known = ", ".join((*names, *NEUTRAL))
                check.fail(f"{config.where}: model_args", expected=f"the names should be among {known}", actual=key)
            if key in names:
                arguments[names[key]] = tuple(value) if isinstance(value, list) else value
        return arguments | ({"hidden": int(ratio * arguments["dim"])} if family == "timm-vit" else {})

    return read
