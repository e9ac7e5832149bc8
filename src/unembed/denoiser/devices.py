"""Where torch computes. Kept free of heavy imports, since the command line reads it."""

from unembed.errors import InputError


def device_of(name: str) -> str:
    """A device that torch has. Raises InputError."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if not (number or "0").isdecimal() or int(number or 0) >= here.get(kind, 0):
        known = ", ".join(kind for kind, count in here.items() if count)
        raise InputError(f"device is {name!r}, expected one that this machine has ({known}), or auto")
    return name
