"""Code of all experiments: many trainings in one program, the style of plots, the pages in the docs.

An experiment is a module with `main(argv) -> results`. From the folder of the repository:

    python -m scripts.experiments.initialization                  # writes into docs/experiments/
    python -m scripts.experiments.initialization --size small     # seconds; into runs/experiments/
    python -m scripts.experiments.initialization --out FOLDER     # writes page and plot there
"""

import argparse
import datetime
import io
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import nnfunc as nf

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 120_000  # bytes of a plot: the repository stores every version of it

# Okabe and Ito's colours, distinct for the colour-blind, without the yellow, which is too pale for lines.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY, BLACK = COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#7f7f7f",
    "#000000",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # besides colours, for prints in grey
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


class Many(NamedTuple):
    """The result of `train_many`. The leading axes are the trials, in the order of the hypers.

    curves: means over the steps since the last report, {"loss": [trials, reports], ...}. steps: the number
    of steps at each report, [reports]. states: the final TrainStates, stacked. validation: the final metrics
    of all validation examples, {"loss": [trials], "accuracy": [trials], ...}. validation_curves: these
    metrics at validation_steps, [trials, evaluations].
    """

    curves: dict[str, np.ndarray]
    steps: np.ndarray
    states: Any
    validation: dict[str, np.ndarray]
    validation_curves: dict[str, np.ndarray]
    validation_steps: np.ndarray


