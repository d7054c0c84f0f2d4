"""How a published model reads its inputs: the settings of images, and the names of its classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnfunc import check, documents

PROCESSOR = "preprocessor_config.json"
METHODS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""The interpolations of a preprocessor_config.json, which are numbers of Pillow."""
STRETCHED_FROM = 384
"""The size from which the processor of ConvNeXt and ResNet scales without cropping."""


def class_names(config: Mapping[str, Any], classes: int) -> list[str]:
    """The names of the classes, all different, in the order of the logits. config: the content of config.json."""
    labels = {str(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    names = [labels.get(str(i), f"LABEL_{i}") for i in range(classes)]
    if names == [f"LABEL_{i}" for i in range(classes)] and len(config.get("label_names") or ()) == classes:
        names = list(map(str, config["label_names"]))  # timm's
    return [name if names.index(name) == i else f"{name} ({i})" for i, name in enumerate(names)]


def image_settings(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of `nf.data.images` with which a published model reads images.

    config: the content of its config.json.
    folder: with preprocessor_config.json, which timm's models do not need.
    Raises: FileNotFoundError without that file; ValueError for settings that no argument stands for.
    """
    if "pretrained_cfg" in config:
        return _timm_settings(config["pretrained_cfg"], str(folder / "config.json"))
    file = folder / PROCESSOR
    if not file.is_file():
        hint = "Save it: AutoImageProcessor.from_pretrained(name).save_pretrained(folder)."
        check.fail("import", f"{folder} has no {PROCESSOR}.", hint=hint, exc_type=FileNotFoundError)
    table = documents.read_json(file, dict)
    scaled, cropped = table.get("size"), table.get("crop_size")
    if isinstance(scaled, int):
        scaled = {"height": scaled, "width": scaled}
    if isinstance(cropped, int):
        cropped = {"height": cropped, "width": cropped}
    if not isinstance(scaled, dict) or not table.get("do_resize", True):
        check.fail(str(file), expected="size should be a table, and do_resize true", actual=repr(scaled))
    factor = 1 / table.get("rescale_factor", 1 / 255) / 255  # of the levels, 1 in all known files
    if not table.get("do_rescale", True) or abs(factor - 1) > 1e-6 or table.get("offset"):
        check.fail(str(file), expected="rescale_factor should be 1 / 255", actual=repr(table.get("rescale_factor")))
    if table.get("resample", 2) not in METHODS:
        expected = f"resample should be one of {', '.join(map(str, METHODS))}"
        check.fail(str(file), expected=expected, actual=repr(table["resample"]))
    settings = {"interpolation": METHODS[table.get("resample", 2)], **_fit(file, table, scaled, cropped)}
    normal = table.get("do_normalize", True)
    mean, std = (table.get(name) if normal else None for name in ("image_mean", "image_std"))
    return settings | {"mean": list(mean or [0.0] * 3), "std": list(std or [1.0] * 3)}


def _fit(file: Path, table: Mapping[str, Any], scaled: Mapping[str, Any], cropped: Any) -> dict[str, Any]:
    """size, crop and stretch."""
    crops = bool(table.get("do_center_crop")) and isinstance(cropped, dict)
    if "shortest_edge" in scaled:
        side = scaled["shortest_edge"]
        if "crop_pct" in table:  # of ConvNeXt and ResNet
            whole = side >= STRETCHED_FROM
            return {"size": [side, side], **({"stretch": True} if whole else {"crop": float(table["crop_pct"] or 1)})}
        if crops:
            return {"size": [cropped["height"], cropped["width"]], "crop": cropped["height"] / side}
    elif {"height", "width"} <= {*scaled}:
        if not crops:
            return {"size": [scaled["height"], scaled["width"]], "stretch": True}
        size = [cropped["height"], cropped["width"]]
        return {"size": size, "stretch": True, "crop": cropped["height"] / scaled["height"]}
    check.fail(
        str(file), expected="size should have height and width, or shortest_edge and a crop", actual=dict(scaled)
    )


def _timm_settings(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    _, height, width = table.get("input_size", (3, 224, 224))
    mode = table.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        check.fail(where, expected="crop_mode should be 'center' or 'squash'", actual=repr(mode))
    return {
        "size": [height, width],
        **({"stretch": True} if mode == "squash" else {}),
        "crop": float(table.get("crop_pct") or 0.875),
        "interpolation": table.get("interpolation", "bilinear"),
        "mean": list(table.get("mean", (0.485, 0.456, 0.406))),
        "std": list(table.get("std", (0.229, 0.224, 0.225))),
    }
