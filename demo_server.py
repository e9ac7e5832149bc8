"""The demo server: `python demo_server.py`, the same as `unembed serve`."""

from unembed.cli.serve import main

if __name__ == "__main__":
    main()
