"""The command `nnfunc runs`: a table, CSV or plot of the runs below a folder."""

from pathlib import Path

from nnfunc import check
from nnfunc.commands.list_runs.collect_runs import collect_runs
from nnfunc.commands.list_runs.runs_plot import plot_runs
from nnfunc.commands.list_runs.runs_table import print_table, runs_csv, sort_runs
from nnfunc.commands.terminal import open_console

__all__ = ["list_runs"]


def list_runs(folder: Path, *, sort: str | None = None, plot: Path | None = None, csv: bool = False) -> None:
    """Print the runs below a folder as a table or CSV, and optionally plot their validation curves.

    folder: that contains runs, at any depth. sort: a column, a metric or a setting, the best value first.
    plot: a .png, or an .html page that has the table too. csv: print CSV instead of the table.
    Raises: FileNotFoundError without such a folder; ValueError for an unknown sort key or plot format.
    """
    if not folder.is_dir():
        hint = "Name the folder that contains runs: nnfunc runs DIR."
        check.fail("runs", f"{folder} is not a folder.", hint=hint, exc_type=FileNotFoundError)
    if plot is not None and plot.suffix not in (".png", ".html"):
        check.fail("runs", expected="plot should be a .png or .html file", actual=plot)
    entries = sort_runs(collect_runs(folder), sort)
    console = open_console()
    if csv:
        print(runs_csv(entries), end="")
    elif not entries:
        console.print(f"There are no runs below {folder}. Start one: nnfunc train CONFIG")
    else:
        print_table(entries, console)
    if plot is not None:
        plot_runs(entries, plot)
        if not csv:
            console.print(f"plot  {plot}")
