"""One host that is asked over HTTP: bounded in size and time, repeated where that can help, and no secret shown.

The other side is not trusted. An answer has a size, after decompression, and a time in which it must be whole. What it
says in an error is quoted on one line, without control characters, and without the key, the password or the query
values that it may repeat. Redirects are never followed: the key is for the host that was named.
"""

import base64
import json
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import parse_qsl, quote, quote_plus, unquote

import httpx2

from unembed.errors import InputError, UnembedError, printable

RETRIES = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds
CONNECT, SILENCE, WHOLE = 10.0, 60.0, 120.0  # seconds to connect, without a byte, for one whole answer
QUOTED = 200  # characters of an error that are quoted
ERROR_BYTES = 2**16  # of an error's body that are read
SECRET_LENGTH = 6  # characters from which a query's value may be a secret
HIDDEN = "***"
SAYING = ("error", "message", "detail", "reason", "status")  # keys of an error's JSON, where its message is


class HttpError(UnembedError):
    """A host gives no usable answer."""


class RefusedError(HttpError):
    """A request was refused, and repeating it does not change that.

    Attributes:
        status: of the answer that refused, or 0 where the host was not reached.
        problem: what it said, on one line.
    """

    def __init__(self, message: str, status: int, problem: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


class TooLargeError(HttpError):
    """An answer has more bytes than were allowed."""


def safe_url(url: str) -> str:
    """`url` as it may be shown: without user and password, and without its query."""
    scheme, mark, rest = url.partition("://")
    if not mark or not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        scheme, mark, rest = "", "", url
    rest, query = re.fullmatch("([^?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    host = rest.partition("/")[0]
    # A password with one of /?# in it ends early for every reader but the one who wrote it. A path may begin with @.
    if re.search("[^/]@", rest):
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    elif (":" in host and "@" in query) or not re.fullmatch(r"[^:]*(:\d*)?|\[[\w:.%]*\](:\d*)?", host):
        rest = HIDDEN
    return printable(f"{scheme}{mark}{rest}" + (f"?{HIDDEN}" if query else ""))


def key_of(variable: str) -> str:
    """The key in an environment variable, "" where there is none. Raises InputError: no header can carry it."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{variable} holds characters that no header takes, expected ASCII")
    return key


class HttpClient:
    """A host and what it may be asked.

    Args:
        url: http:// or https://; a user and password in it are sent as basic authentication.
        called: what messages call the address.
        form: what messages expect after the scheme.
        key: a secret that the headers carry; no message shows it.
        headers: of every request.
        transport: instead of the network, for tests.
        sleep: instead of `time.sleep`, for tests.

    Raises:
        InputError: `url` is none.

    Attributes:
        shown: the address without secrets.
        url: as it is asked.
    """

    def __init__(
        self,
        url: str,
        called: str,
        form: str,
        key: str = "",
        headers: Mapping[str, str] | None = None,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.shown = safe_url(url)
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{called} is {self.shown!r}, expected http:// or https://")
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, UnicodeError):  # which show parts of it
            parsed = httpx2.URL()
        if not parsed.host:
            raise InputError(f"{called} is {self.shown!r}, expected {url.partition(':')[0]}://{form}")
        self.url = parsed
        self._secrets = _secrets(parsed, key)
        self._sleep = sleep
        self._reached = False  # whether anything was ever answered
        self._client = httpx2.Client(
            headers=headers, timeout=httpx2.Timeout(SILENCE, connect=CONNECT), transport=transport
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def ask(
        self, method: str, url: httpx2.URL, body: object | None, most: int, seconds: float = WHOLE
    ) -> tuple[int, bytes]:
        """Status, from 200 to 299, and body of what a request is answered with in the end.

        Timeouts, broken connections, 429 and 5xx are tried again, with growing pauses or as long as `Retry-After`
        says. Not so a host that was never reached, whose address may be wrong, and certificates.

        Args:
            body: sent as JSON, where there is one.
            most: bytes of the answer.
            seconds: in which it must be whole.

        Raises:
            RefusedError: the host refuses, or is not there.
            TooLargeError: the answer has more bytes.
            HttpError: the host fails or takes too long.
        """
        problem, pause = "", FIRST_PAUSE
        for attempt in range(RETRIES + 1):
            wait = pause
            try:
                status, headers, content = self._in_time(method, url, body, most, seconds)
                self._reached = True
                if 200 <= status < 300:
                    if len(content) > most:
                        raise TooLargeError(f"{self.shown}: the answer has more than {most:,} bytes")
                    return status, content
                problem = self.said(status, content)
                if status != 429 and status < 500:
                    raise self._refusal(status, problem, headers.get("Location") if status < 400 else None)
                wait = _seconds(headers.get("Retry-After"), pause)
            except httpx2.TransportError as error:
                problem = self.clean(f"{type(error).__name__}: {error}").rstrip(": ")
                if (tls := _tls(error)) is not None:
                    raise RefusedError(f"{self.shown}: no safe connection ({self.clean(tls)})", 0) from error
                if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout) and not self._reached:
                    raise RefusedError(f"{self.shown}: cannot be reached ({problem}); check the address", 0) from error
            except httpx2.DecodingError as error:
                raise HttpError(f"{self.shown}: the answer cannot be decompressed") from error
            if attempt < RETRIES:
                self._sleep(min(wait, LONGEST_PAUSE))
                pause *= 2
        raise HttpError(f"{self.shown}: no answer after {RETRIES + 1} attempts, the last with {problem}")

    def clean(self, text: str) -> str:
        """The beginning of foreign text, as it may be shown."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return printable(text)[:QUOTED]

    def said(self, status: int, content: bytes) -> str:
        """A status with what the body says: the message within JSON, else its beginning."""
        text = content.decode("utf-8", "replace")
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            tree = text
        while isinstance(tree, dict | list):
            named = [tree.get(name) for name in SAYING] if isinstance(tree, dict) else tree
            tree = next((one for one in named if one), None)
        return f"status {status} ({self.clean(tree if isinstance(tree, str) else text)})".removesuffix(" ()")

    def _in_time(
        self, method: str, url: httpx2.URL, body: object | None, most: int, seconds: float
    ) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and body of one answer, whole after `seconds`.

        The client's timeouts hold for each read. Only another thread can be left behind in whatever it waits for: a
        name's address, a handshake, headers that come a byte a minute.
        """
        answer: SimpleQueue[tuple[int, httpx2.Headers, bytes] | BaseException] = SimpleQueue()
        deadline = time.monotonic() + seconds
        late = HttpError(f"{self.shown}: the answer was not whole after {seconds:g} s")

        def exchange() -> tuple[int, httpx2.Headers, bytes]:
            content = bytearray()
            sent = None if body is None else json.dumps(body).encode()  # ASCII: lone surrogates too
            headers = None if body is None else {"Content-Type": "application/json"}
            with self._client.stream(method, url, content=sent, headers=headers) as response:
                wanted = most if response.is_success else ERROR_BYTES
                for chunk in response.iter_bytes():  # decompressed, at most 1 MiB at once
                    content += chunk
                    if time.monotonic() > deadline:
                        raise late
                    if len(content) > wanted:
                        break
            return response.status_code, response.headers, bytes(content)

        def run() -> None:
            try:
                answer.put(exchange())
            except BaseException as error:  # raised below, in the thread that asked
                answer.put(error)

        Thread(target=run, name="request", daemon=True).start()
        try:
            found = answer.get(timeout=seconds)
        except Empty:
            raise late from None
        if isinstance(found, BaseException):
            raise found
        return found

    def _refusal(self, status: int, problem: str, location: str | None) -> RefusedError:
        if location is not None:
            problem += f", a redirect to {self.clean(safe_url(location))}; give that address where it is trusted"
        return RefusedError(f"{self.shown}: refused with {problem}", status, problem)


def _secrets(url: httpx2.URL, key: str) -> list[str]:
    """What must not be shown, longest first, as it is and as headers, URLs and JSON spell it."""
    login, query = url.userinfo.decode(), url.query.decode()
    likely = [url.username, *(value for _, value in parse_qsl(query)), *(p.partition("=")[2] for p in query.split("&"))]
    plain = {key, login, unquote(login), url.password, *(one for one in likely if len(one) >= SECRET_LENGTH)} - {""}
    ways: list[Callable[[str], str]] = [str, quote, lambda one: quote(one, safe=""), quote_plus, _json, _in_base64]
    return sorted({way(one) for one in plain for way in ways}, key=len, reverse=True)


def _json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _tls(error: BaseException) -> str | None:
    """What TLS has against the other side, where that is why it failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}; SSL_CERT_FILE can name another authority"
        if isinstance(cause, ssl.SSLError) and isinstance(error, httpx2.ConnectError):
            return f"TLS: {cause.reason or cause}; check https:// and the port"
        cause = cause.__cause__ or cause.__context__  # httpcore cuts the chain
    return None


def _seconds(header: str | None, otherwise: float) -> float:
    """What `Retry-After` asks for, where it gives seconds: not a date, not less than 0, not NaN."""
    try:
        found = float(header or "nan")
    except ValueError:
        return otherwise
    return found if found >= 0 else otherwise
