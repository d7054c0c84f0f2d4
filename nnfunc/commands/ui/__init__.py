"""The command `nnfunc ui`: the pages of all runs below a folder, which grow while the runs train."""
