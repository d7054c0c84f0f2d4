"""Write data/docstrings.csv: docstrings of Python's standard library, each with the package that it is from.

python scripts/data/docstrings.py [FOLDER]        (reads the sources of the Python that runs it, and imports none)
"""

import ast
import csv
import sys
import sysconfig
from pathlib import Path

PACKAGES = {
    "dates": ["datetime.py", "_pydatetime.py", "calendar.py", "zoneinfo", "_strptime.py"],
    "email": ["email", "mailbox.py", "smtplib.py", "imaplib.py", "poplib.py"],
    "files": ["pathlib.py", "shutil.py", "zipfile.py", "zipfile", "tarfile.py", "tempfile.py", "gzip.py", "_pyio.py"],
    "numbers": ["_pydecimal.py", "fractions.py", "statistics.py", "random.py", "numbers.py", "ipaddress.py"],
    "processes": ["asyncio", "concurrent", "multiprocessing", "threading.py", "subprocess.py", "queue.py"],
    "tests": ["unittest", "doctest.py", "pdb.py", "bdb.py", "trace.py", "traceback.py", "cProfile.py"],
    "web": ["http", "urllib", "html", "xml", "socketserver.py", "socket.py", "ssl.py", "ftplib.py", "xmlrpc"],
}
SHORTEST = 30  # characters


def docstrings(file: Path) -> list[str]:
    """The docstrings of the module, the classes and the functions of a file, in their order, each on one line."""
    tree = ast.parse(file.read_text("utf-8"))
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    texts = (" ".join((ast.get_docstring(node) or "").split()) for node in nodes)
    return [text for text in texts if len(text) >= SHORTEST]


def main(folder: Path) -> None:
    library, rows = Path(sysconfig.get_path("stdlib")), {}
    for label, names in PACKAGES.items():
        for path in (library / name for name in names):
            for file in sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []:
                rows |= {text: label for text in docstrings(file) if text not in rows}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "docstrings.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows.items()])
    print(f"{len(rows)} docstrings in {folder / 'docstrings.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "data")
