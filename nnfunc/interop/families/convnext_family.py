"""ConvNeXt: the names of torchvision and timm, which have no config, and those of transformers."""

from collections.abc import Mapping
from typing import Any

from nnfunc.interop.name_table import CONV, LINEAR, NORM, SAME, Change, Row
from nnfunc.interop.published_config import Family, PublishedConfig, Setting, read_classes, without, write_classes
from nnfunc.models.convnext import convnext

__all__ = ["CONVNEXT", "TIMM_CONVNEXT", "TORCHVISION_CONVNEXT"]

SCALE = {"": ("scale", SAME)}
IMAGE_SCALE = {"": ("scale", Change(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1)))}


def stages(arguments: Mapping[str, Any]) -> range:
    return range(len(arguments["depths"]))


def transformers_rows(arguments: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [
        ("convnext.embeddings.patch_embeddings", "stem/patches", CONV),
        ("convnext.embeddings.layernorm", "stem/norm", NORM),
        ("convnext.layernorm", "norm", NORM),
        ("classifier", "head", LINEAR),
    ]
    for i in stages(arguments):
        stage, body = f"convnext.encoder.stages.{i}", f"stage_{i + 1}/blocks/body"
        rows += [
            (f"{stage}.downsampling_layer.0", f"stage_{i + 1}/down/norm", NORM),
            (f"{stage}.downsampling_layer.1", f"stage_{i + 1}/down/conv", CONV),
            (f"{stage}.layers.{{i}}.dwconv", f"{body}/spatial", CONV),
            (f"{stage}.layers.{{i}}.layernorm", f"{body}/norm", NORM),
            (f"{stage}.layers.{{i}}.pwconv1", f"{body}/up", LINEAR),
            (f"{stage}.layers.{{i}}.pwconv2", f"{body}/down", LINEAR),
            (f"{stage}.layers.{{i}}.layer_scale_parameter", f"{body}/scale", SCALE),
        ]
    return rows


def torchvision_rows(arguments: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [
        ("features.0.0", "stem/patches", CONV),
        ("features.0.1", "stem/norm", NORM),
        ("classifier.0", "norm", NORM),
        ("classifier.2", "head", LINEAR),
    ]
    for i in stages(arguments):
        block, body = f"features.{2 * i + 1}.{{i}}", f"stage_{i + 1}/blocks/body"
        rows += [
            (f"features.{2 * i}.0", f"stage_{i + 1}/down/norm", NORM),
            (f"features.{2 * i}.1", f"stage_{i + 1}/down/conv", CONV),
            (f"{block}.block.0", f"{body}/spatial", CONV),
            (f"{block}.block.2", f"{body}/norm", NORM),
            (f"{block}.block.3", f"{body}/up", LINEAR),
            (f"{block}.block.5", f"{body}/down", LINEAR),
            (f"{block}.layer_scale", f"{body}/scale", IMAGE_SCALE),
        ]
    return rows


def timm_rows(arguments: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [
        ("stem.0", "stem/patches", CONV),
        ("stem.1", "stem/norm", NORM),
        ("head.norm", "norm", NORM),
        ("head.fc", "head", LINEAR),
    ]
    for i in stages(arguments):
        stage, body = f"stages.{i}", f"stage_{i + 1}/blocks/body"
        rows += [
            (f"{stage}.downsample.0", f"stage_{i + 1}/down/norm", NORM),
            (f"{stage}.downsample.1", f"stage_{i + 1}/down/conv", CONV),
            (f"{stage}.blocks.{{i}}.conv_dw", f"{body}/spatial", CONV),
            (f"{stage}.blocks.{{i}}.norm", f"{body}/norm", NORM),
            (f"{stage}.blocks.{{i}}.mlp.fc1", f"{body}/up", LINEAR),
            (f"{stage}.blocks.{{i}}.mlp.fc2", f"{body}/down", LINEAR),
            (f"{stage}.blocks.{{i}}.gamma", f"{body}/scale", SCALE),
        ]
    return rows


def read_convnext(config: PublishedConfig) -> dict[str, Any]:
    sizes = {"depths": config.get("depths", [3, 3, 9, 3]), "widths": config.get("hidden_sizes", [96, 192, 384, 768])}
    return read_classes(config) | sizes


def write_convnext(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, kernel=7)
    depths = list(arguments["depths"])
    names = ["stem", *(f"stage{i + 1}" for i in range(len(depths)))]
    sizes = {"depths": depths, "hidden_sizes": list(arguments["widths"]), "num_stages": len(depths)}
    return write_classes(arguments) | sizes | {"stage_names": names, "out_features": names[-1:]}


CONVNEXT = Family(
    name="convnext",
    factory=convnext,
    settings=[
        Setting("num_channels", "in_dim", int, 3),
        Setting("patch_size", "patch", int, 4),
        Setting("layer_norm_eps", "eps", float, 1e-12),
    ],
    rows=transformers_rows,
    architectures={"ConvNextForImageClassification": {}},
    fixed={"hidden_act": "gelu"},
    read=read_convnext,
    write=write_convnext,
    prefix="convnext.",
)
TORCHVISION_CONVNEXT = Family("torchvision-convnext", convnext, [], torchvision_rows, {})
TIMM_CONVNEXT = Family("timm-convnext", convnext, [], timm_rows, {})
