"""`python -m nnfunc` is `nnfunc`."""

from nnfunc.cli import main

main()
