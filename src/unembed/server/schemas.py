"""Shapes on the wire: what requests may hold, and how frames and inversions are written.

Unusual here: embeddings and texts are not validated entry by entry but by `inputs`, with the same check as everywhere
else, so that its messages are the same too; the schema of such a field is written by hand.
"""

import base64
import dataclasses
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from unembed.decoding.inversion import Inversion
from unembed.decoding.options import Decoding
from unembed.search.options import Options, Search
from unembed.server.guided import Reached
from unembed.server.models import Served
from unembed.server.work import Alternatives, Recovered, Snapshot

MAX_ALTERNATIVES = 10
PUBLISHED_STEPS = 32  # the published demo's default, which its page always sends

_VECTOR = {"type": "array", "items": {"type": "number"}, "minItems": 1}
_BASE64 = {"type": "string", "minLength": 1, "description": "base64 of little-endian float32, one embedding"}
_TEXT = {"type": "string", "minLength": 1}

Vector = Annotated[Any, WithJsonSchema(_VECTOR)]
Vectors = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                _VECTOR,
                {"type": "array", "items": _VECTOR, "minItems": 1},
                _BASE64,
                {"type": "array", "items": _BASE64, "minItems": 1},
            ]
        }
    ),
]
Texts = Annotated[Any, WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]})]
SkipBad = Annotated[bool, Field(description="Leave out what cannot be read; its entry says why.")]
DOC = {one.name: one.metadata.get("doc", "") for kind in (Decoding, Search) for one in dataclasses.fields(kind)}
Seed = Annotated[int, Field(ge=0, le=2**53, description=DOC["seed"])]
Steps = Annotated[int, Field(ge=1, description=DOC["steps"])]
Guidance = Annotated[float, Field(ge=-1, le=100, description=DOC["guidance"])]
Balance = Annotated[float, Field(ge=0, le=100, description=DOC["balance"])]
Steering = Annotated[float, Field(ge=0, le=10_000, description=DOC["steering"])]
Temperature = Annotated[float | None, Field(ge=0, le=100, description=DOC["temperature"])]


class Request(BaseModel):
    """A body: no conversions between types, no NaN or infinity."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class EncodeRequest(Request):
    """A text to embed."""

    text: str
    model: str | None = None


class EncodeResponse(BaseModel):
    """Its embedding."""

    embedding: list[float]
    text: str


class DecodeRequest(Request):
    """An embedding to invert."""

    embedding: Vector
    steps: Steps = PUBLISHED_STEPS
    model: str | None = None
    strategy: str = Decoding.strategy
    guidance: Guidance = Decoding.guidance
    balance: Balance = Decoding.balance
    steering: Steering = Decoding.steering
    temperature: Temperature = None
    seed: Seed = Decoding.seed

    def options(self, length: int) -> Options:
        """Those of the inversion, for a canvas of `length` positions; the published page asks for 32 steps anyway."""
        steps = min(self.steps, length) if self.steps == PUBLISHED_STEPS else self.steps
        return {**_options(self), "steps": steps}


class TextResponse(BaseModel):
    """A sentence."""

    text: str


class Queue(BaseModel):
    """Requests being worked on, and those that wait."""

    active: int
    waiting: int


class Health(BaseModel):
    """Whether the server can work, and on what."""

    status: str
    device: str
    models: list[str]
    queue: Queue


class InvertRequest(Request):
    """Embeddings to invert, and how."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    embeddings: Vectors
    model: str | None = None
    steps: Steps = Decoding.steps
    strategy: str = Decoding.strategy
    candidates: int = Field(Decoding.candidates, ge=1, description=DOC["candidates"])
    guidance: Guidance = Decoding.guidance
    balance: Balance = Decoding.balance
    steering: Steering = Decoding.steering
    temperature: Temperature = None
    seed: Seed = Decoding.seed
    encoder: str | None = Field(None, description="What made the embeddings; refused if the model is for another one.")
    normalize: bool = Field(False, description="Scale embeddings to length 1 first.")
    skip_bad: SkipBad = False
    cosine: bool = Field(True, description="Embed each recovered text and report its cosine.")
    alternatives: int = Field(0, ge=0, le=MAX_ALTERNATIVES, description="Likeliest tokens to report for each position.")
    seconds: float | None = Field(None, gt=0, description=DOC["seconds"])
    max_calls: int | None = Field(None, ge=1, description=DOC["max_calls"])
    stream: bool = Field(
        False, description="Answer with server-sent events, one for each pass or round; for one embedding."
    )

    @property
    def options(self) -> Options:
        """Those of the inversion."""
        return _options(self)


class EmbeddingsRequest(Request):
    """Texts to embed, in OpenAI's shape."""

    input: Texts
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="Refused if the model's embeddings have another number.")
    skip_bad: SkipBad = False
    include_tokens: bool = Field(False, description="Also report each text's content tokens.")


def _options(body: BaseModel) -> Options:
    found: Any = {name: value for name, value in body if name in Options.__annotations__}
    return cast(Options, found)


