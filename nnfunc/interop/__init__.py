"""Models in and out: weights that others published, and formats that other runtimes read."""
