"""`python -m unembed` is the `unembed` command."""

from unembed.cli.main import main

if __name__ == "__main__":
    main(prog_name="unembed")
