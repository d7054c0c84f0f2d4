"""The types of data that `nnfunc new` knows.

A draft reads the data set as the config will read it, so that the sizes of the model are those of the data.
"""

from nnfunc.commands.new_config.array_drafts import draft_arrays, draft_images
from nnfunc.commands.new_config.table_drafts import draft_forecasting, draft_table
from nnfunc.commands.new_config.text_drafts import draft_language, draft_tagging, draft_text, draft_tokens

DRAFTS = {
    "table": (draft_table, (".csv", ".csv.gz", ".parquet", ".pq", ".jsonl", ".ndjson")),
    "images": (draft_images, ()),
    "text": (draft_text, (".csv", ".csv.gz", ".parquet", ".pq", ".jsonl")),
    "tagging": (draft_tagging, (".conll", ".conllu", ".iob", ".iob2", ".bio", ".jsonl")),
    "forecasting": (draft_forecasting, (".csv", ".csv.gz", ".parquet", ".pq", ".jsonl")),
    "language": (draft_language, (".txt", ".txt.gz", ".md")),
    "tokens": (draft_tokens, (".bin", ".npy")),
    "arrays": (draft_arrays, (".npz",)),
}
"""The function for each type of data, and the endings of its files; () for folders."""
