"""An address that is asked for embeddings: its key, and what its refusals mean. `http_client` has the requests."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2

from unembed.encoders import http_client
from unembed.encoders.http_client import HttpClient, HttpError, TooLargeError, key_of
from unembed.errors import EncoderError

KEY = "UNEMBED_API_KEY"  # environment variable, sent as a bearer token
WHOLE = http_client.WHOLE  # seconds for one whole answer
ADVICE = {401: f"its key is read from {KEY}", 403: f"its key is read from {KEY}"}
MODEL_ADVICE = "check the address, and the model's name there: --encoder-model (in Python: model)"


class RefusedError(EncoderError):
    """No text was embedded, and asking again does not change that.

    Attributes:
        status: of the answer that refused, or 0 where the endpoint was not reached.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Endpoint:
    """An address that takes JSON and answers with JSON.

    Args:
        url: http:// or https://; a user and password in it are sent as basic authentication.
        transport: instead of the network, for tests.
        sleep: instead of `time.sleep`, for tests.

    Raises:
        InputError: `url` is none, or the key cannot be sent.

    Attributes:
        shown: the address without secrets.
        path: its path.
    """

    def __init__(
        self, url: str, transport: httpx2.BaseTransport | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        key = key_of(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = HttpClient(url, "encoder URL", "HOST[:PORT]/PATH", key, headers, transport, sleep)
        self.shown = self._client.shown
        self.path = self._client.url.path

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def post(self, body: dict[str, Any], most: int) -> Any:
        """The JSON that `body` is answered with in the end; `HttpClient.ask` says what is tried again.

        Args:
            most: bytes of the answer.

        Raises:
            RefusedError: the endpoint refuses, or is not there.
            EncoderError: it fails, takes too long, or answers with something else than JSON of that size.
        """
        try:
            status, content = self._client.ask("POST", self._client.url, body, most, WHOLE)
        except http_client.RefusedError as error:
            raise self._refusal(str(error), error.status, error.problem) from error
        except TooLargeError as error:
            raise EncoderError(f"{error}, which embeddings do not take") from error
        except HttpError as error:
            raise EncoderError(str(error)) from error
        try:
            tree = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise EncoderError(f"{self.shown}: the answer is not JSON; check the address") from error
        if isinstance(tree, dict) and tree.get("error"):  # LM Studio has status 200 for an unknown path
            problem = self._client.said(status, content)
            raise self._refusal(f"{self.shown}: refused with {problem}", status, problem)
        return tree

    def _refusal(self, message: str, status: int, problem: str) -> RefusedError:
        named = status == 404 or "model" in problem.lower()
        if not 300 <= status < 400 and (advice := ADVICE.get(status) or (MODEL_ADVICE if named else None)):
            message += f"; {advice}"
        return RefusedError(message, status)
