"""A server that speaks docs/server.md with canned answers, slow, busy or broken as a test wants it.

It knows every text that it embedded: an embedding is inverted by finding the nearest of them, and the further away that
is, the more of its tokens come back wrong. So the page can be shown mid-stream and with good results in no time.
"""

import json
import random
import re
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import numpy as np

from unembed.alignment.linear import normalised
from unembed.audit.stored_forms import chosen

WEB = files("unembed") / "server" / "web"
LENGTH, DIMENSION = 32, 384
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
EASY = "The library opens at nine and closes when the last reader goes home."
FILLER = ["the", "office", "and", "when", "it", "closed"]
ROUNDS = 10  # of a search, until it has the text
HARD = "Dr. Okafor moved Mrs. Lindqvist's biopsy to 14 March; her insurer, Helvetia, refused the second transfusion."
MODEL = {
    "object": "model",
    "created": 1760000000,
    "owned_by": "unembed",
    "dimension": DIMENSION,
    "length": LENGTH,
    "normalize": True,
    "parameters": 24_300_000,
    "strategies": ["confidence", "sequential", "euler", "remask", "two-stage", "threshold"],
    "guided": True,
    "defaults": {"steps": 8, "strategy": "confidence", "candidates": 1, "steering": 100.0},
    "limits": {
        "steps": 32,
        "candidates": 8,
        "embeddings": 64,
        "alternatives": 10,
        "seconds": 60,
        "text_characters": 10000,
    },
}
RESULTS = {"evaluation": {"n": 1000, "tokens": 32, "token_accuracy": 0.412, "exact_match": 0.031, "cosine": 0.79}}


@dataclass
class Mood:
    """How the server behaves; tests change it."""

    hold_at: int | None = None  # keep this frame and those behind it back until it is None
    hold_round: int | None = None  # the same of rounds
    break_after: list[int] = field(default_factory=list)  # end the next streams behind that many of them
    busy: int = 0  # answer that many inversions with 503
    error: str = ""  # answer inversions with this message
    fail_after: int | None = None  # end searches behind that round with an error
    wrong_share: float | None = None  # of tokens; by the similarity to a known text where None
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies of inversions


class FakeServer(ThreadingHTTPServer):
    """On a free port of the loopback interface."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.known: dict[str, np.ndarray] = {}
        self.mood = Mood()
        self.models = [
            MODEL | {"id": "all-MiniLM-L6-v2", "encoder": "all-MiniLM-L6-v2", "default": True, "results": RESULTS},
            MODEL | {"id": "other", "encoder": "other", "default": False, "results": {}},
        ]

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def start(self) -> None:
        """Serve in a thread of its own."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def embed(self, text: str, dimension: int) -> np.ndarray:
        """The same vector (dimension,) for the same text."""
        vector = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(dimension)
        self.known[text] = vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        return vector

    def recover(self, vector: np.ndarray, seed: int, exact: bool = False) -> list[str]:
        """Pieces of the nearest text, unless `exact` the more of them wrong the further away it is."""
        similar = {text: float(known @ vector) for text, known in self.known.items() if len(known) == len(vector)}
        text = max(similar, key=lambda key: similar[key], default="nothing is known yet")
        share = self.mood.wrong_share
        share = min(1.0, 0.12 + 1.1 * (1 - similar.get(text, 0.0))) if share is None else share
        share = 0.0 if exact else share
        rng = random.Random(seed)
        found = [rng.choice(["system", "river", "later", "of"]) if rng.random() < share else p for p in pieces(text)]
        if share and len(found) > 5:
            found[3], found[4] = found[4], found[3]
        return found[:LENGTH]


def pieces(text: str) -> list[str]:
    """Lower-case words and marks, long words in two; what is beyond 16 bits is unknown."""
    words = re.findall(r"\w+|[^\w\s]", re.sub("[\U00010000-\U0010ffff]", " \uffff ", text.lower()))
    words = ["[UNK]" if word == "\uffff" else word for word in words]
    return [p for w in words for p in ([w[:6], "##" + w[6:]] if len(w) > 8 else [w])]


def number(piece: str) -> int:
    """A token id."""
    return 1000 + zlib.crc32(piece.encode()) % 20000


