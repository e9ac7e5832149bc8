"""The encoder as a search sees it: token ids in, embeddings out, calls and time counted, answers not trusted."""

import math
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unembed.encoders.encoder import Encoder, TransformerEncoder
from unembed.encoders.fast_batches import FastEncoder
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import EncoderError
from unembed.search.options import Search

CHUNK = 128  # texts between two looks at the clock

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


class TextEncoder(Protocol):
    """What a search needs of an encoder."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embeddings (n, D) of texts."""
        ...


class EncoderCalls:
    """One search's dealings with the encoder.

    Args:
        fast: the encoder's fast lane, where it has one and calls are not counted.
        dimension: D, expected of every answer.

    Attributes:
        calls: texts embedded so far.
        seconds: that the search has taken so far.
        error: cosine by which `embed` may be wrong; `exact` never is.
    """

    def __init__(
        self, encoder: TextEncoder, fast: FastEncoder | None, tokenizer: Tokenizer, search: Search, dimension: int
    ) -> None:
        self.encoder = encoder
        self.fast = fast
        self.tokenizer = tokenizer
        self.search = search
        self.dimension = dimension
        self.error = fast.error if fast else 0.0
        self.calls = 0
        self._before = 0.0
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time so far, that of earlier sessions included."""
        return self._before + time.perf_counter() - self._started

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._before, self._started = value, time.perf_counter()

    @property
    def left(self) -> float:
        """Calls that may still be made: none when the time is over, any number where they are not counted.

        The first question is always asked, so that the shortest search has a cosine to report.
        """
        if self.calls and self.search.seconds is not None and self.seconds >= self.search.seconds:
            return 0
        return math.inf if self.search.max_calls is None else self.search.max_calls - self.calls

    def embed(self, rows: Sequence[Ids]) -> Floats:
        """Embeddings (n, D) of length 1 of the first n rows, as many as may still be asked about."""
        found = [np.empty((0, self.dimension), np.float32)]
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            part = part[: int(min(len(part), self.left))]
            if not part:
                break
            if self.fast is not None:
                self.calls += len(part)
                found.append(self._checked(self.fast.embed(part), len(part)))
            else:
                found.append(self.exact(part))
        return np.concatenate(found)

    def exact(self, rows: Sequence[Ids]) -> Floats:
        """Embeddings (n, D) of length 1 by the encoder itself."""
        self.calls += len(rows)
        return self._checked(self.encoder.encode([self.tokenizer.decode(ids) for ids in rows]), len(rows))

    def _checked(self, answer: Floats, count: int) -> Floats:
        """Raise EncoderError unless the answer holds a finite embedding for each text."""
        vectors = np.asarray(answer, np.float32)
        if vectors.shape != (count, self.dimension):
            raise EncoderError(
                f"the encoder answered with embeddings of shape {vectors.shape}, expected {(count, self.dimension)}"
            )
        size_N1 = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(size_N1).all() or not size_N1.all():
            raise EncoderError("the encoder answered with an embedding that is zero or not finite")
        found: Floats = vectors / size_N1
        return found


def fast_lane(encoder: Encoder, tokenizer: Tokenizer | None = None) -> FastEncoder | None:
    """The fast lane of a local transformer, for rows of a tokenizer's ids; other encoders have none."""
    return FastEncoder(encoder, tokenizer) if isinstance(encoder, TransformerEncoder) else None


def as_read(tokenizer: Tokenizer, rows: Sequence[Ids], length: int) -> list[Ids]:
    """What the encoder sees of texts: what each tokenises to once it is decoded, each once.

    Left out is what is empty or longer than `length` then, or holds a special token, which is lost when it is decoded.
    """
    read = dict.fromkeys(tuple(ids) for ids in tokenizer.encode_batch([tokenizer.decode(ids) for ids in rows]))
    special = set(tokenizer.special_ids)
    return [ids for ids in read if 0 < len(ids) <= length and special.isdisjoint(ids)]
