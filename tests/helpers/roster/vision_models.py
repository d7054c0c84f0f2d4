"""Rows of the roster: vision models."""

from helpers.roster.row import Row, sample

MODELS: dict[str, Row] = {
    "lenet": Row((3,), {"image_size": 12, "activation": "softplus"}, x=sample(2, 12, 12, 1), order=1),
    "cnn": Row(
        (3,),
        {"image_size": 4, "widths": [2, 3], "hidden": 4, "norm": "batch", "activation": "gelu"},
        {"dropout": (0.25, 0.5)},
        sample(2, 4, 4, 1),
        order=1,
    ),
    "resnet": Row(
        (3,),
        {"depths": [1, 2], "widths": [2, 3], "activation": "softplus"},
        {"momentum": (0.1, 0.5), "last_scale": (1.0, 0.0)},
        sample(2, 8, 8, 3),
        order=1,
        tolerance=1e-4,  # its batch norms see few values: float32 is 4e-5 from float64
    ),
    "convnext": Row(
        (3,),
        {"depths": [2], "widths": [4], "patch": 2, "kernel": 3},
        {"drop_path": (0.5, 0.25), "layer_scale": (1.0, 0.1), "eps": (1e-3, 1e-1)},
        sample(2, 5, 5, 3),
        order=1,
    ),
}
FUNCTIONS: dict[str, Row] = {}
NOT_FACTORIES: dict[str, str] = {
    "cifar_resnet": "resnet with the shape of a paper; three stages are slow: test_vision_models.py",
    "convnext_small": "convnext with published sizes, too large for every law: test_vision_models.py",
    "convnext_tiny": "convnext with published sizes, too large for every law: test_vision_models.py",
    "resnet18": "resnet with published sizes, too large for every law: test_vision_models.py",
    "resnet34": "resnet with published sizes, too large for every law: test_vision_models.py",
    "resnet50": "resnet with published sizes, too large for every law: test_vision_models.py",
}
