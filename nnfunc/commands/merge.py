"""The command `nnfunc merge`: merges a run of LoRA adapters and its base into a plain run."""

import shutil
from pathlib import Path
from typing import Any

import jax

from nnfunc import check
from nnfunc.base import as_model
from nnfunc.checkpoint import save_best, save_step
from nnfunc.commands.run_training import new_folder
from nnfunc.config import Config
from nnfunc.config.load import resolve
from nnfunc.config.restore import read_config, restore
from nnfunc.data.preprocessing import FILES
from nnfunc.layers.lora import merge_lora
from nnfunc.runs import run_folder
from nnfunc.training.step import trainer

ADAPTED = ("seed", "data", "model", "objective", "task")
"""The tables of the merged config that come from the run of adapters; the others come from its base."""


def merge(run: Path, folder: Path, checkpoint: str = "best") -> Path:
    """Write a plain run with a run's adapters merged into its weights, and return its folder.

    Its metrics and outputs equal those of the run of adapters exactly. `evaluate`, `predict`, `sample`,
    `nf.load_run` and `lora = { run = ... }` accept it; it cannot be resumed. merged.json names its origin.
    run: the folder of the run of adapters.
    folder: a new or empty one.
    checkpoint: "best" or "last".
    Raises: ValueError when the run has no adapters; FileExistsError when the folder is not empty.
    """
    adapted = read_config(run)
    if "lora" not in adapted.tables:
        check.fail("merge", f"{run} has no adapters: its config has no table lora.")
    state, step = restore(adapted, run, checkpoint)
    params = merge_lora(adapted.build(adapted.hypers).model, state.params, state.model_state)
    plain = _plain_config(adapted)
    init = trainer(plain.build, rate_scale=plain.train.get("rollback", 0) > 0).init
    merged = jax.jit(init)(plain.hypers, plain.key())
    model_state = state.model_state.get("model", as_model(plain.build(plain.hypers).model).init_state(plain.key()))
    merged = merged._replace(step=state.step, params=params, model_state=model_state)

    with new_folder("", folder, "stopped; nothing was written"):
        plain.dump(folder / "config.toml")
        run_folder.write_environment(folder)
        for name in FILES:  # of the preprocessing
            if (run / name).is_file():
                shutil.copy(run / name, folder / name)
        origin = {"run": str(run), "base": adapted.tables["lora"]["run"], "step": step}
        run_folder.write_json(folder / run_folder.MERGED, origin | {"checkpoint": checkpoint})
        root = folder / "checkpoints"
        save_best(root, merged, metadata=origin)
        save_step(root, step, {"state": merged}, metadata=origin)  # the checkpoint "last"
    print(f"merged {run} (step {step}) into {folder}")
    return folder


def _plain_config(adapted: Config) -> Config:
    """The config of the base, on the data of the run of adapters."""
    base = read_config(Path(adapted.part("lora")[2]["run"])).tables
    tables: dict[str, Any] = {key: adapted.tables[key] for key in ADAPTED if key in adapted.tables}
    # the weights are averaged already; augment and plateau may need the data of the base
    dropped = {*ADAPTED, "average", "augment", "plateau", "log"}
    tables |= {key: value for key, value in base.items() if key not in dropped}
    tables["train"] = base["train"] | {"best": adapted.train["best"]}
    return resolve(tables, where="merge", records=adapted.records)
