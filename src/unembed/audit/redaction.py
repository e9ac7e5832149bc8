"""What a report says of a text that it does not show."""

import hashlib
import secrets
from typing import Any

PREFIX = 12  # hex digits


class Redactor:
    """Marks of texts: the same for the same text of one report, and of no use outside of it.

    The salt is random and written nowhere, so that no dictionary finds a short text by its mark.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)

    def mark(self, text: str) -> str:
        """12 hex digits."""
        return hashlib.sha256(self._salt + text.encode(errors="replace")).hexdigest()[:PREFIX]

    def redacted(self, text: str | None) -> dict[str, Any] | None:
        """Length and mark."""
        return None if text is None else {"characters": len(text), "sha256": self.mark(text)}
