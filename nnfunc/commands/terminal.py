"""The terminal that the commands write to, and the lines that several commands print."""

import io
import shutil
import sys
import textwrap

from rich.console import Console

from nnfunc.reports.format import format_labelled, sort_metrics


def open_console() -> Console:
    """The console of standard output, which replaces characters that its encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


def print_lines(text: str) -> None:
    """Print lines; a terminal that is too narrow for one shows its rest indented, with no word cut in two."""
    if sys.stdout.isatty():
        fold = textwrap.TextWrapper(
            shutil.get_terminal_size().columns,
            subsequent_indent=8 * " ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        text = "\n".join(fold.fill(line) for line in text.split("\n"))
    print(text, flush=True)


def metrics_line(metrics: dict[str, float]) -> str:
    """Metrics in one line, the loss first.

    metrics: values by name.

    >>> metrics_line({"accuracy": 0.97, "loss": 0.125})
    'loss 0.125  accuracy 97.00%'
    """
    return "  ".join(format_labelled(name, value) for name, value in sort_metrics(metrics))


def speed_text(steps_per_second: float) -> str:
    """A speed for progress lines.

    steps_per_second: positive and finite.

    >>> speed_text(1234.5), speed_text(0.123)
    ('1,234 steps/s', '0.12 steps/s')
    """
    return f"{steps_per_second:,.0f} steps/s" if steps_per_second >= 10 else f"{steps_per_second:.2g} steps/s"
