"""`python -m morphogen` is the command line."""

from morphogen.cli import main

main()
