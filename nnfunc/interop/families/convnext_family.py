"""ConvNeXt: the names of torchvision and timm, which have no config, and those of transformers."""

from collections.abc import Mapping
from typing import Any

from nnfunc.interop.families.timm_configs import read_timm
from nnfunc.interop.name_table import CONV, LINEAR, NORM, SAME, Change, Row
from nnfunc.interop.published_config import Family, PublishedConfig, Setting, read_head, without, write_head
from nnfunc.models.convnext import convnext

SCALE = {"": ("scale", SAME)}
IMAGE_SCALE = {"": ("scale", Change(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1)))}


STAGE, BLOCK = "stage_{s+1}", "stage_{s+1}/blocks/body"
TRANSFORMERS_ROWS: list[Row] = [
    ("convnext.embeddings.patch_embeddings", "stem/patches", CONV),
    ("convnext.embeddings.layernorm", "stem/norm", NORM),
    ("convnext.encoder.stages.{s}.downsampling_layer.0", f"{STAGE}/down/norm", NORM),
    ("convnext.encoder.stages.{s}.downsampling_layer.1", f"{STAGE}/down/conv", CONV),
    ("convnext.encoder.stages.{s}.layers.{i}.dwconv", f"{BLOCK}/spatial", CONV),
    ("convnext.encoder.stages.{s}.layers.{i}.layernorm", f"{BLOCK}/norm", NORM),
    ("convnext.encoder.stages.{s}.layers.{i}.pwconv1", f"{BLOCK}/up", LINEAR),
    ("convnext.encoder.stages.{s}.layers.{i}.pwconv2", f"{BLOCK}/down", LINEAR),
    ("convnext.encoder.stages.{s}.layers.{i}.layer_scale_parameter", f"{BLOCK}/scale", SCALE),
    ("convnext.layernorm", "norm", NORM),
    ("classifier", "head", LINEAR),
]
TORCHVISION_ROWS: list[Row] = [
    ("features.0.0", "stem/patches", CONV),
    ("features.0.1", "stem/norm", NORM),
    ("features.{2s}.0", f"{STAGE}/down/norm", NORM),
    ("features.{2s}.1", f"{STAGE}/down/conv", CONV),
    ("features.{2s+1}.{i}.block.0", f"{BLOCK}/spatial", CONV),
    ("features.{2s+1}.{i}.block.2", f"{BLOCK}/norm", NORM),
    ("features.{2s+1}.{i}.block.3", f"{BLOCK}/up", LINEAR),
    ("features.{2s+1}.{i}.block.5", f"{BLOCK}/down", LINEAR),
    ("features.{2s+1}.{i}.layer_scale", f"{BLOCK}/scale", IMAGE_SCALE),
    ("classifier.0", "norm", NORM),
    ("classifier.2", "head", LINEAR),
]
TIMM_ROWS: list[Row] = [
    ("stem.0", "stem/patches", CONV),
    ("stem.1", "stem/norm", NORM),
    ("stages.{s}.downsample.0", f"{STAGE}/down/norm", NORM),
    ("stages.{s}.downsample.1", f"{STAGE}/down/conv", CONV),
    ("stages.{s}.blocks.{i}.conv_dw", f"{BLOCK}/spatial", CONV),
    ("stages.{s}.blocks.{i}.norm", f"{BLOCK}/norm", NORM),
    ("stages.{s}.blocks.{i}.mlp.fc1", f"{BLOCK}/up", LINEAR),
    ("stages.{s}.blocks.{i}.mlp.fc2", f"{BLOCK}/down", LINEAR),
    ("stages.{s}.blocks.{i}.gamma", f"{BLOCK}/scale", SCALE),
    ("head.norm", "norm", NORM),
    ("head.fc", "head", LINEAR),
]


def read_convnext(config: PublishedConfig) -> dict[str, Any]:
    sizes = {"depths": config.get("depths", [3, 3, 9, 3]), "widths": config.get("hidden_sizes", [96, 192, 384, 768])}
    return read_head(config) | sizes


def write_convnext(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, kernel=7)
    depths = list(arguments["depths"])
    names = ["stem", *(f"stage{i + 1}" for i in range(len(depths)))]
    sizes = {"depths": depths, "hidden_sizes": list(arguments["widths"]), "num_stages": len(depths)}
    return write_head(arguments) | sizes | {"stage_names": names, "out_features": names[-1:]}


CONVNEXT = Family(
    name="convnext",
    factory=convnext,
    settings=[
        Setting("num_channels", "in_dim", int, 3),
        Setting("patch_size", "patch", int, 4),
        Setting("layer_norm_eps", "eps", float, 1e-12),
    ],
    rows=TRANSFORMERS_ROWS,
    architectures={"ConvNextModel": {"classes": None}, "ConvNextForImageClassification": {}},
    fixed={"hidden_act": "gelu"},
    read=read_convnext,
    write=write_convnext,
    prefix="convnext.",
)
TORCHVISION_CONVNEXT = Family("torchvision-convnext", convnext, [], TORCHVISION_ROWS, {})
TIMM_CONVNEXT = Family("timm-convnext", convnext, [], TIMM_ROWS, {}, read=read_timm("timm-convnext"))
