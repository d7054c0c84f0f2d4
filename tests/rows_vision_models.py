"""Rows of the roster: vision models."""

from row import Row

MODELS: dict[str, Row] = {}
FUNCTIONS: dict[str, Row] = {}
NOT_FACTORIES: dict[str, str] = {}