def to_base64(vector: NDArray[np.float32]) -> str:
    """One embedding as OpenAI writes it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def decode_event(served: Served, frame: Snapshot) -> dict[str, Any]:
    """The event of `/decode` after a pass."""
    states = _states(served, frame, 0)
    masked = states.count("m")
    return {
        "step": frame.step - 1,
        "total": frame.total,
        "tokens": [{"t": served.pieces[i], "s": s} for i, s in zip(frame.ids[0], states, strict=True)],
        "text": served.inverter.tokenizer.decode(frame.ids[0]),
        "progress": 1 - masked / len(states),
    }


def decode_end(served: Served, inversion: Inversion, total: int) -> dict[str, Any]:
    """The last event of `/decode`."""
    return {
        "step": total,
        "total": total,
        "tokens": [{"t": served.pieces[i], "s": "u"} for i in inversion.ids],
        "text": inversion.text,
        "progress": 1.0,
        "cosine_similarity": _rounded(inversion.cosine),
        "done": True,
    }


def frame_event(served: Served, frame: Snapshot) -> dict[str, Any]:
    """The event of `/v1/invert` after a pass, all candidates."""
    return {
        "type": "frame",
        "step": frame.step,
        "total": frame.total,
        "progress": frame.step / frame.total,
        "done": False,
        "candidates": [_candidate_frame(served, frame, row) for row in range(len(frame.ids))],
    }


def round_event(served: Served, reached: Reached) -> dict[str, Any]:
    """The event of `/v1/invert` after a round of a guided inversion, all candidates, best first."""
    best = reached.several[0]
    return {
        "type": "round",
        "step": reached.step,
        "total": None,
        "progress": _rounded(reached.progress),
        "done": False,
        "seconds": _rounded(best.seconds),
        "passes": best.passes,
        "encoder_calls": best.encoder_calls,
        "cosine": _rounded(best.cosine),
        "candidates": [
            {"text": one.text, "cosine": _rounded(one.cosine), "tokens": _round_tokens(served, one, changed)}
            for one, changed in zip(reached.several, reached.changed, strict=True)
        ],
    }


def _round_tokens(served: Served, inversion: Inversion, changed: list[bool]) -> list[dict[str, Any]]:
    """As in a frame, but that nothing is known of how sure the text's end is."""
    content = [
        {"t": served.pieces[i], "s": "c" if new else "u", "id": i, "p": _rounded(p)}
        for i, new, p in zip(inversion.ids, changed, inversion.confidence, strict=False)
    ]
    return content + [{"t": "", "s": "u", "id": i, "p": None, "end": True} for i in inversion.ids[len(content) :]]


def inversion_object(served: Served, recovered: Recovered, index: int) -> dict[str, Any]:
    """What came back from one embedding, as `/v1/invert` tells it."""
    several = [
        _inversion(served, inversion, best)
        for inversion, best in zip(recovered.inversions, recovered.alternatives, strict=True)
    ]
    found = {"index": index} | several[0]
    found["passes"] = recovered.passes
    found["rounds"] = recovered.rounds
    found["candidates"] = several if len(several) > 1 else []
    return found


def _inversion(served: Served, inversion: Inversion, best: list[Alternatives] | None) -> dict[str, Any]:
    content = inversion.ids[: len(inversion.tokens)]
    found: dict[str, Any] = {
        "text": inversion.text,
        "cosine": _rounded(inversion.cosine),
        "score": _rounded(inversion.score),
        "passes": inversion.passes,
        "encoder_calls": inversion.encoder_calls,
        "seconds": _rounded(inversion.seconds),
        "tokens": inversion.tokens,
        "ids": content,
        "confidence": [_rounded(c) for c in inversion.confidence],
    }
    if best is not None:
        found["alternatives"] = [_alternatives(served, one) for one in best[: len(content)]]
    return found


def _candidate_frame(served: Served, frame: Snapshot, row: int) -> dict[str, Any]:
    tokenizer = served.inverter.tokenizer
    ids, states = frame.ids[row], _states(served, frame, row)
    ends = len(tokenizer.content(ids))
    tokens: list[dict[str, Any]] = []
    for place, (i, state) in enumerate(zip(ids, states, strict=True)):
        token: dict[str, Any] = {
            "t": served.pieces[i],
            "s": state,
            "id": i,
            "p": _rounded(frame.confidence[row][place]),
        }
        if frame.alternatives is not None and frame.alternatives[row][place]:
            token["alternatives"] = _alternatives(served, frame.alternatives[row][place])
        if place >= ends:
            token["end"] = True
        tokens.append(token)
    return {"text": tokenizer.decode(ids), "passes": frame.passes[row], "tokens": tokens}


def _states(served: Served, frame: Snapshot, row: int) -> list[str]:
    mask = served.inverter.tokenizer.mask_id
    return [
        "m" if i == mask else "c" if changed else "u"
        for i, changed in zip(frame.ids[row], frame.changed[row], strict=True)
    ]


def _alternatives(served: Served, best: Alternatives) -> list[dict[str, Any]]:
    return [{"t": served.pieces[i], "id": i, "p": _rounded(p)} for i, p in best]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
