"""The command `nnfunc config`: what the tables and keys of a config are."""

from collections.abc import Iterable, Mapping, Sequence

from rich.text import Text

from nnfunc import check
from nnfunc.commands.terminal import open_console
from nnfunc.config.explain_experiment import COMPARISON, explain_experiment, run_key
from nnfunc.config.explain_key import (
    FOLLOWS,
    NAMED_TABLES,
    REQUIRED,
    KeyHelp,
    check_name,
    check_table,
    explain_key,
    first_line,
    table_line,
)
from nnfunc.config.schema import FIXED_FACTORIES, MESH_TABLES, TABLES, factories, get_schema

SWEEP = "What the trials of nnfunc sweep vary, and how. nnfunc train ignores it."


def explain_config(key: str = "", names: Mapping[str, str] | None = None) -> None:
    """Print what a key, a table or, without a key, every table of a config is.

    key: dotted, such as "model.dropout", or a table; also of a sweep or a comparison, such as "sweep.trials".
    names: the factory of a table, such as {"model": "mlp"}.
    Raises: ValueError, with the nearest key, when there is no such key.
    """
    names = dict(names or {})
    for table, name in names.items():
        check_name(table, [name])
    if not key and len(names) == 1:
        key = next(iter(names))
    table = run_key(key).partition(".")[0]
    if names and table not in names:
        option = next(iter(names))
        check.fail("config", f"--{option} is for keys of the table {option}.", hint=f"Such as: nnfunc config {option}")
    if not key:
        _print_tables()
    elif key == "sweep":
        _print_sweep()
    elif experiment := explain_experiment(key, names):
        _print_keys(experiment)
    elif (key := run_key(key)) == "seed" or ("." in key and not _is_augmentation(key)):
        _print_keys(explain_key(key, names))
    else:
        check_table(table)
        _print_table(table, key.partition(".")[2] or names.get(table, ""))


def _is_augmentation(key: str) -> bool:
    parts = key.split(".")
    return parts[0] == "augment" and len(parts) == 2 and parts[1] in factories("augment")


def _print_tables() -> None:
    _print_rows(
        [("seed", "optional: The seed of everything random."), *((table, table_line(table)) for table in TABLES)]
    )
    console = open_console()
    console.print("\nTables and keys for nnfunc sweep and nnfunc compare:", markup=False)
    _print_rows([("sweep", f"optional: {SWEEP}"), *((name, one.meaning) for name, one in COMPARISON.items())])
    console.print("\nTo explain one of them: nnfunc config TABLE, or nnfunc config TABLE.KEY", markup=False)


def _print_table(table: str, name: str) -> None:
    """Print a table: its names or, of one factory, its keys."""
    console = open_console()
    name = FIXED_FACTORIES.get(table, name)
    if name:
        check_name(table, [name])
    text = first_line(factories(table)[name]) if name and table in NAMED_TABLES else table_line(table)
    title = f"{table}.{name}" if table == "augment" and name else table
    console.print(Text.assemble((title, "bold"), "  ", text))
    if table not in NAMED_TABLES or not name:
        console.print(f"  {TABLES[table]}", markup=False)
    console.print()
    if table in MESH_TABLES:
        return
    if not name:
        _print_rows([(other, first_line(function)) for other, function in sorted(factories(table).items())])
        option = f"{table}.NAME" if table == "augment" else f"{table} --{table} NAME"
        console.print(f"\nTo list the keys of one of them: nnfunc config {option}", markup=False)
        return
    prefix = f"augment.{name}" if table == "augment" else table
    keys = [explain_key(f"{prefix}.{key}", {table: name})[0] for key in get_schema(table, name).types]
    _print_rows([_key_row(one) for one in keys])


def _print_sweep() -> None:
    """Print the table of a sweep: its options."""
    console = open_console()
    console.print(Text.assemble(("sweep", "bold"), f"  optional: {SWEEP}"))
    console.print('  sweep = { trials = 64, "schedule.peak" = { log = [1e-4, 1e-1] } }\n', markup=False)
    _print_rows([_key_row(one) for one in explain_experiment("sweep", {})])
    console.print("\nAny key of a run may have values here: nnfunc config sweep.schedule.peak", markup=False)


def _key_row(help_: KeyHelp) -> tuple[str, str]:
    return help_.key.rpartition(".")[2], f"{help_.type}, {_default(help_)}. {help_.meaning}"


def _default(help_: KeyHelp) -> str:
    return {REQUIRED: "required", "none": "optional", FOLLOWS: FOLLOWS}.get(help_.default, f"default {help_.default}")


def _print_keys(helps: Sequence[KeyHelp]) -> None:
    """Print one key, once for each of its different meanings."""
    console = open_console()
    groups: dict[tuple[str, ...], list[KeyHelp]] = {}
    for help_ in helps:
        groups.setdefault((help_.type, help_.range, help_.default, help_.meaning), []).append(help_)
    for i, same in enumerate(groups.values()):
        help_ = same[0]
        of = (
            f"  of {', '.join(one.factory for one in same)}"
            if help_.key.partition(".")[0] in NAMED_TABLES and help_.factory
            else ""
        )
        console.print(f"{chr(10) if i else ''}[bold]{help_.key}[/]{of}")
        rows = {"type": help_.type, "range": help_.range, "default": help_.default, "meaning": help_.meaning}
        _print_rows([(f"  {name}", text) for name, text in (rows | {"example": help_.example}).items() if text])


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and texts in two columns; long texts wrap in theirs."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    open_console().print(table)
