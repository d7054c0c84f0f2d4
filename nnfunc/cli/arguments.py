"""The arguments that several commands have, and how a shell completes them."""

from pathlib import Path
from typing import Annotated

import typer


def complete_runs(incomplete: str) -> list[str]:
    """The folders of runs and sweeps that begin so, for the completion of the shell."""
    names = ("config.toml", "sweep.toml")
    return _matches(incomplete, [f"{depth}{name}" for depth in ("*/", "*/*/") for name in names], True)


def complete_configs(incomplete: str) -> list[str]:
    """The configs that begin so, for the completion of the shell."""
    return _matches(incomplete, ["*.toml", "*/*.toml"], False)


def _matches(incomplete: str, patterns: list[str], folders: bool) -> list[str]:
    start = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    files = [path for pattern in patterns for path in sorted(start.glob(pattern))]
    return [text for path in files if (text := str(path.parent if folders else path)).startswith(incomplete)]


ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="A TOML file such as configs/digits_mlp.toml.", autocompletion=complete_configs
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to override, such as schedule.peak=1e-2 seed=3."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_runs)]
ChangedData = Annotated[
    bool,
    typer.Option(
        "--changed-data",
        help="Accept data files that changed since the run began. The original rows keep their splits.",
    ),
]
Coordinator = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="With several processes: address of process 0.")
]
Process = Annotated[int | None, typer.Option(help="With several processes: the number of this one, from 0.")]
Processes = Annotated[int | None, typer.Option(help="With several processes: how many there are.")]
BatchSize = Annotated[int | None, typer.Option(help="Examples per batch.", show_default="as in training")]
Checkpoint = Annotated[str, typer.Option(help="The checkpoint to use: best or last.")]
