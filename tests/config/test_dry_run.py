"""What does not fit together in a config is told before its run has a folder."""

import numpy as np
import pytest

from nnfunc.commands import train
from nnfunc.config import ConfigError, resolve
from nnfunc.config.dry_run import dry_run
from nnfunc.data.sources.image_layout import build_image_splits
from nnfunc.runs import run_folder

SMALL = {
    "data": {"name": "digits", "batch_size": 32},
    "objective": {"name": "classification"},
    "train": {"steps": 30},
    "model": {"name": "mlp", "widths": [64, 4, 10]},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
}
FALLING = {"schedule": "linear", "start": 0.2, "final": 0.1}
SIZES = {"image_size": 8, "patch": 4, "in_dim": 1, "dim": 8, "layers": 2, "heads": 2}
VIT = {"model": {"name": "vit", "classes": 10} | SIZES, "data": SMALL["data"] | {"layout": "image"}}
LATE = [
    ({"task": {"remat": True}}, "task.remat: remat_repeats: the model should have a repeat inside"),
    ({"task": {"remat": True, "precision": "bfloat16"}}, "task.remat: remat_repeats: the model"),
    (
        {"task": {"remat": ["blocks/*/atend"]}} | VIT,
        "task.remat: remat_repeats: the pattern 'blocks/*/atend' should match at least one path, got none; did you",
    ),
    (
        {"task": {"remat": ["blocks/1/attend"]}} | VIT,
        "task.remat: blocks: remat: a pattern should be of all layers of a repeat",
    ),
    (
        {"plateau": {"metric": "acuracy"}},
        "plateau.metric: reduce_on_plateau: metric should be a validation metric, got 'acuracy'; did you mean 'accuracy'?",
    ),
    ({"groups": {"freeze": ["hed/*"]}}, "groups: freeze: the pattern 'hed/*' should match at least one path"),
    ({"groups": {"rates": {"hed/*": 2.0}}}, "groups: rates: the pattern 'hed/*' should match at least one path"),
    (
        {"optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": {"hed": 0.1}}},
        "optimizer: sgd: weight_decay: the pattern 'hed' should",
    ),
    (
        {"augment": {"mixup": {"alpha": 0.2, "classes": 3}}},
        "augment.mixup.classes: should be 10, the number of classes of the data, got 3. Remove it.",
    ),
    (
        {"augment": {"shift": {"pixels": 1, "shape": [4, 4, 1]}}},
        "augment.shift: shift: x should hold images of shape (4, 4, 1)",
    ),
    ({"model": {"name": "mlp", "widths": [64, 4, 5]}}, "objective: classification: labels should be in [0, 5)"),
    ({"model": {"name": "mlp", "widths": [63, 4, 10]}}, "model: hidden_0/linear: the last axis of x should be 63"),
    ({"train": {"steps": 9, "best": "max acuracy"}}, "train: best should name a validation metric"),
    (
        {"model": SMALL["model"] | {"gain": FALLING}},
        "model.gain: is used only at initialization, so a schedule has no effect. Give a number.",
    ),
]


@pytest.mark.parametrize(("change", "message"), LATE, ids=[w[1][:30] for w in LATE])
def test_what_does_not_fit_is_told_of_its_table(change, message):
    with pytest.raises(ConfigError) as caught:
        dry_run(resolve(SMALL | change, where="a.toml"))
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"a.toml: {message}")


def test_what_does_not_fit_is_told_before_there_is_a_folder(tmp_path, monkeypatch):
    def create(*_):
        raise AssertionError("a folder was made")

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "of nobody")
    monkeypatch.setattr(run_folder, "create_folder", create)
    resolve(SMALL | {"plateau": {"metric": "acuracy"}}).dump(tmp_path / "late.toml")
    with pytest.raises(ConfigError, match=r"late\.toml: plateau\.metric: "):
        train.train(tmp_path / "late.toml", [], tmp_path / "run")


def test_a_defect_is_not_told_as_a_mistake(monkeypatch):
    def broken(*_, **__):
        raise ValueError("the words of a defect")

    made = resolve(SMALL)
    monkeypatch.setattr("nnfunc.config.dry_run.inspect_task", broken)
    with pytest.raises(ValueError, match=r"^the words of a defect$") as caught:
        dry_run(made)
    assert not isinstance(caught.value, ConfigError)


def test_the_shape_of_flat_images_is_the_datas():
    asked = {"shift": {"pixels": 1}, "flip": {}, "cutout": {"size": 0.2}, "noise": {"std": 0.1}}
    made = resolve(SMALL | {"augment": asked})
    dry_run(made)
    assert made.tables["augment"]["shift"] == {"pixels": 1}
    shapes = [made.part(f"augment.{name}")[2].get("shape") for name in asked]
    assert shapes == [[8, 8, 1], [8, 8, 1], [8, 8, 1], None]
    told = resolve(SMALL | {"augment": {"flip": {"shape": [4, 16, 1]}}})
    assert told.part("augment.flip")[2]["shape"] == [4, 16, 1]
    image = SMALL["data"] | {"layout": "image"}
    assert "shape" not in resolve(SMALL | {"data": image, "augment": asked}).part("augment.flip")[2]

    part = (np.zeros((4, 6, 5, 3), np.uint8), np.arange(4) % 2)
    looks = {"names": ("a", "b"), "mean": (0.5,), "std": (0.5,)}
    for layout, shuffled, wanted in (
        ("image", False, None),
        ("flat", False, (6, 5, 3)),
        ("rows", False, (6, 5, 3)),
        ("flat", True, None),
    ):
        splits = build_image_splits(
            "here", {"train": part}, layout=layout, shuffle_pixels=shuffled, fractions={}, **looks
        )
        assert splits.data(2).image_shape == splits.stream(2).image_shape == wanted


def test_every_schedule_that_does_something_is_let_through():
    """In the model, the objective, the optimizer and its wrappers, on a plateau and in an average."""
    moving = {
        "model": SMALL["model"] | {"dropout": FALLING},
        "objective": {"name": "classification", "label_smoothing": FALLING},
        "optimizer": {"name": "sgd", "learning_rate": FALLING, "weight_decay": {"head/*": FALLING}},
        "augment": {"noise": {"std": FALLING}, "mixup": {"alpha": FALLING}},
        "groups": {"rates": {"head/*": FALLING}},
        "plateau": {"factor": FALLING},
        "average": {"name": "ema", "decay": FALLING},
        "task": {"sharpness": FALLING},
        "clip_value": {"limit": FALLING},
        "max_norm": {"limit": FALLING},
    }
    dry_run(resolve(SMALL | moving))
