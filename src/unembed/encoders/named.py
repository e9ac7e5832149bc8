"""Encoders that the user of this machine has named, so that a checkpoint may name them too.

A checkpoint says which encoder it was trained for. Whoever made it could so have any repository downloaded and any
folder read. So an encoder that is not known by name (`recipes`) is loaded from a checkpoint only if the user has named
it: in this call, or once before on this machine, in a configuration or an option. What was named is kept in a file of
the user's own, one JSON list of place and revision a line.
"""

import json
import os
import shlex
from contextlib import suppress
from pathlib import Path

from unembed.config import Recipe
from unembed.encoders.recipes import RECIPES
from unembed.errors import EncoderError

FILE = "encoders.jsonl"
LARGEST = 1 << 20  # characters of the file that are read


def remember(recipe: Recipe) -> None:
    """Keep that the user has named this encoder; where nothing can be written, it is not kept."""
    if _known(recipe) or _key(recipe) in _named():
        return
    with suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        with _file().open("a", encoding="utf-8") as file:
            file.write(_key(recipe) + "\n")


def check_named(recipe: Recipe) -> None:
    """Raise EncoderError of an encoder that is neither known nor was ever named by the user."""
    if not _known(recipe) and _key(recipe) not in _named():
        revision = f" at revision {recipe.revision!r}" if recipe.revision else ""
        raise EncoderError(
            f"the inverter names the encoder {recipe.encoder!r}{revision}, which is not known here and not loaded on "
            f"its word alone; --encoder {shlex.quote(recipe.encoder)}, in Python encoder=..., says that you trust it"
        )


def _known(recipe: Recipe) -> bool:
    """Anyone may propose a revision of a known repository, so that another one is not known."""
    known = RECIPES.get(recipe.encoder)
    return known is not None and recipe.revision == known.revision


def _key(recipe: Recipe) -> str:
    """A folder by its path, which may be written in many ways; a Hub id as it is."""
    folder = Path(recipe.encoder)
    return json.dumps([str(folder.resolve()) if folder.is_dir() else recipe.encoder, recipe.revision])


def _named() -> set[str]:
    try:
        with _file().open(encoding="utf-8") as file:
            return set(file.read(LARGEST).splitlines())
    except (OSError, UnicodeDecodeError):
        return set()


def _file() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "unembed" / FILE
