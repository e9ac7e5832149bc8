"""Where an inverter is found: in this package, in a folder or file, or on the Hub."""

from importlib.resources import files
from pathlib import Path

from unembed.errors import CheckpointError

PACKAGED = {"all-MiniLM-L6-v2": "minilm"}  # encoder -> folder under unembed/weights
DEFAULT = next(iter(PACKAGED))


def locate(name: str) -> Path:
    """The folder or file of an inverter, fetched from the Hub where the name is neither. Raises CheckpointError.

    A packaged one is named by its encoder, or by its folder ("minilm").
    """
    short = name.removeprefix("sentence-transformers/")
    if short in PACKAGED:
        return Path(str(files("unembed") / "weights" / PACKAGED[short]))
    path = Path(name)
    if name in PACKAGED.values() and not path.exists():
        return Path(str(files("unembed") / "weights" / name))
    if path.exists() or path.suffix == ".pt" or name.count("/") != 1:
        if not path.exists():
            raise CheckpointError(
                f"{name}: there is no such inverter (expected {', '.join(PACKAGED)}, a folder, a .pt file or a Hub id)"
            )
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md"], etag_timeout=5))
    except HFValidationError as error:
        raise CheckpointError(f"{name}: there is no such inverter here, and it is no Hub id") from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{name}: is not here and cannot be had from the Hub") from error
