"""Tensors in files: safetensors, whose faults are errors of ours."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unembed.errors import CheckpointError, OutputError


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OutputError."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(mode)  # as of any new file; safetensors keeps others from reading it
    except SafetensorError as error:  # a full disk is no OSError to safetensors
        raise OutputError(f"{path.name}: cannot be written ({error})") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read as safetensors ({reason})") from error
