"""`nnfunc runs`: all runs below a folder, side by side."""