def frames(texts: list[list[str]], length: int, steps: int) -> Iterator[dict[str, Any]]:
    """Frame 0 and one a pass, each revealing its share of the positions in a random order."""
    rng = random.Random(1)
    order = rng.sample(range(length), length)
    sure = [rng.uniform(0.35, 1.0) for _ in range(length)]
    for step in range(steps + 1):
        visible, before = (set(order[: length * n // steps]) for n in (step, max(0, step - 1)))
        yield {
            "type": "frame", "step": step, "total": steps, "progress": step / steps, "done": False,
            "candidates": [
                {"text": sentence([p for i, p in enumerate(text) if i in visible]), "passes": step,
                 "tokens": [token(text, i, i in visible, i in before, sure[i], step) for i in range(length)]}
                for text in texts
            ],
        }  # fmt: skip


def rounds(texts: list[list[str]], length: int, limit: float) -> Iterator[dict[str, Any]]:
    """The blind candidates and some rounds, each of which puts right its share of the words; now and then none."""
    before = [texts[0][:0]] * len(texts)
    for step in range(ROUNDS + 1):
        reached = [[p if i * ROUNDS < len(text) * (step - step % 3) + 3 or step == ROUNDS else FILLER[i % len(FILLER)]
                    for i, p in enumerate(text)] for text in texts]  # fmt: skip
        cosine = 1.0 if step == ROUNDS else round(0.97 - 0.45 * (1 - (step - step % 3) / ROUNDS) ** 2, 4)
        yield {
            "type": "round", "step": step, "total": None, "progress": (0.2 + 0.3 * step) / limit, "done": False,
            "seconds": round(0.2 + 0.3 * step, 1), "passes": 72 + 28 * step, "encoder_calls": 8 + 170 * step,
            "cosine": cosine,
            "candidates": [
                {"text": sentence(text), "cosine": cosine, "tokens": [judged(text, old, i) for i in range(length)]}
                for text, old in zip(reached, before, strict=True)
            ],
        }  # fmt: skip
        before = reached


def judged(text: list[str], before: list[str], i: int) -> dict[str, Any]:
    """One position of a round."""
    if i >= len(text):
        return {"t": "", "s": "u", "id": 102, "p": None, "end": True}
    changed = bool(before) and text[i] != before[i]
    return {"t": text[i], "s": "c" if changed else "u", "id": number(text[i]), "p": round(0.2 + 0.6 * (i % 4) / 3, 3)}


def token(text: list[str], i: int, visible: bool, before: bool, sure: float, step: int) -> dict[str, Any]:
    """One position of a frame."""
    piece = text[i] if i < len(text) else ""
    entry: dict[str, Any] = {"t": piece if visible else "[MASK]", "s": "m", "id": 103, "p": 0.0}
    if visible:
        entry |= {"s": "u" if before else "c", "id": number(piece), "p": round(sure, 3)}
        entry |= {} if piece else {"end": True}
    if step:
        others = [(piece, sure), ("river", (1 - sure) * 0.6), ("the", (1 - sure) * 0.3), ("of", (1 - sure) * 0.1)]
        entry["alternatives"] = [{"t": t, "id": number(t), "p": round(p, 4)} for t, p in others]
    return entry


def sentence(tokens: list[str]) -> str:
    """Pieces as running text."""
    return re.sub(r" ([^\w\s#])", r"\1", " ".join(tokens).replace(" ##", ""))


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: FakeServer

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        """The page, its files, and what is asked without a body."""
        path, _, query = self.path.partition("?")
        if path == "/" or path.startswith("/static/"):
            file = WEB / (path.removeprefix("/static/") if path != "/" else "index.html")
            self.reply(file.read_bytes(), TYPES[file.name.rpartition(".")[2]])
        elif path == "/v1/models":
            self.json({"object": "list", "data": self.server.models})
        elif path == "/random":
            self.json({"text": HARD if "hard=true" in query else EASY})
        elif path == "/queue":
            self.json({"active": 1, "waiting": 0})
        else:
            self.json({"error": "there is no such path"}, 404)

    def do_POST(self) -> None:
        """Embeddings, what is kept of them, and inversions."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/embeddings":
            dimension = next(m["dimension"] for m in self.server.models if m["id"] == body["model"])
            vector, tokens = self.server.embed(body["input"], dimension), pieces(body["input"])
            entry = {"index": 0, "embedding": vector.tolist(), "tokens": tokens, "ids": [number(t) for t in tokens]}
            self.json({"object": "list", "data": [entry], "model": body["model"]})
        elif self.path == "/v1/defences":
            vector = np.array([body["embeddings"]], np.float32)
            form = chosen(body["kind"], body.get("amount"))(vector, np.random.default_rng(0))
            kept = form.store(vector)
            (found,) = normalised(np.pad(kept, ((0, 0), (0, vector.shape[1] - kept.shape[1]))))
            entry = {"index": 0, "embedding": found.tolist(), "cosine": float(found @ vector[0])}
            self.json({"object": "list", "data": [entry], "bytes": form.bytes, "numbers": kept.shape[1]})
        else:
            self.invert(body)

    def invert(self, body: dict[str, Any]) -> None:
        """A stream of frames and a result, in the server's mood."""
        mood = self.server.mood
        mood.requests.append(body)
        if mood.error:
            self.json({"error": {"message": mood.error, "type": "invalid_request"}}, 422)
        elif mood.busy:
            mood.busy -= 1
            self.json({"error": {"message": "the queue is full", "type": "overloaded"}}, 503, {"Retry-After": "0"})
        else:
            self.stream(body, mood.break_after.pop(0) if mood.break_after else None)

    def stream(self, body: dict[str, Any], left: int | None) -> None:
        """Send events; after `left` of them the connection ends."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        vector = np.array(body["embeddings"], np.float32)
        length = next(m["length"] for m in self.server.models if m["id"] == body["model"])
        seconds = body.get("seconds")
        texts = [
            self.server.recover(vector, body["seed"] + i, exact=seconds is not None)[:length]
            for i in range(body["candidates"])
        ]
        seen = int(self.headers.get("Last-Event-ID", -1))
        for frame in rounds(texts, length, seconds) if seconds else frames(texts, length, body["steps"]):
            if frame["step"] <= seen:
                continue
            if left is not None and (left := left - 1) < 0:
                return
            while self.held(frame):
                time.sleep(0.02)
            if not self.event(frame, frame["step"]):
                return
            if seconds and frame["step"] == self.server.mood.fail_after:
                error = {"message": "the request took longer than 60 s", "type": "time_limit"}
                self.event({"type": "error", "done": True, "error": error}, frame["step"])
                return
        results = [self.result(text, vector) for text in texts]
        if seconds:
            spent = {key: frame[key] for key in ("passes", "encoder_calls", "seconds", "cosine")}
            results = [one | spent | {"rounds": ROUNDS} for one in results]
        ranked = sorted(results, key=lambda result: -result["score"])
        several = {"candidates": ranked if len(ranked) > 1 else []}
        self.event({"type": "result", "step": frame["step"], "total": frame["total"], "progress": 1.0, "done": True,
                    "model": body["model"], "result": {"index": 0} | ranked[0] | several}, frame["step"])  # fmt: skip

    def held(self, frame: dict[str, Any]) -> bool:
        """Whether the mood keeps the event back."""
        mood = self.server.mood
        at = mood.hold_round if frame["type"] == "round" else mood.hold_at
        return at is not None and frame["step"] >= at

    def result(self, text: list[str], vector: np.ndarray) -> dict[str, Any]:
        """An inversion that is done."""
        whole = sentence(text)
        cosine = max(float(known @ vector) for known in self.server.known.values() if len(known) == len(vector))
        cosine = min(cosine, 1.0) * (0.7 + 0.3 * len(set(text)) / max(1, len(text)))
        return {
            "text": whole, "cosine": cosine, "score": cosine - 1, "passes": 8, "encoder_calls": 0, "seconds": None,
            "tokens": text, "ids": [number(t) for t in text], "confidence": [0.9] * len(text),
        }  # fmt: skip

    def event(self, tree: dict[str, Any], step: int) -> bool:
        """Send one; False where the client went away."""
        try:
            self.wfile.write(f"id: {step}\ndata: {json.dumps(tree)}\n\n".encode())
            self.wfile.flush()
        except OSError:
            return False
        return True

    def json(self, tree: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> None:
        """A whole JSON answer."""
        self.reply(json.dumps(tree).encode(), "application/json", status, headers)

    def reply(self, body: bytes, kind: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(status)
        always = {"Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": CSP}
        for name, value in (always | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
