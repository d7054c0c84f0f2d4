"""Small runs whose files are edited, and the command line over them, for tests of what nobody should get.

A case ends with exit code 0 or 2 and one message, within its time and memory, and writes into the
folders that it was given alone. `run_case` says what is wrong with one, and "" when nothing is.
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

from nnfunc import checkpoint, cli

SECONDS, BYTES = 10, 2 * 2**30
CLASSES = """
data = {{ {data}, batch_size = 8 }}
model = {{ name = "mlp", widths = [{inputs}, 4, {classes}] }}
objective = {{ name = "classification" }}
optimizer = {{ name = "sgd", rate = 0.1 }}
train = {{ steps = 2, log_every = 1, evaluate_every = 1, save_every = 1, watch_every = 1, loop = "step" }}
"""
TOKENS = """
data = {{ {data}, block_size = 4, batch_size = 4 }}
model = {{ name = "gpt", vocabulary = {classes}, block_size = 4, layers = 1, heads = 1, dim = 4 }}
objective = {{ name = "language_modelling" }}
optimizer = {{ name = "sgd", rate = 0.1 }}
train = {{ steps = 1, loop = "step" }}
"""
COMPARISON = """
seeds = [0]
[every]
data = { name = "digits", batch_size = 8 }
objective = { name = "classification" }
optimizer = { name = "sgd", rate = 0.1 }
train = { steps = 2, log_every = 1, evaluate_every = 1, loop = "step" }
[models.a]
model = { name = "mlp", widths = [64, 4, 10] }
[models.b]
model = { name = "mlp", widths = [64, 4, 10], activation = "tanh" }
"""


class TooLong(BaseException):
    """Raised by the alarm; no command takes it for a mistake."""


def nnfunc(*words, seconds=60):
    """(exit code, standard output, standard error, seconds) of a command in this process."""

    def ring(signum, frame):
        raise TooLong

    out, err = io.StringIO(), io.StringIO()
    before, argv = signal.signal(signal.SIGALRM, ring), sys.argv
    signal.alarm(seconds)
    begun = time.process_time()
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
        signal.signal(signal.SIGALRM, before)
        sys.argv = argv
    return code, out.getvalue(), err.getvalue(), time.process_time() - begun


def begin(folder):
    """Fill a folder with configs, data of every kind, and in it a run, a sweep and a comparison."""
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
        ("sweep", "c.toml", "optimizer.rate=[0.1,0.2]", "--execution", "loop", "--run", "sweep"),
    ):
        code, out, err, _ = nnfunc(*words, seconds=300)
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
MORE = ("sweep-best", "sweep", "--trial", "1", "--save", "out")
COMMANDS = {"run": RUN, "sweep": (*SWEEP, MORE), "comparison": (("compare", "k.toml", "--run", "comparison"),)}

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
WHOLE = {
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
PLACES = ("a folder", "a pipe", "a link out", "removed", "a link to itself")


def changed(value, draw, depth=0):
    """A JSON value with one place in it changed, dropped or renamed."""
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
        value[key] = changed(value[key], draw, depth + 1)
    return value


def bent(raw, draw):
    """Bytes with some of them flipped, cut, or there twice."""
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


def edit(path, draw):
    """Change one file, or what stands in its place; what was done, in words."""
    raw, act = path.read_bytes(), draw.random()
    if act < 0.12:
        how = draw.choice(PLACES)
        path.unlink()
        if how == "a folder":
            path.mkdir()
        elif how == "a pipe":
            os.mkfifo(path)
        elif how == "a link out":
            path.symlink_to("/etc/passwd")
        elif how == "a link to itself":
            path.symlink_to(path.name)
        return how
    if act < 0.25:
        how = draw.choice(list(WHOLE))
        path.write_bytes(WHOLE[how])
        return how
    if path.suffix in (".json", ".jsonl") and act < 0.8:
        lines = raw.splitlines() if path.suffix == ".jsonl" else [raw]
        place = draw.randrange(len(lines))
        value = changed(json.loads(lines[place]), draw)
        lines[place] = json.dumps(value).encode()
        raw = b"\n".join(lines) + b"\n"
        if path.name == "manifest.json" and isinstance(value, dict):
            value.pop("sha256", None)
            with contextlib.suppress(ValueError):
                raw = checkpoint._sealed(value)  # as an enemy would
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
    path.write_bytes(bent(raw, draw))
    return "bytes bent"


def pick(place, draw, configs, share=1.0):
    """(what is copied, file to edit, command) of a case. share: of cases that may train."""
    kind = draw.choice(["run", "run", "sweep", "comparison", "config", "data"])
    if kind in COMMANDS:
        files = [p for p in sorted((place / kind).rglob("*")) if p.is_file()]
        files = [p for p in files if p.suffix in (".json", ".jsonl", ".toml", ".safetensors")]
        commands = COMMANDS[kind]
        return kind, draw.choice(files), draw.choice(commands)
    name = draw.choice(configs)
    command = ("train", f"{name}.toml", "--run", "out") if draw.random() < share else ("summary", f"{name}.toml")
    data = {"table": "d.csv", "npz": "d.npz", "text": "t.txt", "tokens": "tokens.npy", "parquet": "d.parquet"}
    file = data.get(name) if kind == "data" else None
    return "", place / (file or f"{name}.toml"), command


def content(folder, without):
    """Every path of a folder with its size and time, but those below some names."""
    known = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] not in without and not path.is_dir():
            about = path.lstat()
            known[str(name)] = (about.st_size, about.st_mtime_ns)
    return known


def run_case(place, work, seed, configs, share=0.15):
    """What is wrong with the case of a seed, "" when nothing is. work: an empty folder of its own."""
    draw = random.Random(seed)
    kind, file, command = pick(place, draw, configs, share)
    for path in place.iterdir():
        if path.is_file():
            shutil.copy2(path, work)
    if kind:
        shutil.copytree(place / kind, work / kind)
    if kind == "run" and command[0] == "resume" and draw.random() < 0.5:
        (work / kind / "result.json").unlink()
    target = work / file.relative_to(place)
    if not target.exists():
        return ""
    how = edit(target, draw)
    before, memory = (content(work, (kind, "out")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    os.chdir(work)
    code, out, err, seconds = nnfunc(*command)
    problem = ""
    said = [line for line in err.splitlines() if line.startswith(("nnfunc: ", "Usage"))]
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    allowed = (0, 2, 1) if command[0] == "find-nan" or "nan" in err else (0, 2)
    if code not in allowed or "Traceback" in err:
        problem = f"exit code {code}"
    elif code == 2 and not said:
        problem = "no message"
    elif seconds > SECONDS:
        problem = f"{seconds:.1f} s"
    elif more * 1024 > BYTES:
        problem = f"{more / 2**20:.1f} GB"
    elif content(work, (kind, "out")) != before:
        problem = "something else was written"
    where = f"seed {seed}: nnfunc {' '.join(command)}, {target.relative_to(work)}: {how}"
    return f"{problem} in {where}\n{out[-500:]}\n{err[-1500:]}" if problem else ""
