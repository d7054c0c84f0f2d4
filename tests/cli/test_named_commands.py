"""Messages, docstrings, configs and pages name commands and options that exist."""

import re
from pathlib import Path

import typer
from helpers.project import ROOT

import nnfunc.cli  # noqa: F401  registers the commands
from nnfunc.cli.application import app

COMMANDS = {
    name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for name, command in typer.main.get_command(app).commands.items()
}
CALL = re.compile(r"(?:nnfunc|program_name\(\)\}) ([a-z][a-z-]*) ((?:[A-Z]{2,}|--|configs/|runs/|\w+\.toml)[^`;#]*)")
"""A command with its first argument, as `nnfunc resume RUN`."""


def files() -> list[Path]:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").glob("*.toml")]
    return [*pages, *(ROOT / "nnfunc").rglob("*.py")]


def wrong_calls(text: str) -> list[str]:
    wrong = []
    for call in CALL.finditer(text):
        command, options = call[1], re.findall(r" (--[a-z][a-z-]*)", f" {call[2]}")
        if not set(options) <= COMMANDS.get(command, set()) | {"--help"} or command not in COMMANDS:
            wrong.append(call[0])
    return wrong


def test_every_command_that_is_named_exists():
    wrong = {}
    for file in files():
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if calls := wrong_calls(line):
                wrong[f"{file.relative_to(ROOT)}:{number}"] = calls
    assert not wrong


def test_the_check_sees_wrong_commands_and_options():
    assert wrong_calls("nnfunc nan RUN; nnfunc find-nan RUN") == ["nnfunc nan RUN"]
    assert wrong_calls("see nnfunc sweep CONFIG --members 8") == ["nnfunc sweep CONFIG --members 8"]
    assert not wrong_calls("nnfunc sweep CONFIG --trials 8; nnfunc and others")
