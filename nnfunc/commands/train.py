"""The command `nnfunc train`: trains a config in a new run folder."""

import hashlib
from pathlib import Path

from nnfunc import check
from nnfunc.commands.interrupts import explain_full_disk, interrupt_message
from nnfunc.commands.run_training import new_folder, run_training
from nnfunc.commands.terminal import print_lines
from nnfunc.commands.training_plan import training_plan
from nnfunc.config import Config, load
from nnfunc.config.dry_run import dry_run
from nnfunc.config.restore import save_run
from nnfunc.config.schema import TABLES
from nnfunc.data.fingerprint import digest
from nnfunc.distributed import processes
from nnfunc.runs import run_folder


def agree(config: Config) -> None:
    """Refuse to train with several processes that differ, or without a mesh. config: of the run."""
    if processes.count() == 1:
        return
    if "mesh" not in config.tables:
        expected = f"there should be a table mesh for the {processes.count()} processes"
        check.fail(f"{config.where}: mesh", expected=expected, actual="none", hint=f"Write {TABLES['mesh']}.")
    preprocessing = config.data().preprocessing or config.preprocessing  # of the files as they are now
    rows = None if preprocessing.rows is None else digest(preprocessing.rows)
    data = f"{dict(preprocessing.parts)} {dict(preprocessing.facts)} {rows}"
    facts = {"config": config.text, "data": data}
    processes.agree({name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in facts.items()})


def train(config_file: Path, settings: list[str], folder: Path | None = None) -> Path:
    """Train a config in a new run folder, and return the folder.

    config_file: a TOML file.
    settings: overrides such as "schedule.peak=1e-2".
    folder: a new or empty folder; by default the next of runs/NAME-1, runs/NAME-2.
    Raises: ConfigError; FileExistsError; Diverged; `Stopped` by a signal.
    """
    message = "stopped before the training began; nothing was written"
    with interrupt_message(message):
        config = load(config_file, settings)
        agree(config)
        needs = dry_run(config)  # reports mistakes of the config and the data before there is a folder
        with new_folder(config_file.stem, folder, message) as folder:
            report = None
            with explain_full_disk(folder, "Train again."):
                if processes.is_main():
                    report = save_run(config, folder)
                    run_folder.write_environment(folder)
            if report is not None:
                start = config.tables["start"]
                print(f"start   {start['run']} ({start['checkpoint']})\n{report}")
            print_lines(training_plan(config, needs))
            run_training(config, folder, resume=False)
    return folder
