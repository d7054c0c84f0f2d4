"""The commands of `nnfunc`: each prints its results, writes files and returns a value."""
