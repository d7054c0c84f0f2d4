"""Searches: which trials go on, and which settings come next."""
