"""`python -m nnfunc.cli` runs the command line, as `nnfunc` does."""

from nnfunc.cli import main

main()
