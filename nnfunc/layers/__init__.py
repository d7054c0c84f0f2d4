"""The layers: each a factory with sizes that returns a Model."""
