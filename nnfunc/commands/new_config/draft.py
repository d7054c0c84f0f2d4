"""A config with a comment for each of its choices, as text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nnfunc.config.explain_key import to_toml

COLUMN = 46  # of the comments


class Note(NamedTuple):
    """A value with a comment on it."""

    value: Any
    comment: str


@dataclass
class Draft:
    """A config before it is written.

    title: what the config does, in a few words.
    facts: lines about the files.
    tables: the config by table; a value may be a `Note`.
    use: commands for the trained run, which is RUN.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    use: str = "nnfunc evaluate RUN; nnfunc predict RUN NEW_FILES; nnfunc serve RUN"


def choose_steps(examples: int, epochs: int, *, most: int = 5000) -> tuple[int, int, str]:
    """(batch size, steps, a comment on the steps) for a number of training examples.

    examples: of the training split.
    epochs: how often each should be seen; at least 200 and at most `most` steps.

    >>> choose_steps(1000, 40)
    (32, 1250, '40 epochs: each example is seen about 40 times')
    """
    size = 1
    while size < 128 and 2 * size <= examples // 20:
        size *= 2
    size = max(size, min(8, examples))
    steps = min(max(round(epochs * examples / size), 200), most)
    times = steps * size / examples
    text = f"{times:.0f}" if times >= 2 else f"{times:.1f}"
    return size, steps, f"{text} epochs: each example is seen about {text} times"


def arguments_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a data set's function in the table `data`."""
    values = {key: value.value if isinstance(value, Note) else value for key, value in options.items()}
    return {key: value for key, value in values.items() if key not in ("name", "batch_size")}


def training_tables(steps: int, comment: str, *, peak: float, weight_decay: float, best: str) -> dict[str, Any]:
    """The tables optimizer, schedule and train. best: the metric of `train.best`."""
    return {
        "optimizer": {"name": "adamw", "weight_decay": weight_decay},
        "schedule": {
            "name": "warmup_cosine",
            "peak": Note(peak, "nnfunc find-lr CONFIG suggests another"),
            "warmup_steps": max(1, steps // 20),
        },
        "train": {"steps": Note(steps, comment), "best": best},
    }


def render_draft(draft: Draft, config: str, run: str) -> str:
    """The config as TOML. config: its file, for the commands in its comments. run: the folder of its first run."""
    lines = [f"# {_one_line(draft.title)}.    nnfunc train {config}"]
    lines += [f"# {_one_line(fact)}" for fact in draft.facts]
    lines += [
        "#",
        f"# nnfunc doctor {config}    looks for mistakes before a training",
        f"# nnfunc config model.dropout --model {draft.tables['model']['name']}    explains a key",
        f"# nnfunc sweep {config} schedule.peak=log(1e-4,1e-1)    tries several values",
        f"# {draft.use.replace('RUN', run)}    use the result",
        "seed = 0",
    ]
    for table, values in draft.tables.items():
        lines += ["", f"[{table}]", *(_line(key, value) for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any) -> str:
    value, comment = value if isinstance(value, Note) else (value, "")
    text = f"{key} = {_wrap(value)}"
    return f"{text:<{COLUMN - 2}}  # {_one_line(comment)}" if comment else text


def _one_line(comment: str) -> str:
    """A comment without line breaks and control characters, which names of classes may have."""
    return "".join(c for c in " ".join(comment.split()) if c.isprintable())


def _wrap(value: Any) -> str:
    """A value as TOML; a long list has an item on each line."""
    text = to_toml(value)
    if isinstance(value, list) and len(text) > 100:
        return "[\n" + "".join(f"    {to_toml(item)},\n" for item in value) + "]"
    return text
