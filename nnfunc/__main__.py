"""`python -m nnfunc` runs the command line, as `nnfunc` does."""

from nnfunc.cli import main

main()
