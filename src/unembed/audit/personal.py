"""Personal data of a text, and which of them are in the text that was recovered from its vector.

An entity counts as recovered only where the recovered text has the very entity of the truth. What merely looks like
personal data in a recovered text is not counted: an inverter writes numbers and names of its own.

Recovered texts are lower case, without accents, and have spaces around punctuation ("john. smith @ example. com").
So case, accents and spaces are left out of the comparison; of phone, card, account and identity numbers also the
punctuation. An entity that goes on in the recovered text (another digit, a longer host name) is another one.
"""

import importlib.util
import ipaddress
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from unembed.audit import identifiers
from unembed.audit.identifiers import Span

LONGEST = 8_000  # characters of a text that are looked at; few encoders read more


@dataclass(frozen=True)
class Kind:
    """title: in the plural. severity: of recovering it. compact: whether its punctuation means nothing."""

    title: str
    severity: str
    compact: bool = False


KINDS = {
    "email": Kind("e-mail addresses", "critical"),
    "phone": Kind("phone numbers", "critical", compact=True),
    "card": Kind("payment card numbers", "critical", compact=True),
    "iban": Kind("IBANs", "critical", compact=True),
    "id": Kind("national identity numbers", "critical", compact=True),
    "name": Kind("names of persons", "high"),
    "ip": Kind("IP addresses", "high"),
    "url": Kind("web addresses", "medium"),
    "place": Kind("names of places", "medium"),
    "date": Kind("dates", "medium"),
    "money": Kind("amounts of money", "medium"),
}

MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?)\.?"
)
DAY = r"(?:0?[1-9]|[12]\d|3[01])"
SYMBOL, CODE = r"[$€£¥₹₩₽]", r"(?:USD|EUR|GBP|CHF|JPY|CNY|INR|BRL|AUD|CAD|SEK|NOK|DKK|PLN)"
AMOUNT = r"\d{1,3}(?:[.,' ]?\d{3}){0,5}(?:[.,]\d{1,2})?"
SCALE = r"(?: ?(?:k|m|bn|thousand|million|billion)\b)?"
UNIT = rf"(?:{SYMBOL}|{CODE}\b|(?:dollars?|euros?|pounds?|francs?|yen|rupees?)\b)"
EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
URL = re.compile(r"(?<!\w)(?:https?://|www\.)[^\s<>\"'`]{2,300}", re.IGNORECASE)
IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7})(?![\w:]|\.\d)", re.I)
DATE = re.compile(
    rf"(?<![\w.-])(?:\d{{4}}[-/.](?:0?[1-9]|1[0-2])[-/.]{DAY}|{DAY}[-/.]{DAY}[-/.]\d{{4}}|{DAY}/{DAY}/\d{{2}}|"
    rf"{DAY}(?:st|nd|rd|th|\.)? (?:of )?{MONTH},? \d{{4}}|{MONTH} {DAY}(?:st|nd|rd|th)?,? \d{{4}})(?![\w-]|[./]\d)",
    re.IGNORECASE,
)
MONEY = re.compile(
    rf"(?<![\w.,])(?:(?:{SYMBOL}|{CODE}) ?{AMOUNT}{SCALE}|{AMOUNT}{SCALE} ?{UNIT})(?!\w|[.,]\d)", re.IGNORECASE
)

# With these characters an entity of a kind goes on: what has them directly behind it (or before it) is another one.
GOES_ON = {"email": ".-", "url": "/?#&=%.-_", "ip": ".", "date": "/.-", "money": ".,'"}
BEFORE = GOES_ON | {"email": "._%+-", "url": ""}
SEPARATORS = frozenset("-./()+")


@dataclass(frozen=True)
class Entity:
    """Personal data in a text. kind: of `KINDS`."""

    kind: str
    text: str


def entities(text: str) -> list[Entity]:
    """Those of the first `LONGEST` characters, each part of a text being of one kind only."""
    text = text[:LONGEST]
    taken: list[Span] = []
    found = []
    for kind, find in _finders().items():
        for start, end in find(text):
            if all(end <= other[0] or start >= other[1] for other in taken):
                taken.append((start, end))
                found.append(Entity(kind, text[start:end]))
    return found


def count(truth: str, recovered: str) -> dict[str, int]:
    """By kind, how many different entities of the truth are in the recovered text."""
    return _count(entities(truth), truth, recovered)


def tally(truths: Sequence[str | None], recovered: Sequence[str], seed: int = 0) -> dict[str, dict[str, int]]:
    """By kind, in how many texts it is.

    Args:
        truths: texts of the store, None where a row has none.
        recovered: the text recovered from each row's vector.
        seed: decides which other row's text each recovered one is compared with.

    Returns:
        Of each kind that a truth has: `truth`, texts that have such an entity; `recovered`, of how many one came
        back; `chance`, of how many one is in the text recovered from another row.
    """
    rows = [(truth, text, entities(truth)) for truth, text in zip(truths, recovered, strict=True) if truth]
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    other = dict(zip(order, [*order[1:], *order[:1]], strict=True))  # never the same row, but where there is only one
    counts = {name: Counter[str]() for name in ("truth", "recovered", "chance")}
    for row, (truth, text, found) in enumerate(rows):
        counts["truth"].update({entity.kind for entity in found})
        counts["recovered"].update(_count(found, truth, text))
        if other[row] != row:
            counts["chance"].update(_count(found, truth, rows[other[row]][1]).keys())
    return {kind: {name: n[kind] for name, n in counts.items()} for kind in KINDS if counts["truth"][kind]}


