"""Text recovered from embeddings by masked diffusion.

The names below load on first use, so that `import unembed` stays instant: torch and transformers
are imported only by the modules that need them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unembed.alignment.aligner import Aligner
    from unembed.config import Recipe
    from unembed.decoding.inversion import Inversion
    from unembed.decoding.options import Decoding
    from unembed.decoding.strategies import Frame
    from unembed.encoders.encoder import load_encoder
    from unembed.errors import InputError, UnembedError
    from unembed.inverter import Inverter
    from unembed.search.options import Search
    from unembed.stores import open_store

__version__ = "0.1.0"

__all__ = [
    "Aligner",
    "Decoding",
    "Frame",
    "InputError",
    "Inversion",
    "Inverter",
    "Recipe",
    "Search",
    "UnembedError",
    "__version__",
    "load_encoder",
    "open_store",
]

_MODULES = {
    "Aligner": "unembed.alignment.aligner",
    "Decoding": "unembed.decoding.options",
    "Frame": "unembed.decoding.strategies",
    "InputError": "unembed.errors",
    "Inversion": "unembed.decoding.inversion",
    "Inverter": "unembed.inverter",
    "Recipe": "unembed.config",
    "Search": "unembed.search.options",
    "UnembedError": "unembed.errors",
    "load_encoder": "unembed.encoders.encoder",
    "open_store": "unembed.stores.store",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
