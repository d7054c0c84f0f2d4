"""What the decoders of transformers compute beside the next token: hidden states, classes of texts and of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnfunc.interop.name_table import LINEAR, Row
from nnfunc.interop.published_config import Family, PublishedConfig, read_classes, write_classes


def with_outputs(family: Family, *, name: str = "", token_classes: str = "score") -> Family:
    """The family of language models with the other outputs of its body.

    name: of its architectures there, by default that of the language model.
    token_classes: the name of the head for the classes of tokens.
    """
    (language_model,) = family.architectures
    name = name or language_model.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    ends = {"ForSequenceClassification": "classes", "ForTokenClassification": "token_classes", "Model": "hidden"}
    architectures = {language_model: {"output": "tokens"}}
    architectures |= {f"{name}{end}": {"output": output} for end, output in ends.items()}
    heads = {"classes": "score", "token_classes": token_classes}

    def rows(arguments: Mapping[str, Any]) -> Sequence[Row]:
        head = heads.get(arguments["output"], "lm_head")
        return [row if row[1] != "head" else (head, "head", LINEAR) for row in family.table(arguments)]

    def read(config: PublishedConfig) -> Mapping[str, Any]:
        if "classes" not in architectures.get(config.architecture, {}).get("output", ""):
            return family.read(config)
        padding = config.get("pad_token_id")
        return {
            **family.read(config),
            **read_classes(config),
            **({} if padding is None else {"padding_index": padding}),
        }

    def write(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        config = dict(family.write(arguments))
        if "classes" not in arguments["output"]:
            return config
        return config | write_classes(arguments) | {"pad_token_id": arguments["padding_index"]}

    return family._replace(rows=rows, architectures=architectures, read=read, write=write)