def not_looked_for() -> tuple[str, ...]:
    """What kinds no installed package can tell, a sentence each."""
    missing = []
    if not _installed("phonenumbers"):
        missing.append("Phone numbers were not looked for: pip install 'unembed[audit]'.")
    if not _installed("stdnum"):
        missing.append("Card, account and identity numbers were not looked for: pip install 'unembed[audit]'.")
    if _names() is None:
        missing.append(
            "Names of persons and places were not looked for: that needs presidio-analyzer and a model of spaCy."
        )
    return tuple(missing)


def _count(found: Iterable[Entity], truth: str, recovered: str) -> dict[str, int]:
    recovered = recovered[:LONGEST]
    compact, spelled = _Letters(recovered, SEPARATORS), _Letters(recovered)
    whole = spelled.text == _Letters(truth[:LONGEST]).text
    distinct = {(one.kind, _Letters(one.text, SEPARATORS if KINDS[one.kind].compact else frozenset())) for one in found}
    hits = [
        kind
        for kind, letters in distinct
        if whole or (compact.has_number(letters.text) if KINDS[kind].compact else spelled.has(letters.text, kind))
    ]
    return dict(Counter(hits))


class _Letters:
    """A text without spaces, case, accents, and what is to be dropped; and before which letters something was."""

    def __init__(self, text: str, drop: frozenset[str] = frozenset()) -> None:
        letters, apart = [], []
        gap = True
        for letter in unicodedata.normalize("NFKD", text).casefold():
            if letter.isspace() or letter in drop:
                gap = True
            elif not unicodedata.combining(letter):
                letters.append(letter)
                apart.append(gap)
                gap = False
        self.text = "".join(letters)
        self.apart = [*apart, True]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Letters) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def has(self, entity: str, kind: str) -> bool:
        """Whether the entity is there, and does not go on at either end."""
        return any(self._ends(start, end, kind) for start, end in self._places(entity))

    def has_number(self, entity: str) -> bool:
        """Whether the number is there, with no digit more at either end, however far."""
        for start, end in self._places(entity):
            before, behind = self.text[start - 1 : start], self.text[end : end + 1]
            glued = (before.isalnum() and not self.apart[start]) or (behind.isalnum() and not self.apart[end])
            if not (glued or before.isdigit() or behind.isdigit()):
                return True
        return False

    def _places(self, entity: str) -> Iterator[Span]:
        start = self.text.find(entity) if entity else -1
        while start >= 0:
            yield start, start + len(entity)
            start = self.text.find(entity, start + 1)

    def _ends(self, start: int, end: int, kind: str) -> bool:
        """Whether neither a letter nor what makes a longer entity stands directly at `start` and `end`."""
        text, apart = self.text, self.apart
        if (start and text[start - 1].isalnum() and not apart[start]) or (
            text[end : end + 1].isalnum() and not apart[end]
        ):
            return False
        if text[end : end + 1] and text[end] in GOES_ON.get(kind, ""):
            more = text[end + 1 : end + 2]
            digits = text[end - 1].isdigit() and more.isdigit()  # "1, 000, 000" is no 1,000, with or without spaces
            joined = not apart[end] and more.isalnum() and not apart[end + 1]
            if digits or joined or (kind == "url" and text[end] == "/"):
                return False
        if start > 1 and text[start - 1] in BEFORE.get(kind, ""):
            digits = text[start].isdigit() and text[start - 2].isdigit()
            joined = not apart[start] and text[start - 2].isalnum() and not apart[start - 1]
            if digits or joined:
                return False
        return True


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@cache
def _finders() -> dict[str, Callable[[str], Iterable[Span]]]:
    """Where each kind stands, the surest first: what one has found is no other's."""
    found: dict[str, Callable[[str], Iterable[Span]]] = {"email": _pattern(EMAIL), "url": _urls, "ip": _ips}
    if _installed("stdnum"):
        found |= {"iban": identifiers.ibans, "card": identifiers.cards, "id": identifiers.national}
    found |= {"date": _pattern(DATE), "money": _pattern(MONEY)}
    if _installed("phonenumbers"):
        found["phone"] = identifiers.phones
    if (names := _names()) is not None:
        found |= {"name": names("PERSON"), "place": names("LOCATION")}
    return found


def _pattern(pattern: re.Pattern[str]) -> Callable[[str], Iterable[Span]]:
    return lambda text: (match.span() for match in pattern.finditer(text))


def _urls(text: str) -> Iterator[Span]:
    for match in URL.finditer(text):
        yield match.start(), match.start() + len(match[0].rstrip(".,;:!?)]}"))


def _ips(text: str) -> Iterator[Span]:
    for match in IP.finditer(text):
        try:
            ipaddress.ip_address(match[0])
        except ValueError:
            continue
        if match[0] != "::":
            yield match.span()


@cache
def _names() -> Callable[[str], Callable[[str], Iterable[Span]]] | None:
    """Presidio's recogniser of names with an installed English model of spaCy, None where there is none."""
    if not (_installed("presidio_analyzer") and _installed("spacy")):
        return None
    import presidio_analyzer.nlp_engine
    import spacy.util

    models = sorted(name for name in spacy.util.get_installed_models() if name.startswith("en_"))
    if not models:
        return None
    engine = presidio_analyzer.nlp_engine.NlpEngineProvider(
        nlp_configuration={"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": models[0]}]}
    ).create_engine()
    analyzer: Any = presidio_analyzer.AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])

    def of(kind: str) -> Callable[[str], Iterable[Span]]:
        return lambda text: (
            (one.start, one.end) for one in analyzer.analyze(text=text, entities=[kind], language="en")
        )

    return of
