"""The command `nnfunc runs`: a table, CSV or plot of the runs below a folder."""

from pathlib import Path

from nnfunc import check, documents
from nnfunc.commands.list_runs.collect_runs import collect_runs
from nnfunc.commands.list_runs.runs_table import print_table, runs_csv, sort_runs
from nnfunc.commands.terminal import open_console


def list_runs(
    folder: Path, *, sort: str | None = None, plot: Path | None = None, html: Path | None = None, csv: bool = False
) -> None:
    """Print the runs below a folder as a table or CSV, and optionally write their curves as a picture or a page.

    folder: that contains runs, at any depth.
    sort: a column, a metric or a setting, the best value first.
    plot: a .png of the validation curves.
    html: a page with the curves, the table and the settings.
    csv: print CSV instead of the table.
    Raises: FileNotFoundError without such a folder; ValueError for an unknown sort key or file name.
    """
    from nnfunc.commands.list_runs.runs_page import plot_runs, write_runs_page

    if not folder.is_dir():
        hint = "Name the folder that contains runs: nnfunc runs DIR."
        check.fail("runs", f"{folder} is not a folder.", hint=hint, exc_type=FileNotFoundError)
    outputs = [("plot", plot, ".png", plot_runs), ("html", html, ".html", write_runs_page)]
    for name, path, ending, _ in outputs:
        if path is not None and path.suffix != ending:
            hint = "Use --html for a page." if path.suffix == ".html" else ""
            check.fail("runs", expected=f"{name} should be a {ending} file", actual=path, hint=hint)
    entries = sort_runs(collect_runs(folder), sort)
    console = open_console()
    if csv:
        print(runs_csv(entries), end="")
    elif not entries:
        console.print(f"There are no runs below {folder}. Start one: nnfunc train CONFIG")
    else:
        print_table(entries, console)
    for name, path, _, write in outputs:
        if path is not None:
            documents.make_parent(path)
            write(entries, path)
            if not csv:
                console.print(f"{name}  {path}")
