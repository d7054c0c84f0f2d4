"""ResNet: the names of torchvision and timm, which have no config, and those of transformers."""

from collections.abc import Mapping
from typing import Any

from nnfunc import check
from nnfunc.interop.families.timm_configs import read_timm
from nnfunc.interop.name_table import BATCH_NORM, CONV, LINEAR, Row
from nnfunc.interop.published_config import Family, PublishedConfig, Setting, read_head, without, write_head
from nnfunc.models.resnet import resnet

EXPANSION = {"basic": 1, "bottleneck": 4}


def block_paths(arguments: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """(stage, index of the block in the published names, path here) of the blocks of each stage.

    The first block of a stage stands alone where it changes the shape; the others are stacked.
    """
    paths, before = [], arguments["widths"][0]
    for stage, (width, depth) in enumerate(zip(arguments["widths"], arguments["depths"], strict=True), 1):
        after = width * EXPANSION[arguments["block"]]
        alone = stage > 1 or before != after
        paths += [(stage, "0", f"stage_{stage}/first")] * alone
        paths += [(stage, "{i+1}" if alone else "{i}", f"stage_{stage}/rest")] * (depth > alone)
        before = after
    return paths


def torchvision_rows(arguments: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [("conv1", "stem/conv", CONV), ("bn1", "stem/norm", BATCH_NORM), ("fc", "head", LINEAR)]
    for stage, index, path in block_paths(arguments):
        block = f"layer{stage}.{index}"
        for i in range(1, 4 if arguments["block"] == "bottleneck" else 3):
            rows += [(f"{block}.conv{i}", f"{path}/body/conv_{i}", CONV)]
            rows += [(f"{block}.bn{i}", f"{path}/body/norm_{i}", BATCH_NORM)]
        rows += [(f"{block}.downsample.0", f"{path}/shortcut/conv", CONV)]
        rows += [(f"{block}.downsample.1", f"{path}/shortcut/norm", BATCH_NORM)]
    return rows


def transformers_rows(arguments: Mapping[str, Any]) -> list[Row]:
    stem = "resnet.embedder.embedder"
    rows: list[Row] = [
        (f"{stem}.convolution", "stem/conv", CONV),
        (f"{stem}.normalization", "stem/norm", BATCH_NORM),
        ("classifier.1", "head", LINEAR),
    ]
    for stage, index, path in block_paths(arguments):
        block = f"resnet.encoder.stages.{stage - 1}.layers.{index}"
        for i in range(1, 4 if arguments["block"] == "bottleneck" else 3):
            rows += [(f"{block}.layer.{i - 1}.convolution", f"{path}/body/conv_{i}", CONV)]
            rows += [(f"{block}.layer.{i - 1}.normalization", f"{path}/body/norm_{i}", BATCH_NORM)]
        rows += [(f"{block}.shortcut.convolution", f"{path}/shortcut/conv", CONV)]
        rows += [(f"{block}.shortcut.normalization", f"{path}/shortcut/norm", BATCH_NORM)]
    return rows


TORCHVISION_RESNET = Family(
    name="torchvision-resnet",
    factory=resnet,
    settings=[],
    rows=torchvision_rows,
    architectures={},
    read=read_timm("torchvision-resnet"),
    ignored=("*.num_batches_tracked",),
)
BLOCK = Setting("layer_type", "block", {"basic": "basic", "bottleneck": "bottleneck"}, "bottleneck")


def read_resnet(config: PublishedConfig) -> dict[str, Any]:
    expansion = EXPANSION[config.read(BLOCK)]
    sizes = config.get("hidden_sizes", [256, 512, 1024, 2048])
    widths = [size // expansion for size in sizes]
    if config.get("embedding_size", 64) != widths[0]:
        expected = f"embedding_size should be {widths[0]}, the width of the first stage"
        check.fail(config.where, expected=expected, actual=config["embedding_size"])
    return read_head(config) | {"widths": widths, "depths": config.get("depths", [3, 4, 6, 3])}


def write_resnet(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, stem="imagenet", shortcut="projection", activation="relu", norm=None)
    widths, expansion = arguments["widths"], EXPANSION[arguments["block"]]
    depths = list(arguments["depths"])
    stages = ["stem", *(f"stage{i + 1}" for i in range(len(depths)))]
    sizes = {"hidden_sizes": [width * expansion for width in widths], "embedding_size": widths[0], "depths": depths}
    return write_head(arguments) | sizes | {"stage_names": stages, "out_features": stages[-1:]}


RESNET = Family(
    name="resnet",
    factory=resnet,
    settings=[Setting("num_channels", "in_dim", int, 3), BLOCK],
    rows=transformers_rows,
    architectures={"ResNetModel": {"classes": None}, "ResNetForImageClassification": {}},
    fixed={"hidden_act": "relu", "downsample_in_bottleneck": False, "downsample_in_first_stage": False},
    read=read_resnet,
    write=write_resnet,
    prefix="resnet.",
    ignored=("*.num_batches_tracked",),
)
