"""A sweep from a config file and the settings of the command line.

    sweep = load_sweep("configs/digits_mlp.toml", ["schedule.peak=log(1e-4, 1e-1)", "seed=0:8"])
    sweep.space["schedule.peak"], sweep.options
    trial = sweep.trial({"schedule.peak": 1e-3, "seed": 7}, 0)

The file is the config of a run with a table [sweep]. A dotted key of that table has the distribution of a
setting (see `nnfunc.config.sweep.distributions`); its other keys are options, such as trials = 256. A table
inside it means the same as a quoted dotted key. The command line replaces settings of the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnfunc import check
from nnfunc.config.config_errors import ProblemList, describe, fail
from nnfunc.config.data_records import DataRecords
from nnfunc.config.file_paths import FILE_TABLES, make_absolute
from nnfunc.config.key_path import KeyPath, find_type, get_value, hyper_name, parse_value, set_value
from nnfunc.config.schema import FIXED_FACTORIES, OPTIONAL_TABLES, TABLES, ValueType
from nnfunc.config.sweep.check_space import check_space, first_value, test_values
from nnfunc.config.sweep.distributions import SpaceValue, parse_override, parse_values
from nnfunc.config.sweep.entries import SettingEntry, check_unique, override_entries, table_entries
from nnfunc.config.sweep.sweep_config import SweepConfig, is_seed
from nnfunc.config.sweep.sweep_options import OPTIONS, check_options
from nnfunc.config.toml import read_tables, reject_comparison
from nnfunc.sweeps.space import Distribution
from nnfunc.sweeps.trial import SEEDS
from nnfunc.sweeps.trials_mesh import TRIALS_AXIS

Tables = dict[str, Any]


def load_sweep(
    path: str | Path,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    folders: tuple[Path, Path] | None = None,
    records: DataRecords | None = None,
) -> SweepConfig:
    """The checked sweep of a TOML file.

    path: the file.
    overrides: distributions of settings, such as "schedule.peak=log(1e-4, 1e-1)", or plain `key=value`, which
        changes the config as in `nnfunc train`; they replace those of the file.
    options: such as trials; they replace those of the file, except None.
    folders, records: as in `SweepConfig`, for a sweep that is resumed. Each option of the space and both ends of
        each distribution are checked.
    Raises: ConfigError with all problems, each with the nearest valid key or name.
    """
    problems = ProblemList(str(path), folders or (Path(path).absolute().parent, Path.cwd()))
    tables = read_tables(path)
    reject_comparison(path, tables)
    table = tables.pop("sweep", {})
    if not isinstance(table, dict):
        expected = 'should be a table, such as sweep = { "schedule.peak" = { log = [1e-4, 1e-1] } }'
        fail(str(path), "sweep", expected=expected, actual=describe(table))
    entries = check_unique(table_entries(table, (), tables, problems), problems)
    entries |= check_unique(override_entries(overrides, problems), problems)
    problems.overridden |= {".".join(map(str, e.path)) for e in entries.values() if e.is_override}
    tables, space = _split_space(entries, tables, problems)
    tables |= {name: make_absolute(name, tables[name], problems) for name in tables}
    file_options = {name: value for name, value in table.items() if name in OPTIONS}
    checked_options = check_options(file_options, options or {}, problems)
    if isinstance(tables.get("mesh"), dict) and TRIALS_AXIS not in tables["mesh"]:
        hint = "Write mesh = { trials = -1, data = 2 } for trials of two devices each, or remove it for one."
        problems.add("mesh", f"a mesh of a sweep should have an axis {TRIALS_AXIS}", hint=hint)
    if not space and not problems.problems:
        hint = 'Give distributions, "schedule.peak=log(1e-4, 1e-1)" or seed=0:8, or a table [sweep] in the file.'
        problems.add("", "there is nothing to sweep", hint=hint, source=str(path))
    sweep = SweepConfig(tables, space, checked_options, str(path), problems.folders, records)
    problems.problems += check_space(
        {key: values for key, values in space.items() if not _are_seeds(key, values, problems)},
        lambda settings: sweep.problems(settings, problems.overridden),
    )
    problems.raise_all()
    return sweep


def _split_space(
    entries: dict[KeyPath, SettingEntry], tables: Tables, problems: ProblemList
) -> tuple[Tables, dict[str, SpaceValue]]:
    """The tables with the fixed settings, and the space. Whole tables come before the keys inside them."""
    sample: Tables = tables
    space: dict[KeyPath, SpaceValue] = {}
    for path in sorted(entries, key=len):
        entry = entries[path]
        try:
            value_type = find_type(sample, path)
            values = (parse_override if entry.is_override else parse_values)(entry.value, value_type)
            if isinstance(values, Distribution) and values.options is None and _is_integer(value_type):
                expected, hint = "should have a distribution of integers", "Use int(1, 4), or a list."
                check.fail("", expected=expected, actual=values.name, hint=hint)
            value = parse_value(entry.value) if entry.is_override else entry.value
            if values is None and any(path[: len(table)] == table for table in space):
                values = [value]  # it replaces the value in each table of the space
            sample = set_value(sample, path, value if values is None else first_value(values))
            if values is None:
                tables = set_value(tables, path, value)
            else:
                space[path] = values
        except ValueError as error:
            entry.add_error(problems, error)
    for path in [path for path in space if _lacks_table(path, sample)]:
        hint = f"write {TABLES[str(path[0])]}."
        entries[path].add_problem(problems, f"there is no table {path[0]}", hint=hint)
        del space[path]
    space = {path: _absolute_values(path, values, sample, problems) for path, values in space.items()}
    return tables, {hyper_name(sample, path): space[path] for path in entries if path in space}


def _absolute_values(path: KeyPath, values: SpaceValue, sample: Tables, problems: ProblemList) -> SpaceValue:
    """The options of a setting, with relative file paths made absolute.

    The saved settings of a sweep then mean the same in whichever directory it is resumed.
    """
    table = str(path[0])
    keys = [str(key) for key in path[1:]]
    if isinstance(values, Distribution) or table not in FILE_TABLES or len(keys) > 1:
        return values
    if not keys:
        return [make_absolute(table, value, problems) for value in values]
    (key,), name = keys, get_value(sample, (table, "name"))
    return [make_absolute(table, {"name": name, key: value}, problems)[key] for value in values]


def _is_integer(value_type: ValueType | None) -> bool:
    return value_type is not None and value_type.singular == "an integer"


def _lacks_table(path: KeyPath, tables: Tables) -> bool:
    """Whether a setting belongs to an optional table that is absent and needs a name."""
    table = path[0]
    needs_name = table in OPTIONAL_TABLES and table not in FIXED_FACTORIES and table != "augment"
    return needs_name and get_value(tables, (table, "name")) is None


def _are_seeds(key: str, values: SpaceValue, problems: ProblemList) -> bool:
    """Whether these are seeds, which no factory checks; invalid ones are added to the problems."""
    if key not in SEEDS:
        return False
    wrong = [value for value in test_values(values) if not is_seed(value)]
    if wrong:
        problems.add(key, expected="should be an integer from 0 to 2**32 - 1", actual=describe(wrong[0]))
    return True
