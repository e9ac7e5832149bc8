"""An encoder behind an HTTP interface in the OpenAI shape, for guided inversion with `max_calls`.

    POST URL  {"model": ..., "input": [texts]}  ->  {"data": [{"index": 0, "embedding": [...]}, ...]}

Each text may cost money, so none is asked for twice and a failed request is repeated only where that can help:
timeouts, broken connections, 429 and 5xx, with growing pauses or as long as `Retry-After` says. Answers are not
trusted: their order is restored by `index`, and dimension, number and finiteness are checked.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import httpx2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unembed.config import Recipe
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import EncoderError, InputError

KEY = "UNEMBED_API_KEY"  # environment variable, sent as a bearer token
RETRIES = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds
TIMEOUT = 60.0  # seconds for one request

Floats = NDArray[np.float32]


class RemoteEncoder:
    """An `Encoder` that can only be queried.

    Args:
        url: of the endpoint, for example http://127.0.0.1:8080/v1/embeddings.
        recipe: what the endpoint is taken to run; its dimension is checked, the rest cannot be.
        tokenizer: the inverter's.
        model: name to send; the recipe's encoder where not given.
        transport: instead of the network, for tests.
        sleep: instead of `time.sleep`, for tests.

    Raises:
        InputError: `url` is none.

    Attributes:
        calls, tokens: asked for so far: texts, and their tokens with the special ones and the prompt, by which most
            endpoints charge.
    """

    network = None

    def __init__(
        self,
        url: str,
        recipe: Recipe,
        tokenizer: Tokenizer,
        model: str | None = None,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"encoder URL is {url!r}, expected http:// or https://")
        self.url = url
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.model = model or recipe.encoder
        self.calls = self.tokens = 0
        self._known: dict[str, Floats] = {}
        self._sleep = sleep
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(headers=headers, timeout=TIMEOUT, transport=transport)

    def to(self, device: str | torch.device) -> Self:
        """Nothing to move."""
        return self

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> Floats:
        """Embeddings (n, d) float32 of `texts`, in their order; asks for those not asked for before.

        Raises:
            EncoderError: the endpoint cannot be reached, refuses, or answers with something else than embeddings.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(missing), batch_size):
            part = missing[start : start + batch_size]
            self.calls += len(part)
            framed = len(self.tokenizer.prefix_ids) + len(self.tokenizer.suffix_ids)
            self.tokens += sum(framed + len(ids) for ids in self.tokenizer.encode_batch(part))
            self._known.update(zip(part, self._vectors(self._answer(part), len(part)), strict=True))
        return np.array([self._known[text] for text in texts], np.float32).reshape(len(texts), self.recipe.dimension)

    def encode_tokens(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings (B, d) float32 of content ids (B, T), sent as text."""
        texts = [
            self.tokenizer.decode(row[:length]) for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)
        ]
        return torch.from_numpy(self.encode(texts)).to(ids.device)

    def _answer(self, texts: Sequence[str]) -> Any:
        """The JSON that one request gives in the end."""
        problem, pause = "", FIRST_PAUSE
        for attempt in range(RETRIES + 1):
            wait = pause
            try:
                response = self._client.post(self.url, json={"model": self.model, "input": list(texts)})
                if response.is_success:
                    return response.json()
                problem = f"status {response.status_code}"
                if response.status_code != 429 and response.status_code < 500:
                    raise EncoderError(f"{self.url}: refused with {problem} ({_said(response)})")
                wait = _seconds(response.headers.get("Retry-After"), pause)
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            except httpx2.InvalidURL as error:
                raise InputError(f"encoder URL is {self.url!r}: {error}") from error
            except ValueError as error:
                raise EncoderError(f"{self.url}: the answer is not JSON") from error
            if attempt < RETRIES:
                self._sleep(min(wait, LONGEST_PAUSE))
                pause *= 2
        raise EncoderError(f"{self.url}: no answer after {RETRIES + 1} attempts, the last with {problem}")

    def _vectors(self, tree: Any, count: int) -> Floats:
        """Rows in the order of the request, to unit length where the recipe says so."""
        try:
            entries = sorted(tree["data"], key=lambda entry: int(entry["index"]))
            found = [int(entry["index"]) for entry in entries]
            rows = [np.asarray(entry["embedding"], np.float32) for entry in entries]
        except (KeyError, TypeError, ValueError) as error:
            raise EncoderError(f"{self.url}: the answer is not in the OpenAI shape ({type(error).__name__})") from error
        if found != list(range(count)):
            raise EncoderError(f"{self.url}: answered {len(found)} embeddings, expected {count} numbered from 0")
        for row in rows:
            if row.shape != (self.recipe.dimension,):
                raise EncoderError(
                    f"{self.url}: embedding has shape {row.shape}, expected ({self.recipe.dimension},) as "
                    f"{self.recipe.encoder} gives"
                )
        vectors = np.stack(rows)
        size = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(vectors).all() or not size.all():
            raise EncoderError(f"{self.url}: answered with an embedding that is zero or not finite")
        return vectors / size if self.recipe.normalize else vectors


def _seconds(header: str | None, otherwise: float) -> float:
    """What `Retry-After` asks for, where it gives seconds."""
    try:
        return max(0.0, float(header)) if header else otherwise
    except ValueError:  # a date
        return otherwise


def _said(response: httpx2.Response) -> str:
    """The beginning of an error's text, on one line."""
    return " ".join(response.text.split())[:200]
