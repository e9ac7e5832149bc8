"""Numbers that identify someone and check themselves: payment cards, IBANs, national identity numbers, phones.

Which numbers exist, and their check digits, are python-stdnum's and phonenumbers' to know; here stand the shapes in
which people write them. A shape that many other numbers have needs a cue before it, such as "BSN".
"""

import importlib
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

# Country and module of python-stdnum, the shape, and the cue that must stand before a number without much shape.
NATIONAL = (
    ("au.tfn", r"\d{3} ?\d{3} ?\d{3}", r"tfn|tax file"),
    ("be.nn", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", ""),
    ("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}", ""),
    ("ca.sin", r"\d{3}[ -]\d{3}[ -]\d{3}", r"sin|social insurance|nas"),
    ("ch.ssn", r"756\.\d{4}\.\d{4}\.\d{2}", ""),
    ("cn.ric", r"\d{17}[\dX]", ""),
    ("de.idnr", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", r"steuer|idnr|tin|tax"),
    ("es.nif", r"(?:\d{8}|[XYZ]-?\d{7})-?[A-Z]", ""),
    ("fi.hetu", r"\d{6}[-+A]\d{3}[0-9A-Y]", ""),
    ("fr.nir", r"[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", ""),
    ("gb.nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", r"nhs"),
    ("in_.aadhaar", r"\d{4} \d{4} \d{4}", ""),
    ("in_.pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", ""),
    ("it.codicefiscale", r"[A-Z]{6}\d{2}[ABCDEHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", ""),
    ("kr.rrn", r"\d{6}-\d{7}", ""),
    ("mx.curp", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", ""),
    ("nl.bsn", r"\d{9}", r"bsn|burgerservice"),
    ("pl.pesel", r"\d{11}", ""),
    ("se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}", ""),
    ("us.ssn", r"\d{3}-\d{2}-\d{4}", ""),
)
CUE = r"(?:{})\b[^\d\n]{{0,20}}"
ALONE = r"(?<![\w.-]){}(?![\w-]|\.\d)"
CARD = re.compile(r"(?<![\d.-])[2-6](?:[ -]?\d){12,18}(?![\w-])")
# Of the networks: first digits and how many there are in all.
CARDS = re.compile(
    r"4\d{12}(?:\d{3})?(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|35\d{14}|"
    r"(?:60|62|64|65)\d{14,17}|(?:50|5[6-8]|67|63)\d{10,17}"
)
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}", re.IGNORECASE)
# Numbers without a country code are looked for as these countries write them, an order in which few disagree.
REGIONS = ("US", "GB", "DE", "FR", "IT", "NL", "IN", "BR", "JP", "AU")
SHORTEST_PHONE = 7  # digits
Span = tuple[int, int]


def cards(text: str) -> Iterator[Span]:
    """Where payment card numbers stand: as long as a network's are, with Luhn's check digit."""
    luhn: Any = importlib.import_module("stdnum.luhn")
    for match in CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if CARDS.fullmatch(digits) and luhn.is_valid(digits):
            yield match.span()


def ibans(text: str) -> Iterator[Span]:
    """Where IBANs stand. What follows in capitals is not of them: the longest valid beginning counts."""
    iban: Any = importlib.import_module("stdnum.iban")
    for match in IBAN.finditer(text):
        found = match[0]
        while len(found) >= 15:
            if iban.is_valid(found):
                yield match.start(), match.start() + len(found)
                break
            found = found[:-1].rstrip()


def national(text: str) -> Iterator[Span]:
    """Where identity numbers of the countries of `NATIONAL` stand."""
    for pattern, module in _national():
        for match in pattern.finditer(text):
            if module.is_valid(match["number"].upper()):
                yield match.span("number")


@cache
def _national() -> list[tuple[re.Pattern[str], Any]]:
    found = []
    for name, shape, cue in NATIONAL:
        alone = ALONE.format(f"(?P<number>{shape})")
        pattern = rf"\b{CUE.format(cue)}{alone}" if cue else alone
        found.append((re.compile(pattern, re.IGNORECASE), importlib.import_module(f"stdnum.{name}")))
    return found


def phones(text: str) -> Iterator[Span]:
    """Where phone numbers stand: with a country code, or grouped exactly as a country of `REGIONS` writes them."""
    import phonenumbers

    for region in (None, *REGIONS):
        exact = phonenumbers.Leniency.VALID if region is None else phonenumbers.Leniency.EXACT_GROUPING
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=exact):
            raw = match.raw_string
            written = region is None or region == "US" or raw.startswith(("0", "("))
            grouped = raw.startswith("+") or re.search(r"\d[^\d]+\d", raw)
            if written and grouped and sum(c.isdigit() for c in raw) >= SHORTEST_PHONE:
                yield match.start, match.end
