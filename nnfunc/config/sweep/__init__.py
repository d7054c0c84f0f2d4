"""Sweeps in TOML: what to draw, from what, and how to search; checked before anything runs."""
