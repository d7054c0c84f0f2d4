"""The families that are known, by the `model_type` of their config.json."""

from nnfunc import check
from nnfunc.interop.families.bart_family import BART
from nnfunc.interop.families.bert_family import BERT, DISTILBERT, ROBERTA, XLM_ROBERTA
from nnfunc.interop.families.clip_family import CLIP, CLIP_TEXT, CLIP_VISION
from nnfunc.interop.families.convnext_family import CONVNEXT, TIMM_CONVNEXT, TORCHVISION_CONVNEXT
from nnfunc.interop.families.decoder_outputs import with_outputs
from nnfunc.interop.families.gemma_family import GEMMA, GEMMA2, GEMMA3, GEMMA3_MULTIMODAL
from nnfunc.interop.families.gpt2_family import GPT2, NANOGPT
from nnfunc.interop.families.llama_family import LLAMA, MISTRAL, MIXTRAL, PHI3, QWEN2, QWEN3
from nnfunc.interop.families.resnet_family import RESNET, TORCHVISION_RESNET
from nnfunc.interop.families.t5_family import MT5, T5
from nnfunc.interop.families.torch_modules import TORCH_GRU, TORCH_LSTM, TORCH_RNN, TORCH_TRANSFORMER
from nnfunc.interop.families.vit_family import DEIT, TIMM_MIXER, TIMM_VIT, TORCHVISION_VIT, VIT
from nnfunc.interop.published_config import Family

DECODERS = (
    with_outputs(GPT2, token_classes="classifier"),
    *map(with_outputs, (LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN3, PHI3, GEMMA, GEMMA2)),
    with_outputs(GEMMA3, name="Gemma3Text"),
    GEMMA3_MULTIMODAL,
)
ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT)
VISION = (VIT, DEIT, RESNET, CONVNEXT, CLIP, CLIP_TEXT, CLIP_VISION)
WITHOUT_CONFIG = (
    *(NANOGPT, TIMM_VIT, TORCHVISION_VIT, TIMM_MIXER, TORCHVISION_RESNET, TORCHVISION_CONVNEXT, TIMM_CONVNEXT),
    *(TORCH_LSTM, TORCH_GRU, TORCH_RNN, TORCH_TRANSFORMER),
)
"""State dicts of programs that write no config.json with a model_type: pass model= to read them."""
FAMILIES = {family.name: family for family in (*DECODERS, *ENCODERS, BART, T5, MT5, *VISION, *WITHOUT_CONFIG)}


def find_family(where: str, name: str) -> Family:
    """The family of a name.

    where: for the error.

    Raises: ValueError for an unknown one, with those that are known and how to add one.
    """
    if name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        hint = (
            "If its tensors have the names of a known family, pass family=. To add one, write a Family, as in "
            "nnfunc/interop/families/gpt2_family.py, and pass that as family=."
        )
        check.fail(where, f"the architecture {name!r} is not known; those that are: {known}.", hint=hint)
    return FAMILIES[name]
