"""`nnfunc runs`: every run below a folder, side by side."""

from pathlib import Path

from nnfunc import check
from nnfunc.commands.list_runs import runs_plot as plots
from nnfunc.commands.list_runs import runs_table
from nnfunc.commands.list_runs.collect_runs import collect

__all__ = ["list_runs"]


def list_runs(folder: Path, *, sort: str | None = None, plot: Path | None = None, csv: bool = False) -> None:
    """Print a table of the runs below a folder, or CSV; with plot, draw their validation curves.

    sort: a column, a metric or a setting; the best, the least or the first come first. plot: a .png,
    or an .html with the table beside the curves.
    Raises: FileNotFoundError when there is no such folder; ValueError for a sort or a plot that is
    none.
    """
    from nnfunc.commands.terminal import open_console

    if not folder.is_dir():
        cure = "Name the folder that holds runs: nnfunc runs DIR."
        raise FileNotFoundError(f"{folder} is not a folder. {cure}")
    if plot is not None and plot.suffix not in (".png", ".html"):
        check.fail("runs", f"the plot should be a .png or .html file, got {plot}.")
    found = runs_table.sorted_by(collect(folder), sort)
    console = open_console()
    if csv:
        print(runs_table.as_csv(found), end="")
    elif not found:
        console.print(f"There are no runs below {folder}. Begin one: nnfunc train CONFIG")
    else:
        runs_table.show(found, console)
    if plot is not None:
        plots.draw(found, plot)
        if not csv:
            console.print(f"plot  {plot}")