def train_many(
    build: Callable[..., nf.Task],
    hypers: dict[str, Any],
    data: Any,
    *,
    steps: int,
    key: Any = None,
    keys: Any = None,
    report_every: int | None = None,
    validate_every: int | None = None,
    scan: bool = True,
) -> Many:
    """Train the task that `build` makes of the hypers of each trial, all trials in one vmapped program.

    hypers: arrays or lists whose leading axis is the trials. They are traced, so build must not branch on
    them; values that set a shape need separate calls. data: an `nf.data` Data; all trials train on the same
    batches. key: one, which is split for the trials; or keys [trials], such as `seed_keys(hypers["seed"])`,
    with which trials of the same seed have the same initial weights. report_every: in steps, by default a
    twentieth of the run. validate_every: a multiple of it; by default there are only the final metrics.
    scan: many steps per dispatch; False for models with convolutions, which XLA runs slowly in loops on a
    CPU. A diverged trial stays at its last finite parameters, and does not affect the others.
    """
    hypers = {name: jnp.asarray(values) for name, values in hypers.items()}
    trials = len(next(iter(hypers.values())))
    if keys is None:
        keys = jax.random.split(jax.random.key(0) if key is None else key, trials)
    init, step = nf.trainer(build)
    held_out = data.validation is not None
    report_every = report_every or max(1, steps // 20)
    training = data.for_training()

    def one(t, states, hypers, training):
        return jax.vmap(step, in_axes=(0, 0, None))(hypers, states, training.batch(t))

    @partial(jax.jit, donate_argnums=2)
    def many(first, count, states, hypers, training):
        """`count` steps from step `first` on: the states, and the sums of the metrics."""

        def body(i, carry):
            states, sums = carry
            states, metrics = one(first + i, states, hypers, training)
            return states, {name: sums[name] + metrics[name] for name in sums}

        shapes = jax.eval_shape(one, first, states, hypers, training)[1]
        zeros = {name: jnp.zeros(leaf.shape, jnp.float32) for name, leaf in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (states, zeros))

    # one step, compiled without a loop
    single = jax.jit(one, donate_argnums=1)

    def by_steps(first, count, states, hypers, training):
        rows = []
        for t in range(first, first + count):
            states, metrics = single(jnp.int32(t), states, hypers, training)
            rows.append(metrics)
        return states, {name: sum(row[name] for row in rows) for name in rows[0]}

    @jax.jit
    def evaluate(states, hypers, data):
        def metrics(h, state, batch):
            task = build(h)
            model = nf.as_model(task.model)
            predict = partial(model.apply, state.params, state=state.model_state)
            loss, other_metrics = task.objective(predict, batch)
            return {"loss": loss, **other_metrics}

        def batch_sums(batch):
            count = jax.tree.leaves(batch)[0].shape[0]
            each = jax.vmap(metrics, in_axes=(0, 0, None))(hypers, states, batch)
            return {name: jnp.float32(count) * value for name, value in each.items()}, count

        sums, count = data.total(batch_sums, "validation", 512)
        return {name: value / jnp.asarray(count, jnp.float32) for name, value in sums.items()}

    run = many if scan else by_steps
    # one trial after another, because random draws compile slowly under vmap
    states = jax.jit(lambda hypers, keys: jax.lax.map(lambda a: init(*a), (hypers, keys)))(hypers, keys)
    rows, reports, evaluations, validation_steps = [], [], [], []
    for first in range(0, steps, report_every):
        count = min(report_every, steps - first)
        states, sums = run(first, count, states, hypers, training)
        rows.append({name: value / count for name, value in sums.items()})
        reports.append(first + count)
        if held_out and validate_every and reports[-1] % validate_every == 0:
            evaluations.append(evaluate(states, hypers, data))
            validation_steps.append(reports[-1])
    final = evaluate(states, hypers, data) if held_out else {}
    curves, validation_curves, final = jax.device_get((_stack(rows), _stack(evaluations), final))
    return Many(curves, np.array(reports), states, final, validation_curves, np.array(validation_steps))


def _stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """{name: [trials, times]} of one dict per time."""
    return {name: jnp.stack([row[name] for row in rows], 1) for name in (rows[0] if rows else ())}


def grid(**axes: Iterable[Any]) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """All combinations as hypers, {name: [trials]}, and the shape of the grid, to reshape results.

    >>> hypers, shape = grid(rate=[0.1, 0.2], seed=range(3))
    >>> hypers["seed"].tolist(), shape
    ([0, 1, 2, 0, 1, 2], (2, 3))
    """
    values = [np.asarray(list(axis)) for axis in axes.values()]
    values = [v.astype(np.float32) if v.dtype.kind == "f" else v.astype(np.int32) for v in values]
    mesh = np.meshgrid(*values, indexing="ij")
    return {name: m.ravel() for name, m in zip(axes, mesh, strict=True)}, mesh[0].shape


def seed_keys(seeds: Any) -> jax.Array:
    """One key per seed: [trials]."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def interval(values: Any, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """The mean over an axis (the seeds), and half of its 95 % interval (Student's t)."""
    values = np.asarray(values, np.float64)
    n = values.shape[axis]
    half = stats.t.ppf(0.975, n - 1) * values.std(axis, ddof=1) / n**0.5 if n > 1 else np.nan
    return values.mean(axis), np.broadcast_to(half, values.mean(axis).shape)


class Images(NamedTuple):
    """Handwritten digits. splits: of the data set. name: of the data set. pixels: in an image."""

    splits: Any
    name: str
    pixels: int


def images(*, mnist: bool = True, examples: int | None = None) -> Images:
    """Flat images: MNIST if the folder of NNFUNC_DATA has it, otherwise scikit-learn's digits.

    mnist: whether to look for MNIST. examples: the number of training examples, the first of the data set.
    """
    found = nf.data.digits(), "scikit-learn's digits", 64
    if mnist and os.environ.get("NNFUNC_DATA"):
        try:
            found = nf.data.mnist(layout="flat"), "MNIST", 784
        except (OSError, ValueError) as error:
            print(f"digits instead of MNIST: {error}")
    splits, name, pixels = found
    if examples:
        x, y = splits.train
        splits = splits._replace(train=(x[:examples], y[:examples]))
    return Images(splits, name, pixels)


def figure(rows: int = 1, columns: int = 1, *, wide: float = 9, high: float = 3.4, **options: Any):
    """A figure in the common style and its axes, as `Figure.subplots` gives them."""
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=COLOURS)
    fig = Figure(figsize=(wide, high), dpi=110, layout="constrained")
    return fig, fig.subplots(rows, columns, **options)


def save_figure(fig: Any, name: str, out: Path) -> Path:
    """Write OUT/NAME.png with a palette of 128 colours, which takes a third of the bytes."""
    from PIL import Image

    drawn = io.BytesIO()
    fig.savefig(drawn, format="png")
    path = out / f"{name}.png"
    Image.open(drawn).convert("RGB").quantize(128).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        got = path.stat().st_size
        raise ValueError(f"{path}: it should have at most {LARGEST} bytes, got {got}. Draw less.")
    return path


def table(heads: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown: the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (heads, rule, *rows))


def image(name: str, about: str) -> str:
    """The figure NAME.png in Markdown; about: what it shows, for those who cannot see it."""
    return f"![{about}]({name}.png)"


def write_page(name: str, *parts: str, title: str, out: Path, seconds: float | None = None) -> Path:
    """Write OUT/NAME.md, or renew in it what stands between the marks: parts, machine and date.

    parts: tables, images and lines of Markdown, in order. What people wrote around the marks stays.
    seconds: of processor time that the experiment took.
    """
    begin, end = "<!-- begin: written by the command above -->", "<!-- end -->"
    took = f" It took {seconds:.0f} s of CPU time." if seconds is not None else ""
    line = f"{machine()}, jax {jax.__version__}, {datetime.date.today()}.{took}"
    block = "\n\n".join([begin, *parts, line, end])
    path = out / f"{name}.md"
    if not path.exists():
        command = f"    python -m scripts.experiments.{name}"
        path.write_text(f"# {title}\n\n{command}\n\n{block}\n", encoding="utf-8")
        return path
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"{path}: the marks {begin!r} and {end!r} should stand in it once.")
    path.write_text(pattern.sub(lambda _: block, text), encoding="utf-8")
    return path


def machine() -> str:
    """What computes, in words: `Two cores of an AMD EPYC`."""
    if jax.default_backend() != "cpu":
        return f"One {jax.devices()[0].device_kind}"
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        found = re.search(r"model name\s*:\s*(.*)", text)
        name = found.group(1).strip() if found else name
    cores = os.cpu_count() or 1
    count = {1: "One core", 2: "Two cores", 4: "Four cores", 8: "Eight cores"}
    article = "an" if name[:1] in "AEIOaeio" else "a"
    return f"{count.get(cores, f'{cores} cores')} of {article} {name}"


class Arguments(NamedTuple):
    """What every experiment is told. small: a size for tests. out: where page and figure go."""

    small: bool
    out: Path
    begun: float

    def seconds(self) -> float:
        """Of processor time since the arguments were read: others may use the machine as well."""
        return time.process_time() - self.begun


def arguments(about: str | None, argv: Sequence[str] | None) -> Arguments:
    """Read --size and --out, from argv or the command line, and make the folder."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--out", type=Path, help="by default docs/experiments, of small runs/...")
    args = parser.parse_args(argv)
    small = args.size == "small"
    out = args.out or ROOT / ("runs/experiments" if small else "docs/experiments")
    out.mkdir(parents=True, exist_ok=True)
    return Arguments(small, out, time.process_time())
