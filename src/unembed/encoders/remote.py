"""An encoder behind an HTTP interface, for guided inversion with `max_calls`.

    POST URL  {"model": ..., "input": [texts]}  ->  {"data": [{"index": 0, "embedding": [...]}, ...]}

That is OpenAI's shape; `endpoint_answers` has those of ollama, text-embeddings-inference and llama.cpp. Each text may
cost money. So none is asked for twice, what was answered stays known when a later request fails, and a request is
repeated only where that can help (`endpoint`). A batch that is refused as too large is halved.
"""

import time
from collections.abc import Callable, Sequence
from typing import Self

import httpx2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unembed.config import Recipe
from unembed.encoders.endpoint import Endpoint, RefusedError
from unembed.encoders.endpoint_answers import most_bytes, request, takes_one, vectors
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import EncoderError, InputError

BATCH = 32  # what text-embeddings-inference takes; few servers take less
TOO_LARGE = (400, 413, 422)  # statuses with which servers refuse a batch, among other things
PROBE = "test"

Floats = NDArray[np.float32]


class RemoteEncoder:
    """An `Encoder` that can only be queried.

    Args:
        url: of the endpoint, for example http://127.0.0.1:8080/v1/embeddings. Its key is read from the environment
            variable UNEMBED_API_KEY.
        recipe: what the endpoint is taken to run; its dimension is checked, the rest cannot be.
        tokenizer: the inverter's.
        model: what the endpoint calls the model; the recipe's encoder where not given.
        batch: texts in one request. Where not given, 32, or as many as the endpoint is found to take.
        transport: instead of the network, for tests.
        sleep: instead of `time.sleep`, for tests.

    Raises:
        InputError: `url` is none, or `batch` is less than 1.

    Attributes:
        url: the address without secrets.
        batch: texts in one request, at present.
        calls, tokens: asked for so far: texts, and their tokens with the special ones and the prompt, by which most
            endpoints charge. What an endpoint refused is left out.
    """

    network = None

    def __init__(
        self,
        url: str,
        recipe: Recipe,
        tokenizer: Tokenizer,
        model: str | None = None,
        batch: int | None = None,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if batch is not None and batch < 1:
            raise InputError(f"batch is {batch}, expected at least 1")
        self._endpoint = Endpoint(url, transport, sleep)
        self.url = self._endpoint.shown
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.model = model or recipe.encoder
        self.batch = 1 if takes_one(self._endpoint.path) else batch or BATCH
        self.calls = self.tokens = 0
        self._known: dict[str, Floats] = {}

    def to(self, device: str | torch.device) -> Self:
        """Nothing to move."""
        return self

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    def probe(self) -> None:
        """Ask for one short text, so that a wrong address, key, model or dimension is found at once.

        Raises:
            EncoderError: as `encode`.
        """
        self.encode([PROBE])

    def encode(self, texts: Sequence[str], batch_size: int = BATCH, show_progress_bar: bool = False) -> Floats:
        """Embeddings (n, d) float32 of `texts`, in their order; asks for those not asked for before.

        Args:
            batch_size: of a local encoder; here `batch` is how many texts are sent at once.

        Raises:
            EncoderError: the endpoint cannot be reached, refuses, or answers with something else than embeddings.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        start, size = 0, self.batch
        while start < len(missing):
            part = missing[start : start + size]
            try:
                self._ask(part)
            except RefusedError as error:
                if error.status not in TOO_LARGE or len(part) == 1:
                    raise
                size = len(part) // 2
            else:
                start += len(part)
        self.batch = size  # kept only where all were taken in the end: a bad text is refused in every batch
        return np.array([self._known[text] for text in texts], np.float32).reshape(len(texts), self.recipe.dimension)

    def encode_tokens(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings (B, d) float32 of content ids (B, T), sent as text."""
        texts = [
            self.tokenizer.decode(row[:length]) for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)
        ]
        return torch.from_numpy(self.encode(texts)).to(ids.device)

    def _ask(self, part: Sequence[str]) -> None:
        """One request; its answer is known from then on."""
        framed = len(self.tokenizer.prefix_ids) + len(self.tokenizer.suffix_ids)
        tokens = sum(framed + len(ids) for ids in self.tokenizer.encode_batch(part))
        self.calls, self.tokens = self.calls + len(part), self.tokens + tokens
        body = request(self._endpoint.path, self.model, part, self.recipe)
        try:
            tree = self._endpoint.post(body, most_bytes(len(part), self.recipe.dimension))
        except RefusedError:
            self.calls, self.tokens = self.calls - len(part), self.tokens - tokens
            raise
        try:
            found = vectors(tree, len(part), self.recipe)
        except ValueError as error:
            raise EncoderError(f"{self.url}: {error}") from error
        self._known.update(zip(part, found, strict=True))
