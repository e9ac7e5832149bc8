"""An inverter in one `.pt` file: a zip of one pickle, which holds text, and of the bytes of its tensors.

torch loads it with `weights_only=True`, which runs no code but may still take any amount of memory: by zip entries that
are compressed, by tensors whose strides repeat a few numbers, and by calls like `bytearray(1 << 40)`, which it allows.
So the zip and the pickle's names are looked at before torch is asked, and the tensors' storages afterwards.
"""

import json
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from unembed.errors import CheckpointError

# What `save_pt` makes a pickle of, besides text, numbers, lists and dictionaries.
NAMES = re.compile(r"torch\._utils _rebuild_tensor_v2|torch \w+Storage|collections OrderedDict")
REFUSED = "refused, it is a pickle that may want to run code (only tensors and text are loaded)"


def read_pt(path: Path) -> dict[str, Any]:
    """The dictionary of a `.pt` file, no larger than the file. Raises CheckpointError."""
    try:
        _check_zip(path)
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols, where the answer is an error anyway
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except UnpicklingError as error:
        raise CheckpointError(f"{path}: {REFUSED}") from error
    except Exception as error:  # zipfile, pickletools and torch raise what they like, by what is wrong
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise CheckpointError(f"{path}: cannot be read as a PyTorch file ({reason})") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: holds {type(tree).__name__}, expected an unembed inverter")
    _check_size({key: value for key, value in tree.items() if key != "state"}, path)
    state = tree.get("state")
    tensors = [one for one in state.values() if isinstance(one, Tensor)] if isinstance(state, dict) else []
    held = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    if sum(one.numel() * one.element_size() for one in tensors) > sum(held.values()):
        raise CheckpointError(f"{path}: its tensors repeat the same numbers, expected each to hold its own")
    return tree


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            pickled = file.read(1) == b"\x80"
        raise CheckpointError(f"{path}: {REFUSED if pickled else 'cannot be read as a PyTorch file (it is no zip)'}")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f"{path}: its entries are compressed, expected them as torch stores them")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise CheckpointError(f"{path}: its entries overlap, expected each to hold its own bytes")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                for operation, argument, _ in pickletools.genops(archive.read(entry)):
                    known = operation.name != "GLOBAL" or NAMES.fullmatch(str(argument))
                    if not known or operation.name in ("STACK_GLOBAL", "INST", "OBJ"):
                        raise CheckpointError(f"{path}: {REFUSED}")


def _check_size(tree: Any, path: Path) -> None:
    """Refuse lists in lists that are the same, whose written form has no end or is far longer than the file."""
    left = 8 * path.stat().st_size  # a number in a pickle may be longer in words
    try:
        for part in json.JSONEncoder().iterencode(tree):
            if (left := left - len(part)) < 0:
                raise CheckpointError(f"{path}: its lists repeat each other, expected each to hold its own")
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is not an unembed inverter ({error})") from error
