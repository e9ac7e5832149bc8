"""The command line: `encode`, `invert`, `prepare`, `train`, `fit`, `align`, `evaluate` and `serve`, a file each.

main.py           the `unembed` command
command_group.py  how a failure is told in one line, with its exit code
options.py        options of several commands, and the plan that they make
terminal.py       what a person sees: passes, searches, tables; control characters made visible
bulk.py           a file of any size: results as lines, continued after a kill
"""
