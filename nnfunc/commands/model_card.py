"""The model card of `nnfunc export --to hf`."""

import os
from pathlib import Path
from typing import Any

import jax

from nnfunc import check, documents
from nnfunc.commands.evaluate_run import split_metrics
from nnfunc.config import Config
from nnfunc.config.restore import Run, restore
from nnfunc.errors import NnfuncError
from nnfunc.training.train_state import TrainState

PIPELINES = {
    "LMHeadModel": "text-generation",
    "ForCausalLM": "text-generation",
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
}
"""The task of an architecture of transformers, by the end of its name."""


def model_card(run: Run, folder: Path, checkpoint: str, exported: Path) -> str:
    """README.md of an exported folder: what the model is, its metrics and data, how to load it, and its config.

    run, folder, checkpoint: the run.
    exported: the folder with config.json and the weights.
    """
    config, name = run.config, exported.name
    state, step = restore(config, folder, checkpoint)
    count = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    what = f"`{config.tables['model']['name']}`"
    package, loader, arguments = "safetensors.torch", "load_file", f'"{name}/model.safetensors"'
    if "lora" in config.tables:
        package, loader, arguments, what = "peft", "PeftModel", f'base, "{name}"', f"adapters of {what}"
    elif (exported / "config.json").is_file():
        loader = documents.read_json(exported / "config.json", {"architectures": [str]})["architectures"][0]
        package, arguments = "transformers", f'"{name}"'
    call = loader if loader == "load_file" else f"{loader}.from_pretrained"
    use = [f"from {package} import {loader}", "", f"model = {call}({arguments})"]
    if (exported / "tokenizer.json").is_file():
        use[0] = f"from {package} import AutoTokenizer, {loader}"
        use.append(f"tokenizer = AutoTokenizer.from_pretrained({arguments})")
    metrics = _metrics_by_split(config, state)
    rows = [f"| {split} | {key} | {value:.4g} |" for split, values in metrics.items() for key, value in values.items()]
    table = ["| split | metric | value |", "|---|---|---|", *rows] if rows else ["The data could not be read."]
    data = [f"- {key}: {_without_folders(value)}" for key, value in config.tables["data"].items()]
    sections = {
        f"# {name}": [f"{what}, {count:,} parameters, trained by nnfunc for {check.counted(step, 'step')}."],
        "## Figures": table,
        "## Data": [*data, *([f"- classes: {', '.join(run.names)}"] if run.names else [])],
        "## Use": ["```python", *use, "```"],
        "## Config": ["```toml", config.text.strip(), "```"],
    }
    tasks = [task for ending, task in PIPELINES.items() if loader.endswith(ending)]
    library = package if package in ("peft", "transformers") else "pytorch"
    front = ["---", f"library_name: {library}", *(f"pipeline_tag: {task}" for task in tasks), "---"]
    return "\n".join([*front, *(line for title, lines in sections.items() for line in ("", title, "", *lines)), ""])


def _metrics_by_split(config: Config, state: TrainState) -> dict[str, dict[str, float]]:
    """The metrics of the held-out splits; none if the data cannot be read."""
    try:
        data, test = config.data(), config.test()
        has = {"validation": getattr(data, "validation", None) is not None, "test": test is not None}
        return {split: split_metrics(config, state, split, data) for split, there in has.items() if there}
    except (NnfuncError, OSError):
        return {}


def _without_folders(value: Any) -> str:
    return Path(value).name if isinstance(value, str) and os.sep in value else str(value)
