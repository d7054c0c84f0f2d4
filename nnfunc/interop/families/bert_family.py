"""BERT, RoBERTa and DistilBERT, as transformers saves them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.interop.name_table import LINEAR, NORM, SAME, TABLE, Change, Row
from nnfunc.interop.published_config import (
    ACTIVATIONS,
    Family,
    PublishedConfig,
    Setting,
    read_classes,
    without,
    write_classes,
)
from nnfunc.models.bert import bert

BIAS = {"bias": ("bias", SAME)}


def body_rows(prefix: str, positions: Any = TABLE) -> list[Row]:
    layer = f"{prefix}.encoder.layer.{{i}}"
    return [
        (f"{prefix}.embeddings.word_embeddings", "tokens", TABLE),
        (f"{prefix}.embeddings.position_embeddings", "positions", positions),
        (f"{prefix}.embeddings.token_type_embeddings", "types", TABLE),
        (f"{prefix}.embeddings.LayerNorm", "norm", NORM),
        (f"{layer}.attention.self.query", "blocks/attend/query", LINEAR),
        (f"{layer}.attention.self.key", "blocks/attend/key", LINEAR),
        (f"{layer}.attention.self.value", "blocks/attend/value", LINEAR),
        (f"{layer}.attention.output.dense", "blocks/attend/out", LINEAR),
        (f"{layer}.attention.output.LayerNorm", "blocks/attend_norm", NORM),
        (f"{layer}.intermediate.dense", "blocks/mlp/up", LINEAR),
        (f"{layer}.output.dense", "blocks/mlp/down", LINEAR),
        (f"{layer}.output.LayerNorm", "blocks/mlp_norm", NORM),
    ]


def heads(tokens: Sequence[str], classes: Sequence[str], pooler: str) -> dict[str, list[Row]]:
    """The rows of each output. tokens, classes: the names of the modules of these heads."""
    dense, norm, shift = tokens
    return {
        "hidden": [],
        "pooled": [(pooler, "head/linear", LINEAR)],
        "tokens": [(dense, "head/linear", LINEAR), (norm, "head/norm", NORM), (shift, "head/shift", BIAS)],
        "classes": [(classes[0], "head/linear", LINEAR), (classes[1], "head/logits", LINEAR)],
        "token_classes": [("classifier", "head/logits", LINEAR)],
        "spans": [("qa_outputs", "head/logits", LINEAR)],
    }


HEADS = heads(
    ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions"),
    ("bert.pooler.dense", "classifier"),
    "bert.pooler.dense",
)
ROBERTA_HEADS = heads(
    ("lm_head.dense", "lm_head.layer_norm", "lm_head"),
    ("classifier.dense", "classifier.out_proj"),
    "roberta.pooler.dense",
)
DISTILBERT_HEADS = heads(
    ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    ("pre_classifier", "classifier"),
    "pre_classifier",  # it has no pooler, and the first layer of this head is like one
)
SETTINGS = [
    Setting("vocab_size", "vocab_size"),
    Setting("max_position_embeddings", "block_size"),
    Setting("hidden_size", "dim"),
    Setting("num_hidden_layers", "layers"),
    Setting("num_attention_heads", "heads"),
    Setting("intermediate_size", "hidden"),
    Setting("type_vocab_size", "types", int, 2),
    Setting("hidden_act", "activation", ACTIVATIONS, "gelu"),
    Setting("layer_norm_eps", "eps", float, 1e-12),
]


def architectures(name: str) -> dict[str, dict[str, Any]]:
    outputs = {
        "ForMaskedLM": "tokens",
        "ForSequenceClassification": "classes",
        "ForTokenClassification": "token_classes",
        "ForQuestionAnswering": "spans",
        "Model": "hidden",
    }
    return {f"{name}{end}": {"output": output} for end, output in outputs.items()}


def write_bert(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, pool_activation="tanh")
    if not arguments["types"]:
        check.fail("to_pretrained", expected="types should be at least 1 in this family", actual=0)
    padding = {} if arguments["padding_index"] is None else {"pad_token_id": arguments["padding_index"]}
    return write_classes(arguments) | padding | {"intermediate_size": arguments["hidden"] or 4 * arguments["dim"]}


def pooled(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a model with a pooler and no head adds to its config."""
    return {"architectures": [f"{name}Model"]} if arguments["output"] == "pooled" else {}


def read_bert(config: PublishedConfig) -> dict[str, Any]:
    """The head of next sentences would be left out as beside that of masked tokens, where both are published."""
    if config.architecture == "BertForNextSentencePrediction":
        expected = "architectures should be ['BertModel'], which leaves its head out"
        check.fail(config.where, expected=expected, actual=config["architectures"])
    return read_classes(config)


