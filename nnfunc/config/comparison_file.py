"""The schema of a comparison's file, with the help of its keys."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Table = dict[str, Any]
_BY_NAME = "tables by name, each with tables of a run"


class ComparisonFile(BaseModel):
    """The tables and keys of the file. title: the type of a key; description: its meaning; examples: its values."""

    model_config = ConfigDict(extra="forbid", strict=True)
    every: Table = Field(
        title="tables of a run",
        description="The tables that the runs of all models share.",
        examples=[{"data": {"name": "digits"}, "train": {"steps": 400}}],
    )
    models: dict[str, Table] = Field(
        min_length=2,
        title=_BY_NAME,
        description="The tables in which each model differs, merged into every.",
        examples=[{"small": {"model": {"widths": [64, 32, 10]}}, "deep": {"model": {"widths": [64, 24, 24, 10]}}}],
    )
    variants: dict[str, Table] = Field(
        {},
        title=_BY_NAME,
        description="Each model is trained in each variant, whose tables are merged into the model's.",
        examples=[{"ordered": {}, "shuffled": {"data": {"shuffle_pixels": True}}}],
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        [0, 1, 2],
        min_length=1,
        title="a list of distinct integers",
        description="Each model is trained with each seed.",
        examples=[[0, 1, 2]],
    )
    target: dict[str, int | float] = Field(
        {},
        title="one number by the name of a validation metric",
        description="The value whose first step and time the table tells.",
        examples=[{"accuracy": 0.97}],
    )
    parameters_within: float = Field(
        0.05,
        gt=0,
        title="a number",
        description="The largest difference of the numbers of parameters, as a fraction.",
        examples=[0.05],
    )
