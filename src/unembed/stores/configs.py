"""What a store's own configuration of an encoder tells: the model, where it is reached, and whether a key is in it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from unembed.errors import printable
from unembed.stores.store import Trace

MODELS = ("model", "model_name", "model_id", "name", "deployment")
ENDPOINT = re.compile(r"(?:url|endpoint|host|api_base)$", re.IGNORECASE)
SECRET = re.compile(r"(?:api_?key|token|secret|password|authorization)$", re.IGNORECASE)
REFERENCES = ("$var:", "${", "env:", "os.environ")  # a value that only says where the secret is
DEEPEST = 4  # objects within objects


def model(config: Mapping[str, Any]) -> str:
    """The model that a configuration names, "" where it names none."""
    found = (config.get(key) for key in MODELS)
    return next((one[:200] for one in found if isinstance(one, str) and one), "")


def traces(config: Mapping[str, Any], where: str) -> tuple[Trace, ...]:
    """Endpoints and secrets of a configuration, without the secrets themselves. where: file or table."""
    found = []
    for key, value in _strings(config, 0):
        if ENDPOINT.search(key):
            found.append(Trace("endpoint", f"The configuration names where texts are embedded: {_host(value)}.", where))
        elif SECRET.search(key) and not value.startswith(REFERENCES):
            found.append(Trace("secret", f"The configuration has a value of {printable(key)[:60]} in clear.", where))
    return tuple(dict.fromkeys(found))


def _strings(config: Mapping[str, Any], depth: int) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, str) and value:
            yield str(key), value
        elif isinstance(value, dict) and depth < DEEPEST:
            yield from _strings(value, depth + 1)


def _host(url: str) -> str:
    """The address without user, password, path and query."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        return printable(f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}")[:200]
    except ValueError:
        return "an address that cannot be read"
