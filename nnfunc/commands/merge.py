"""A run of adapters and the run that it adapts, in one: the run folder of a plain model."""

import shutil
from pathlib import Path
from typing import Any

import jax

from nnfunc import check, checkpoint
from nnfunc.base import as_model
from nnfunc.commands.train import use_compilation_cache
from nnfunc.config import Config
from nnfunc.config.load import resolve
from nnfunc.config.restore import read_config, restore
from nnfunc.data.preprocessing import FILES
from nnfunc.layers.lora import merge_lora
from nnfunc.runs import run_folder
from nnfunc.training.step import trainer

__all__ = ["merge"]

ADAPTED = ("seed", "data", "model", "objective", "task")
"""The tables that the figures depend on: those of the adapted run. The others are its base's."""


def merge(run: Path, folder: Path, which: str = "best") -> Path:
    """Write the run folder of the plain model with a run's adapters in its weights, and return it.

    Its figures and outputs are those of the adapted run, exactly. `evaluate`, `predict`, `sample`,
    `nf.load_run` and a further `lora = { run = ... }` read it; it cannot be resumed. merged.json says
    what it was made of. which: the checkpoint, "best" or "last".
    Raises: ValueError when the run has no adapters; FileExistsError when the folder is not empty.
    """
    use_compilation_cache()
    adapted = read_config(run)
    if "lora" not in adapted.tables:
        check.fail("merge", f"{run} should be a run of adapters, with a table lora, got none.")
    state, step = restore(adapted, run, which)
    params = merge_lora(adapted.build(adapted.hypers).model, state.params, state.model_state)
    plain = _plain(adapted)
    init = trainer(plain.build, rate_scale=plain.train.get("rollback", 0) > 0).init
    whole = jax.jit(init)(plain.hypers, plain.key())
    inside = state.model_state.get("model", as_model(plain.build(plain.hypers).model).init_state())
    whole = whole._replace(step=state.step, params=params, model_state=inside)

    there = folder.is_dir()
    folder = run_folder.create_folder(folder.name, folder)
    try:
        plain.dump(folder / "config.toml")
        run_folder.write_environment(folder)
        for name in FILES:  # what the run learned from its data
            if (run / name).is_file():
                shutil.copy(run / name, folder / name)
        made = {"run": str(run), "base": adapted.tables["lora"]["run"], "step": step}
        run_folder.write_json(folder / run_folder.MERGED, made | {"checkpoint": which})
        root = folder / "checkpoints"
        checkpoint.save_best(root, whole, metadata=made)
        checkpoint.save_step(root, step, {"state": whole}, metadata=made)  # what "last" reads
    except BaseException:
        run_folder.remove_folder(folder, keep=there)
        raise
    print(f"merged {run} (step {step}) into {folder}")
    return folder


def _plain(adapted: Config) -> Config:
    """The config of the base, on the data of the adapted run."""
    base = read_config(Path(adapted.part("lora")[2]["run"])).tables
    tables: dict[str, Any] = {key: adapted.tables[key] for key in ADAPTED if key in adapted.tables}
    # averages are in the weights already; augment and plateau may need the base's own data
    left_out = {*ADAPTED, "average", "augment", "plateau", "log"}
    tables |= {key: value for key, value in base.items() if key not in left_out}
    tables["train"] = base["train"] | {"best": adapted.train["best"]}
    return resolve(tables, where="merge", records=adapted.records)
