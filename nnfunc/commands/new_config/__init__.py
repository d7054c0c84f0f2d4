"""The command `nnfunc new`: a commented config for files, from what is in them."""
