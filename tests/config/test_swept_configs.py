"""Every number of every shipped config may be swept, all of them together, in one program."""

import os
from pathlib import Path

import pytest
from helpers.project import ROOT

from nnfunc.config import ConfigError, load
from nnfunc.sweeps.batch import device_data
from nnfunc.sweeps.grouping import group_trials

FOLDER = ROOT / "configs"
CONFIGS = sorted(set(FOLDER.glob("*.toml")) - set(FOLDER.glob("compare_*")) - set(FOLDER.glob("*_gpu*")))


def another(value):
    """A number that is as good, or nearly."""
    if value == 0:
        return 1e-3
    return 5.0 if abs(value) > 1e30 else 0.9 * value


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_number_is_an_argument_of_the_program(file, shipped):
    config = load(shipped / file.name)
    try:
        data = device_data(config.data())
    except ConfigError as error:  # MNIST and the text are not everywhere
        if (
            not file.stem.startswith(("mnist", "shakespeare"))
            or Path(os.environ.get("NNFUNC_DATA", ""), "mnist").is_dir()
        ):
            raise
        pytest.skip(str(error))
    assert len(config.hypers) >= 8
    others = {name: another(value) for name, value in config.hypers.items()}
    found = group_trials(config.build, [config.hypers, others], config.key(), data.for_training())
    assert found.static == {}
    assert found.refused == {}
    assert set(found.traced) == set(config.hypers)
    assert len(found.groups) == 1
