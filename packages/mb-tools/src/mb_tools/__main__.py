"""python -m mb_tools: the same as the command `mb`."""

from .cli import main

main(prog_name="mb")
