"""Rows of metrics.jsonl as hypothesis strategies, damaged ones among them."""

from hypothesis import strategies as st

__all__ = []

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4))

NAMES = st.sampled_from(["loss", "gradient_norm", "update_ratio", "dead", "deviation", "histogram", "é<"])

ENTRIES = st.dictionaries(NAMES, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=3)

ROWS = st.fixed_dictionaries(
    {
        "split": st.sampled_from(["train", "validation", "layers", "event", "other"]),
        "step": st.one_of(st.integers(0, 100), SCALARS),
    },
    optional={
        "seconds": SCALARS,
        "loss": SCALARS,
        "learning_rate": SCALARS,
        "gradient_norm": SCALARS,
        "event": SCALARS,
        "message": SCALARS,
        "memory_mb": SCALARS,
        "utilisation": SCALARS,
        "parameters": st.one_of(SCALARS, st.dictionaries(st.sampled_from(["a", "b/0/c"]), ENTRIES)),
        "activations": st.one_of(SCALARS, st.dictionaries(st.sampled_from(["a", "b/1"]), ENTRIES)),
    },
)
