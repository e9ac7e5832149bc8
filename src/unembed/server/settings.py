"""Settings of the server: each field is an option of `unembed serve` and an environment variable.

Kept free of imports beyond the standard library, since the command line reads the fields to build its options.
"""

from dataclasses import dataclass, field
from typing import Any

ENVIRONMENT = "UNEMBED_"  # max_batch is --max-batch and UNEMBED_MAX_BATCH


def _setting(default: Any, doc: str, least: float | None = None) -> Any:
    return field(default=default, metadata={"doc": doc, "least": least})


@dataclass(frozen=True)
class Settings:
    """How to serve. Fields with a tuple are options that may be repeated."""

    host: str = _setting("127.0.0.1", "Address to listen on; 0.0.0.0 is every one of this machine.")
    port: int = _setting(8080, "Port to listen on; 0 takes a free one.", 0)
    model: tuple[str, ...] = _setting(
        (),
        "Inverter to serve: packaged name, folder, .pt file, Hub id or aligner, or NAME=ONE OF THESE; first: default.",
    )
    encoder: tuple[str, ...] = _setting((), "Encoder that a model may have loaded although it is not known by name.")
    device: str = _setting("auto", "cpu, cuda, cuda:N, mps; auto is cuda where there is one.")
    precision: str = _setting(
        "float32",
        "Of passes: float32, or bfloat16, faster where the processor has it; it changes a token here and there.",
    )
    threads: int = _setting(0, "CPU threads of a pass; 0 leaves it to torch.", 0)
    max_batch: int = _setting(32, "Canvases in one merged pass.", 1)
    max_waiting: int = _setting(128, "Requests that may wait; further ones get 503.", 0)
    rate_limit: int = _setting(300, "Requests that one client may make in a minute; 0 is no limit.", 0)
    time_limit: float = _setting(180.0, "Seconds that a request may take, waiting included.", 0.1)
    body_seconds: float = _setting(10.0, "Seconds in which a request's body must have arrived.", 0.1)
    max_body: int = _setting(4 * 2**20, "Bytes of a request's body.", 1)
    max_text: int = _setting(10_000, "Characters of a text.", 1)
    max_texts: int = _setting(64, "Texts to embed in one request.", 1)
    max_embeddings: int = _setting(64, "Embeddings to invert in one request.", 1)
    max_candidates: int = _setting(8, "Candidates for each embedding.", 1)
    max_seconds: float = _setting(60.0, "Seconds of a guided inversion for each embedding; 0 allows none.", 0.0)
    allow_origin: tuple[str, ...] = _setting(
        (), "Origin whose pages may call this server besides its own, such as https://example.org."
    )
    allow_host: tuple[str, ...] = _setting(
        (), "Host name to answer to besides this machine's loopback names, such as the one that a proxy passes on."
    )
    trusted_proxy: tuple[str, ...] = _setting(
        (), "Address of a proxy whose X-Forwarded-For and X-Forwarded-Proto are believed."
    )
    drain_seconds: float = _setting(
        10.0, "Seconds that running requests get to finish when the server is stopped.", 0.0
    )
    access_log: bool = _setting(False, "Write a line to standard error for each request; never its text or embedding.")
