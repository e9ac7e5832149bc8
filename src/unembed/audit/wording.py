"""Figures and foreign text as reports show them."""

import unicodedata
from collections.abc import Sequence

from unembed.audit.findings import Rate
from unembed.errors import CONTROLS, JOINERS, printable

LONGEST_NAME = 200  # characters of an id, a name or a location


def percent(value: float) -> str:
    """A share with three significant digits at most, no "0 %" for what is not nothing."""
    if 0 < value < 0.0005:
        return "under 0.1 %"
    if 0.9995 <= value < 1:
        return "over 99.9 %"
    return f"{100 * value:.1f}".removesuffix(".0") + " %"


def interval(rate: Rate) -> str:
    """A share with its interval."""
    return f"{percent(rate.value)}, 95 % interval {percent(rate.low)} to {percent(rate.high)}"


def listed(parts: Sequence[str]) -> str:
    """Parts as a sentence lists them."""
    return ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + "".join(parts[-1:])


def numbered(n: int, what: str) -> str:
    """So many of it."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def named(text: str, longest: int = LONGEST_NAME) -> str:
    """A name, a location or a sentence on one line, cut where it would fill a page."""
    shown = printable(text[:longest])
    return shown if len(text) <= longest else f"{shown}… ({len(text):,} characters)"


def visible(text: str, longest: int) -> str:
    """A text whose control characters are shown as such: what a person should see who must not be deceived by it.

    Controls become control pictures, invisible formatting its code point. Cut at `longest` characters.
    """
    shown = "".join(_seen(letter) for letter in text[:longest])
    return shown if len(text) <= longest else f"{shown}… ({len(text):,} characters)"


def _seen(letter: str) -> str:
    code = ord(letter)
    if unicodedata.category(letter) not in CONTROLS or letter in JOINERS:
        return letter
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"[U+{code:04X}]"
