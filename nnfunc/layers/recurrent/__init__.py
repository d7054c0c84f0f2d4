"""Recurrent layers: cells, their arithmetic, and the loop over time."""
