"""Rows of the roster: convolution and pooling."""

from helpers.roster.row import Row, sample

IMAGE = sample(2, 4, 5, 3)
LINE = sample(2, 6, 3)

MODELS: dict[str, Row] = {
    "conv": Row((3, 4, (2, 3)), {"stride": (2, 1), "padding": "circular"}, x=IMAGE),
    "conv:direct": Row((6, 2, 7), {"dims": 1}, x=sample(2, 5, 6)),
    "conv:causal": Row((3, 4, 3), {"dims": 1, "padding": "causal", "dilation": 2, "stride": 2}, x=LINE),
    "depthwise_conv": Row((3, 3), {"multiplier": 2, "dims": 1}, x=LINE),
    "separable_conv": Row((3, 2, 2), {"stride": 2}, x=IMAGE),
    "conv_transpose": Row((3, 2, 3), {"stride": 2, "padding": 1, "dims": 1}, x=LINE),
    "patch_embedding": Row(((2, 5), 3, 4), x=IMAGE),
    "max_pool": Row((2,), {"stride": 1, "padding": "same"}, x=IMAGE, any_width=True),
    "max_pool:ceil": Row((2,), {"ceil_mode": True, "dilation": (2, 1), "stride": 3}, x=IMAGE, any_width=True),
    "avg_pool": Row((2,), {"padding": 1, "count_padding": False}, x=IMAGE, any_width=True),
    "avg_pool:divisor": Row(
        (2,), {"ceil_mode": True, "dilation": (2, 1)}, {"divisor_override": (2.0, 3.0)}, x=IMAGE, any_width=True
    ),
    "lp_pool": Row(((3, 2),), {"stride": 1}, {"p": (2.0, 3.5)}, x=IMAGE, any_width=True),
    "global_avg_pool": Row(x=IMAGE, any_width=True),
    "global_max_pool": Row(x=IMAGE, any_width=True),
    "adaptive_avg_pool": Row((3,), x=IMAGE, any_width=True),
    "adaptive_max_pool": Row(((2, 3),), x=IMAGE, any_width=True),
}
FUNCTIONS: dict[str, Row] = {}
NOT_FACTORIES: dict[str, str] = {}
