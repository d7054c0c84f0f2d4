"""The command `nnfunc train`: trains a config in a new run folder."""

from pathlib import Path

from nnfunc.commands.interrupts import explain_full_disk, interrupt_message
from nnfunc.commands.run_training import new_folder, run_training
from nnfunc.config import load
from nnfunc.config.dry_run import dry_run
from nnfunc.config.restore import save_run
from nnfunc.runs import run_folder

__all__ = ["train"]


def train(config_file: Path, settings: list[str], folder: Path | None = None) -> Path:
    """Train a config in a new run folder, and return the folder.

    config_file: a TOML file. settings: overrides such as "schedule.peak=1e-2". folder: a new or empty
    folder; by default the next of runs/NAME-1, runs/NAME-2.
    Raises: ConfigError; FileExistsError; Diverged; `Stopped` by a signal.
    """
    message = "stopped before the training began; nothing was written"
    with interrupt_message(message):
        config = load(config_file, settings)
        dry_run(config)  # reports mistakes of the config and the data before there is a folder
        with new_folder(config_file.stem, folder, message) as folder:
            with explain_full_disk(folder, "Train again."):
                report = save_run(config, folder)
                run_folder.write_environment(folder)
            if report is not None:
                start = config.tables["start"]
                print(f"start   {start['run']} ({start['checkpoint']})\n{report}")
            run_training(config, folder, resume=False)
    return folder
