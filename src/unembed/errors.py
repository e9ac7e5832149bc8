"""Every exception that unembed raises on purpose, and what of a text may be shown.

    UnembedError            the work failed (exit code 1)
    |-- OutputError         a result could not be written (disk full, read-only folder)
    |-- EncoderError        the encoder could not be loaded, or returned something unusable
    |-- TrainingError       training cannot go on (loss is not finite, resume does not fit)
    |-- MissingPackageError a package that only an extra installs is not there; also an ImportError
    `-- InputError          the call was wrong (exit code 2); also a ValueError
        |-- ConfigError     an unknown key or an impossible value in a configuration
        |-- EmbeddingError  embeddings of the wrong shape, scale, or with NaN or infinity
        |-- RecipeError     the embeddings come from another encoder than the inverter's
        |-- CheckpointError a model file that is missing, damaged, unsafe or incomplete
        `-- DataError       a text, vector or shard file that cannot be read as it claims

Messages are one line: they name the file, the row or the option, what was found and what was
expected. `exit_code` is what the command line returns for the exception. Foreign text in them is shown
through `printable`.
"""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

CONTROLS = ("Cc", "Cf", "Cs")  # Unicode categories: controls, invisible formatting, lone surrogates
JOINERS = "\u200c\u200d"  # formatting that several scripts and emoji need


def printable(text: str) -> str:
    """`text` on one line, its control characters and direction overrides as U+FFFD: what a terminal may be given."""
    kept = " ".join(text.split())
    return "".join("\ufffd" if unicodedata.category(c) in CONTROLS and c not in JOINERS else c for c in kept)


class UnembedError(Exception):
    """The work failed."""

    exit_code = 1


class OutputError(UnembedError):
    """A result could not be written whole; nothing was left half-written."""


class EncoderError(UnembedError):
    """The encoder could not be loaded, or returned something unusable."""


class TrainingError(UnembedError):
    """Training cannot go on."""


class MissingPackageError(UnembedError, ImportError):
    """A package that only an extra installs is not there."""


class InputError(UnembedError, ValueError):
    """The call was wrong."""

    exit_code = 2


class ConfigError(InputError):
    """An unknown key or an impossible value in a configuration."""


class EmbeddingError(InputError):
    """Embeddings of the wrong shape or scale, or with values that are not finite."""


class RecipeError(InputError):
    """The embeddings were made by another recipe than the inverter was trained for."""


class CheckpointError(InputError):
    """A model file that is missing, damaged, unsafe or incomplete."""


class DataError(InputError):
    """A text, vector or shard file that cannot be read as what it claims to be."""


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """For imports of what the extra `name` installs. Raises MissingPackageError, which says how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "it").partition(".")[0]
        raise MissingPackageError(f"{purpose} needs {package}: pip install 'unembed[{name}]'") from error
