"""Who may ask: hosts, origins, rate; and the headers that every answer carries.

A page of another origin can make a browser send requests here, to a server on the visitor's own machine too. So a
request that names an origin must come from this server's own, or from one allowed by name, compared as a whole; and
the host it asks for must be one of ours, which stops names that an attacker points at 127.0.0.1 (DNS rebinding).
"""

import ipaddress
import time
from collections.abc import Mapping

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unembed.errors import ConfigError
from unembed.server.api_docs import STYLE_HASH
from unembed.server.http_errors import Fault, fault_of, response
from unembed.server.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
FREE = ("GET", "HEAD", "OPTIONS")  # without a rate, but for /metrics
METHODS = "GET, HEAD, POST, OPTIONS"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
REFERENCE_POLICY = (
    f"default-src 'none'; style-src '{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Gate:
    """ASGI middleware: refuses strangers, answers preflights, limits each client's rate, adds the headers."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._origins = {_origin(origin) for origin in settings.allow_origin}
        self._hosts = _hosts(settings)
        self._limit = RateLimitItemPerMinute(settings.rate_limit) if settings.rate_limit else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        extra = dict(HEADERS)
        extra["Content-Security-Policy"] = REFERENCE_POLICY if scope["path"] == "/docs" else POLICY
        foreign = origin is not None and origin != f"{scope['scheme']}://{headers.get('host', '')}"
        if foreign and origin in self._origins:
            extra |= {
                "Access-Control-Allow-Origin": str(origin),
                "Access-Control-Expose-Headers": "Retry-After, X-Unembed-Model",
            }
        if self._origins:
            extra["Vary"] = "Origin"

        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                found = MutableHeaders(scope=message)
                for name, value in extra.items():
                    found.setdefault(name, value)
                found.setdefault("Cache-Control", "no-store")
            await send(message)

        app = self._answer(scope, headers, foreign) or self.app
        try:
            await app(scope, receive, send_with_headers)
        except Exception as error:  # caught here, so that even this answer has the headers and keeps its connection
            if started:
                raise
            await response(scope["path"], fault_of(error))(scope, receive, send_with_headers)

    def _answer(self, scope: Scope, headers: Headers, foreign: bool) -> Response | None:
        """The answer to a request that goes no further."""
        path, host = scope["path"], headers.get("host", "")
        if self._hosts is not None and _without_port(host) not in self._hosts:
            text = f"this server does not answer to the host {host[:80]!r}; --allow-host names further ones"
            return response(path, Fault(421, "unknown_host", text))
        if foreign and headers["origin"] not in self._origins:
            return response(path, Fault(403, "forbidden_origin", "pages of other origins may not call this server"))
        if foreign and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            allowed = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": "600"}
            allowed["Access-Control-Allow-Headers"] = "content-type, last-event-id, authorization"
            return Response(status_code=204, headers=allowed)
        if self._limit is not None and (scope["method"] not in FREE or path == "/metrics"):
            client = client_of(scope)
            if not self._limiter.hit(self._limit, client):
                reset = self._limiter.get_window_stats(self._limit, client).reset_time
                after = max(1, round(reset - time.time() + 0.5))
                text = f"more than {self._limit.amount} requests in a minute, try again in {after} s"
                return response(path, Fault(429, "rate_limited", text, after))
        return None


def client_of(scope: Mapping[str, object]) -> str:
    """Who a client is: its address; of an IPv6 address the network, of which each customer has a whole one."""
    client = scope.get("client")
    name = str(client[0]) if isinstance(client, tuple | list) else "unknown"
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else name


def _hosts(settings: Settings) -> set[str] | None:
    """Host names to answer to; None is any, for a server that listens on every address and says nothing more."""
    if settings.host in ("0.0.0.0", "::") and not settings.allow_host:
        return None
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {name.lower() for name in (*LOOPBACK, own, *settings.allow_host)}


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _origin(origin: str) -> str:
    """An allowed origin, checked: scheme://host[:port], nothing behind it. Raises ConfigError."""
    scheme, separator, rest = origin.partition("://")
    if scheme not in ("http", "https") or not separator or not rest or any(c in rest for c in "/*?#@ "):
        raise ConfigError(f"--allow-origin is {origin!r}, expected an origin such as https://example.org")
    return origin.lower()
