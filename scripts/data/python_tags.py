"""Write data/python_tags.conll: lines of Python's standard library, a token and its role in each line of the file.

python scripts/data/python_tags.py [FOLDER]        (reads the sources of the Python that runs it, and imports none)

The roles are those of the syntax tree, so every tag is right: name is the use of a variable, call that of a function,
method and attribute stand behind a dot, keyword is one of the language, argument the name of one in a call.
"""

import ast
import io
import keyword
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

FILES = ["argparse", "bdb", "calendar", "cmd", "configparser", "copy", "csv", "dataclasses", "difflib", "doctest"]
FILES += ["enum", "fractions", "ftplib", "functools", "gettext", "glob", "gzip", "heapq", "imaplib", "inspect"]
FILES += ["locale", "mailbox", "netrc", "optparse", "pathlib", "pdb", "pickle", "plistlib", "pprint", "queue"]
SHORTEST, LONGEST = 4, 32  # tokens
PLAIN = {tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.OP: "operator"}
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def roles(tree: ast.AST) -> dict[tuple[int, int], str]:
    """{(line, column): role} of the names in a syntax tree."""
    result = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            result.setdefault((node.lineno, node.col_offset), "name")
        elif isinstance(node, ast.Attribute):
            result.setdefault(end_name(node), "attribute")
        elif isinstance(node, ast.arg):
            result[node.lineno, node.col_offset] = "parameter"
        elif isinstance(node, ast.keyword) and node.arg:
            result[node.lineno, node.col_offset] = "argument"
        if isinstance(node, ast.Call):  # walked before its function
            function = node.func
            if isinstance(function, ast.Name):
                result[function.lineno, function.col_offset] = "call"
            elif isinstance(function, ast.Attribute):
                result[end_name(function)] = "method"
    return result


def end_name(node: ast.Attribute) -> tuple[int, int]:
    """(line, column) of the name behind the dot."""
    return node.end_lineno or 0, (node.end_col_offset or 0) - len(node.attr)


def read_tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens of a source; an f-string is one, as in Python 3.11, whose parts 3.12 gives one by one."""
    lines, depth, start = text.splitlines(keepends=True), 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if tokenize.tok_name[token.type].endswith("STRING_START"):
            start = start if depth else token.start
            depth += 1
        elif tokenize.tok_name[token.type].endswith("STRING_END"):
            depth -= 1
            if not depth:
                (first, left), (last, right) = start, token.end
                whole = "".join(lines[first - 1 : last])
                string = whole[left : len(whole) - len(lines[last - 1]) + right]
                yield token._replace(type=tokenize.STRING, string=string, start=start)
        elif not depth:
            yield token


def sentences(file: Path) -> list[tuple[tuple[str, str], ...]]:
    """The (token, role) pairs of each logical line of a file, without those that are too short or too long."""
    text = file.read_text("utf-8")
    names, lines, line, before = roles(ast.parse(text)), [], [], ""
    for token in read_tokens(text):
        if token.type == tokenize.NEWLINE:
            lines, line = [*lines, tuple(line)], []
        elif token.type not in SKIPPED:
            role = PLAIN.get(token.type) or names.get(token.start)
            if token.type == tokenize.NAME and keyword.iskeyword(token.string):
                role = "keyword"
            elif before in ("def", "class"):
                role = "function" if before == "def" else "class"
            line.append(("".join(token.string.split())[:24], role or "other"))
            before = token.string
    return [line for line in lines if SHORTEST <= len(line) <= LONGEST]


def main(folder: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    files = [library / f"{name}.py" for name in FILES]
    distinct = dict.fromkeys(line for file in files if file.is_file() for line in sentences(file))
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join("".join(f"{token}\t{role}\n" for token, role in line) for line in distinct)
    (folder / "python_tags.conll").write_text(text, encoding="utf-8")
    print(f"{len(distinct)} lines in {folder / 'python_tags.conll'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "data")
