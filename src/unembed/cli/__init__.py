"""The command line: the `unembed` command, what it shows in a terminal, and files of any size."""
