"""The commands of `nnfunc`: each prints, writes files and returns what it found."""