BERT = Family(
    name="bert",
    factory=bert,
    settings=SETTINGS,
    rows=lambda arguments: body_rows("bert") + HEADS[arguments["output"]],
    architectures=architectures("Bert") | {"BertForPreTraining": {"output": "tokens"}},
    fixed={"is_decoder": False, "add_cross_attention": False},
    read=read_bert,
    write=lambda arguments: write_bert(arguments) | pooled("Bert", arguments),
    prefix="bert.",
    ignored=("*embeddings.position_ids", "*pooler.*", "cls.seq_relationship.*", "cls.predictions.decoder.*"),
    older={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
)
FIRST = 2
"""RoBERTa's positions begin at its padding id + 1; the rows before are not used."""
LATE_POSITIONS = {"weight": ("weight", Change(lambda x: x[FIRST:], lambda x: np.pad(x, ((FIRST, 0), (0, 0)))))}


def write_roberta(arguments: Mapping[str, Any]) -> dict[str, Any]:
    positions = {"max_position_embeddings": arguments["block_size"] + FIRST}
    without(arguments, padding_index=FIRST - 1 if arguments["padding_index"] is not None else None)
    return write_bert(arguments) | positions | pooled("Roberta", arguments)


ROBERTA = BERT._replace(
    name="roberta",
    rows=lambda arguments: body_rows("roberta", LATE_POSITIONS) + ROBERTA_HEADS[arguments["output"]],
    architectures=architectures("Roberta"),
    fixed=dict(BERT.fixed) | {"pad_token_id": FIRST - 1},
    read=lambda config: read_classes(config) | {"block_size": config["max_position_embeddings"] - FIRST},
    write=write_roberta,
    prefix="roberta.",
    ignored=("*embeddings.position_ids", "*pooler.*", "lm_head.decoder.*"),
    older={},
)
XLM_ROBERTA = ROBERTA._replace(
    name="xlm-roberta",
    architectures=architectures("XLMRoberta"),
    write=lambda arguments: write_roberta(arguments) | pooled("XLMRoberta", arguments),
)

LAYER = "distilbert.transformer.layer.{i}"
DISTILBERT_ROWS: list[Row] = [
    ("distilbert.embeddings.word_embeddings", "tokens", TABLE),
    ("distilbert.embeddings.position_embeddings", "positions", TABLE),
    ("distilbert.embeddings.LayerNorm", "norm", NORM),
    (f"{LAYER}.attention.q_lin", "blocks/attend/query", LINEAR),
    (f"{LAYER}.attention.k_lin", "blocks/attend/key", LINEAR),
    (f"{LAYER}.attention.v_lin", "blocks/attend/value", LINEAR),
    (f"{LAYER}.attention.out_lin", "blocks/attend/out", LINEAR),
    (f"{LAYER}.sa_layer_norm", "blocks/attend_norm", NORM),
    (f"{LAYER}.ffn.lin1", "blocks/mlp/up", LINEAR),
    (f"{LAYER}.ffn.lin2", "blocks/mlp/down", LINEAR),
    (f"{LAYER}.output_layer_norm", "blocks/mlp_norm", NORM),
]


def write_distilbert(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, types=0, eps=1e-12)
    outputs = ("hidden", "tokens", "classes", "token_classes", "spans")
    check.choice("to_pretrained", outputs, output=arguments["output"])
    if arguments["output"] == "classes":
        without(arguments, pool_activation="relu")
    padding = {} if arguments["padding_index"] is None else {"pad_token_id": arguments["padding_index"]}
    return write_classes(arguments) | padding | {"hidden_dim": arguments["hidden"] or 4 * arguments["dim"]}


DISTILBERT = Family(
    name="distilbert",
    factory=bert,
    settings=[
        Setting("vocab_size", "vocab_size"),
        Setting("max_position_embeddings", "block_size"),
        Setting("dim", "dim"),
        Setting("n_layers", "layers"),
        Setting("n_heads", "heads"),
        Setting("hidden_dim", "hidden"),
        Setting("activation", "activation", ACTIVATIONS, "gelu"),
    ],
    rows=lambda arguments: DISTILBERT_ROWS + DISTILBERT_HEADS[arguments["output"]],
    architectures=architectures("DistilBert"),
    read=lambda config: read_classes(config) | {"types": 0, "pool_activation": "relu"},
    write=write_distilbert,
    prefix="distilbert.",
    ignored=("*embeddings.position_ids", "vocab_projector.weight"),
)
