"""What any store may give away: texts, its encoder, files that all users can read, copies, secrets and endpoints."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from unembed.errors import printable
from unembed.stores.store import Trace

ENTRIES = 10_000  # of a folder, or of settings, that are looked at
DEEPEST = 8  # lists and objects within each other
TEXT = 1 << 16  # characters of a text that are searched for secrets

COPY = re.compile(
    r"(\.(bak|old|orig|backup|copy|save|prev)|~)[._-]?\d*$"
    r"|[ ._-]\(?(copy|backup|bak|old|snapshot)\)?([ ._-]?\(?\d+\)?)?(\.\w+)?$"
    r"|^(backups?|snapshots?)$|\.snapshot$|-journal$",
    re.IGNORECASE,
)
ARCHIVE = re.compile(r"\.(tar|tgz|zip|gz|bz2|xz|zst|7z|dump|sql)(\.\w+)?$", re.IGNORECASE)

SECRETS = {
    "key of OpenAI's form": r"\bsk-[A-Za-z0-9_-]{20,200}",
    "AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,200})",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,60}\b",
    "Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,200}",
    "private key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000}\.",
    "password in an address": r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,100}:[^\s/@]{1,100}@",
    "password or key by its name": (
        r"(?i:\b(?:[a-z0-9]{1,30}[_-])?(?:api[_-]?key|secret(?:[_-]?(?:access[_-]?)?key)?|password|passwd"
        r"|access[_-]?token|auth[_-]?token|bearer))[\"']?\s{0,5}[:=]\s{0,5}[\"']?[^\s\"',;{}]{8,}"
    ),
}
SECRET = re.compile("|".join(f"({pattern})" for pattern in SECRETS.values()))
SECRET_KEY = re.compile(r"(?:api[_-]?key|token|secret|password|authorization)$", re.IGNORECASE)
REFERENCES = ("$var:", "${", "env:", "os.environ")  # a value that only says where the secret is
ADDRESS = re.compile(r"\b(?:https?|grpc|wss?|postgres(?:ql)?|rediss?)://[^\s\"'<>\\]{1,300}")
NAMED_ADDRESS = re.compile(r"\w{0,30}(?:url|endpoint|host|api_base)=([\w.@:\[\]/-]{1,300})$", re.IGNORECASE)


def text_trace(where: str, rows: int | None) -> Trace:
    """The trace of texts beside the vectors. where: the table and the column that holds them."""
    return Trace("text", "Rows have their text in clear.", printable(where), rows)


def encoder_traces(encoder: str, where: str) -> list[Trace]:
    """The trace of an encoder that a store names, none where it names none."""
    detail = f"The store names its encoder: {printable(encoder)[:200]}."
    return [Trace("encoder", detail, printable(where))] if encoder else []


def of_settings(settings: Mapping[str, Any], where: str) -> list[Trace]:
    """What a configuration gives away: endpoints and secrets."""
    texts = list(assignments(settings, where))
    keys = dict.fromkeys(key for _, text in texts if SECRET_KEY.search(key := text.partition("=")[0]))
    named = [
        Trace("secret", f"The configuration has a value of {printable(key)[:60]} in clear.", printable(where))
        for key in keys
    ]
    others = [(where, text) for where, text in texts if text.partition("=")[0] not in keys]
    return [*endpoints(texts), *secrets(others), *named]


def of_store(path: Path, inside: bool = True) -> list[Trace]:
    """What the files of a store give away: who may read them, and that copies are beside them, or `inside` a folder."""
    return [*of_files([path]), *copies(path, inside)]


def of_files(files: Iterable[Path]) -> list[Trace]:
    """A trace where some of these files, or any file of these folders, can be read by every user of the machine."""
    if os.name == "nt":
        return []
    open_to_all = [file for path in files for file in _files(path) if _readable(file)]
    if not open_to_all:
        return []
    what = "One file" if len(open_to_all) == 1 else f"{len(open_to_all):,} files"
    return [Trace("readable", f"{what} can be read by every user of this machine.", printable(open_to_all[0].name))]


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    seen = 0
    for folder, _, names in os.walk(path):
        for name in names:
            if (seen := seen + 1) > ENTRIES:
                return
            yield Path(folder, name)


def _readable(file: Path) -> bool:
    try:
        file = file.resolve()
        return bool(file.stat().st_mode & stat.S_IROTH) and all(
            one.stat().st_mode & stat.S_IXOTH for one in file.parents
        )
    except OSError:
        return False


def copies(path: Path, inside: bool = True) -> list[Trace]:
    """A trace for each copy, backup, snapshot or archive of a store: beside it, and `inside` where it is a folder."""
    path = path.absolute()
    beside = [one for one in _names(path.parent) if one != path.name and one.startswith(path.stem)]
    found = [path.parent / one for one in beside if COPY.search(one) or ARCHIVE.search(one)]
    if inside and path.is_dir():
        found += [path / one for one in _names(path) if COPY.search(one) or ARCHIVE.search(one)]
    return [Trace("copy", _copy(one), printable(one.name)) for one in found[:100]]


def _copy(path: Path) -> str:
    try:
        size = f" of {path.stat().st_size} bytes" if path.is_file() else ""
    except OSError:
        size = ""
    return f"A {'folder' if path.is_dir() else 'file'}{size} that looks like a copy lies beside the store."


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry, _ in zip(entries, range(ENTRIES), strict=False))
    except OSError:
        return []


def secrets(texts: Iterable[tuple[str, str]]) -> list[Trace]:
    """One trace for each kind of secret and place; the texts come as (where, text). The secret itself is in none."""
    kinds = list(SECRETS)
    found = Counter(
        (where, kinds[(match.lastindex or 1) - 1]) for where, text in texts for match in SECRET.finditer(text[:TEXT])
    )
    return [
        Trace("secret", f"What looks like a {kind} is in clear.", printable(where)[:200], count)
        for (where, kind), count in sorted(found.items())
    ]


def endpoints(texts: Iterable[tuple[str, str]]) -> list[Trace]:
    """One trace for each address in the texts of a configuration: scheme, host and port, without user and path."""
    found: dict[str, str] = {}
    for where, text in texts:
        named = NAMED_ADDRESS.match(text)
        for address in ADDRESS.findall(text[:TEXT]) or ([f"//{named[1]}"] if named else []):
            if host := _host(address):
                found.setdefault(host, where)
    return [
        Trace("endpoint", f"The configuration names the endpoint {printable(one)[:200]}.", printable(where)[:200])
        for one, where in sorted(found.items())[:20]
    ]


def _host(address: str) -> str:
    """An address without user, password, path and query, "" where it has no host."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host and parts.scheme else host


def assignments(values: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """The texts of a nested configuration or of metadata as (where, "key=text"), for `secrets` and `endpoints`."""
    within: list[Iterator[tuple[str, Any]]] = [iter(values.items())]
    for _ in range(ENTRIES):  # objects of a pickle may be in each other many times
        if (found := next(within[-1], None)) is None:
            within.pop()
            if not within:
                return
            continue
        key, value = found
        if isinstance(value, str):
            if value and not value.startswith(REFERENCES):
                yield where, f"{key}={value}"
        elif len(within) < DEEPEST and isinstance(value, Mapping):
            within.append(iter(value.items()))
        elif len(within) < DEEPEST and isinstance(value, list):
            within.append(zip(repeat(key), value, strict=False))
