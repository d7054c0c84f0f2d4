"""Searches: which specs go on, and which settings come next."""
