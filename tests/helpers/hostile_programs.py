"""Small runs whose files are edited, and commands that read them, for fuzz tests.

Every case should end with exit code 0 or 2 and one message, within its limits of time and memory, and
should write only into its own folders. `run_case` returns the problem of a case, "" when there is none.
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings

import numpy as np

from nnfunc import cli
from nnfunc.checkpoint import checkpoint_files

SECONDS, BYTES = 10, 2 * 2**30
CLASSES = """
data = {{ {data}, batch_size = 8 }}
model = {{ name = "mlp", widths = [{inputs}, 4, {classes}] }}
objective = {{ name = "classification" }}
optimizer = {{ name = "sgd", learning_rate = 0.1 }}
train = {{ steps = 2, log_every = 1, evaluate_every = 1, save_every = 1, watch_every = 1, loop = "step" }}
"""
TOKENS = """
data = {{ {data}, block_size = 4, batch_size = 4 }}
model = {{ name = "gpt", vocab_size = {classes}, block_size = 4, layers = 1, heads = 1, dim = 4 }}
objective = {{ name = "language_modelling" }}
optimizer = {{ name = "sgd", learning_rate = 0.1 }}
train = {{ steps = 1, loop = "step" }}
"""
COMPARISON = """
seeds = [0]
[every]
data = { name = "digits", batch_size = 8 }
objective = { name = "classification" }
optimizer = { name = "sgd", learning_rate = 0.1 }
train = { steps = 2, log_every = 1, evaluate_every = 1, loop = "step" }
[models.a]
model = { name = "mlp", widths = [64, 4, 10] }
[models.b]
model = { name = "mlp", widths = [64, 4, 10], activation = "tanh" }
"""


class TooLong(BaseException):
    """Raised by the alarm; no command treats it as a mistake of the user."""


def run_command(*words, seconds=60):
    """(exit code, standard output, standard error, seconds) of a command in this process."""

    def ring(signum, frame):
        raise TooLong

    out, err = io.StringIO(), io.StringIO()
    handler, argv = signal.signal(signal.SIGALRM, ring), sys.argv
    signal.alarm(seconds)
    start = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("always")
            sys.argv = ["nnfunc", *map(str, words)]
            cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        code = -1
        err.write(traceback.format_exc())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        sys.argv = argv
    return code, out.getvalue(), err.getvalue(), time.process_time() - start


def create_runs(folder):
    """Fill a folder with configs, all formats of data, a run, a sweep and a comparison; the configs' names."""
    draw = np.random.default_rng(0)
    os.chdir(folder)
    x, y = draw.normal(size=(40, 3)).astype(np.float32), (np.arange(40) % 2).astype(np.int32)
    lines = [",".join(f"{v:.3f}" for v in row) + f",{'ab'[k]}" for row, k in zip(x, y, strict=True)]
    write = lambda name, text: (folder / name).write_text(text)
    write("d.csv", "\n".join(["p,q,r,y", *lines]) + "\n")
    write("t.txt", "to be or not to be, that is the question. " * 20)
    np.savez(folder / "d.npz", x=x, y=y)
    np.save(folder / "x.npy", np.zeros((2, 64), np.float32))
    np.save(folder / "tokens.npy", (np.arange(400) % 7).astype(np.uint16))
    configs = {
        "c": (CLASSES, 'name = "digits"', 64, 10),
        "table": (CLASSES, 'name = "table", source = "d.csv", label = "y"', 3, 2),
        "npz": (CLASSES, 'name = "npz", path = "d.npz"', 3, 2),
        "text": (TOKENS, 'name = "text", path = "t.txt"', 0, 40),
        "tokens": (TOKENS, 'name = "tokens", path = "tokens.npy"', 0, 7),
    }
    with contextlib.suppress(ImportError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: x[:, i] for i, name in enumerate("pqr")} | {"y": np.array(["a", "b"])[y]}
        pq.write_table(pa.table(columns), folder / "d.parquet")
        source = 'name = "table", source = "d.parquet", label = "y"'
        configs["parquet"] = (CLASSES, source, 3, 2)
    with contextlib.suppress(ImportError):
        from PIL import Image

        for name in "ab":
            (folder / "images" / name).mkdir(parents=True)
            for i in range(6):
                pixels = draw.integers(0, 255, (4, 4), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    for name, (form, data, inputs, classes) in configs.items():
        write(f"{name}.toml", form.format(data=data, inputs=inputs, classes=classes))
    write("k.toml", COMPARISON)
    for words in (
        ("train", "c.toml", "--run", "run"),
        ("compare", "k.toml", "--run", "comparison"),
        ("sweep", "c.toml", "optimizer.learning_rate=[0.1,0.2]", "--execution", "loop", "--run", "sweep"),
    ):
        code, out, err, _ = run_command(*words, seconds=300)
        assert code == 0, (words, out, err)
    return sorted(configs)


RUN = (
    ("runs", "."),
    ("watch", "run", "--once"),
    ("evaluate", "run"),
    ("resume", "run"),
    ("predict", "run", "x.npy"),
    ("runs", ".", "--csv"),
    ("find-nan", "run"),
    ("resume", "run", "train.steps=3"),
    ("merge", "run", "out"),
)
SWEEP = (("runs", "."), ("sweep-best", "sweep"), ("resume", "sweep"))
SAVE_TRIAL = ("sweep-best", "sweep", "--trial", "1", "--save", "out")
COMMANDS = {"run": RUN, "sweep": (*SWEEP, SAVE_TRIAL), "comparison": (("compare", "k.toml", "--run", "comparison"),)}

VALUES = (
    None,
    True,
    -1,
    0,
    10**30,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
    "é\ud800",
    "../..",
    "/etc/passwd",
    [],
    {},
    [[1]],
    {"a": {"b": None}},
    [1, "a", None],
    1.5,
)
CONTENTS = {
    "empty": b"",
    "null": b"null",
    "a list": b"[1, 2]",
    "a number": b"7",
    "text": b'"x"',
    "{}": b"{}",
    "deep": b"[" * 10_000 + b"]" * 10_000,
    "binary": bytes(range(256)) * 4,
    "NaN": b"NaN",
    "huge": b'{"a": 1e999, "b": ' + b"9" * 5000 + b"}",
}
REPLACEMENTS = ("a folder", "a pipe", "a link out", "removed", "a link to itself")


def change_value(value, draw, depth=0):
    """A JSON value with one entry changed, dropped or renamed."""
    inner = isinstance(value, dict | list) and value
    if not inner or (depth and draw.random() < 0.3):
        return draw.choice(VALUES)
    key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
    value = value.copy()
    act = draw.random()
    if isinstance(value, dict) and act < 0.15:
        del value[key]
    elif isinstance(value, dict) and act < 0.25:
        value[key + "s"] = value.pop(key)
    else:
        value[key] = change_value(value[key], draw, depth + 1)
    return value


def corrupt_bytes(raw, draw):
    """Bytes of which some are flipped, cut or repeated."""
    if not raw:
        return b"\x00"
    a, b = sorted(draw.randrange(len(raw) + 1) for _ in range(2))
    act = draw.randrange(4)
    if act == 0:
        return raw[:a]
    if act == 1:
        return raw[:a] + raw[b:]
    if act == 2:
        return raw[:b] + raw[a:]
    bits = bytearray(raw)
    for _ in range(draw.randint(1, 8)):
        bits[draw.randrange(len(bits))] ^= 1 << draw.randrange(8)
    return bytes(bits)


def edit_file(path, draw):
    """Change or replace one file, and describe the edit."""
    raw, act = path.read_bytes(), draw.random()
    if act < 0.12:
        edit_name = draw.choice(REPLACEMENTS)
        path.unlink()
        if edit_name == "a folder":
            path.mkdir()
        elif edit_name == "a pipe":
            os.mkfifo(path)
        elif edit_name == "a link out":
            path.symlink_to("/etc/passwd")
        elif edit_name == "a link to itself":
            path.symlink_to(path.name)
        return edit_name
    if act < 0.25:
        edit_name = draw.choice(list(CONTENTS))
        path.write_bytes(CONTENTS[edit_name])
        return edit_name
    if path.suffix in (".json", ".jsonl") and act < 0.8:
        lines = raw.splitlines() if path.suffix == ".jsonl" else [raw]
        index = draw.randrange(len(lines))
        value = change_value(json.loads(lines[index]), draw)
        lines[index] = json.dumps(value).encode()
        raw = b"\n".join(lines) + b"\n"
        if path.name == "manifest.json" and isinstance(value, dict):
            value.pop("sha256", None)
            with contextlib.suppress(ValueError):
                raw = checkpoint_files.sealed(value)  # as an enemy would
        path.write_bytes(raw)
        return f"changed to {raw[:200]!r}"
    if path.suffix == ".toml" and act < 0.8:
        words = raw.decode().split(" ")
        at = draw.randrange(len(words))
        words[at] = draw.choice(
            [
                "-1",
                "0",
                "1e999",
                "nan",
                '"x"',
                "[]",
                "{}",
                "true",
                "2147483648",
                "9" * 30,
                words[at] * 2,
                "",
                draw.choice(words),
                '"é"',
                "[[1]]",
                words[at].replace("a", "e"),
            ]
        )
        path.write_text(" ".join(words))
        return f"word {at} is now {words[at][:40]!r}"
    path.write_bytes(corrupt_bytes(raw, draw))
    return "bytes corrupted"


def pick_case(root, draw, configs, train_fraction=1.0):
    """(folder to copy, file to edit, command) of a case. train_fraction: of the cases that may train."""
    target = draw.choice(["run", "run", "sweep", "comparison", "config", "data"])
    if target in COMMANDS:
        files = [p for p in sorted((root / target).rglob("*")) if p.is_file()]
        files = [p for p in files if p.suffix in (".json", ".jsonl", ".toml", ".safetensors")]
        commands = COMMANDS[target]
        return target, draw.choice(files), draw.choice(commands)
    name = draw.choice(configs)
    command = (
        ("train", f"{name}.toml", "--run", "out") if draw.random() < train_fraction else ("summary", f"{name}.toml")
    )
    data = {"table": "d.csv", "npz": "d.npz", "text": "t.txt", "tokens": "tokens.npy", "parquet": "d.parquet"}
    file = data.get(name) if target == "data" else None
    return "", root / (file or f"{name}.toml"), command


def content(folder, without):
    """Every path of a folder with its size and time. without: top-level names to leave out."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] not in without and not path.is_dir():
            stat = path.lstat()
            files[str(name)] = (stat.st_size, stat.st_mtime_ns)
    return files


def run_case(root, work, seed, configs, train_fraction=0.15):
    """The problem of the case of a seed, or "". root: of `create_runs`. work: an empty folder."""
    draw = random.Random(seed)
    folder, file, command = pick_case(root, draw, configs, train_fraction)
    for path in root.iterdir():
        if path.is_file():
            shutil.copy2(path, work)
    if folder:
        shutil.copytree(root / folder, work / folder)
    if folder == "run" and command[0] == "resume" and draw.random() < 0.5:
        (work / folder / "result.json").unlink()
    target = work / file.relative_to(root)
    if not target.exists():
        return ""
    edit_name = edit_file(target, draw)
    before, memory = (content(work, (folder, "out")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    os.chdir(work)
    code, out, err, seconds = run_command(*command)
    problem = ""
    messages = [line for line in err.splitlines() if line.startswith(("nnfunc: ", "Usage"))]
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    allowed = (0, 2, 1) if command[0] == "find-nan" or "nan" in err else (0, 2)
    if code not in allowed or "Traceback" in err:
        problem = f"exit code {code}"
    elif code == 2 and not messages:
        problem = "no message"
    elif seconds > SECONDS:
        problem = f"{seconds:.1f} s"
    elif growth * 1024 > BYTES:
        problem = f"{growth / 2**20:.1f} GB"
    elif content(work, (folder, "out")) != before:
        problem = "something else was written"
    where = f"seed {seed}: nnfunc {' '.join(command)}, {target.relative_to(work)}: {edit_name}"
    return f"{problem} in {where}\n{out[-500:]}\n{err[-1500:]}" if problem else ""
