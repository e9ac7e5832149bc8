"""The inverters that are served, by name, loaded once and warm."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unembed.alignment.aligner import FILE as ALIGNER
from unembed.decoding.options import STRATEGIES, Decoding
from unembed.denoiser.model import count_parameters
from unembed.encoders.recipes import aliases
from unembed.errors import InputError
from unembed.inverter import Inverter
from unembed.server.http_errors import Fault
from unembed.server.pace import Pace, Rate
from unembed.storage.packaged_inverters import DEFAULT, PACKAGED

# What the published demo's page sends, and a part of the encoder's id that the name means.
PUBLISHED = {"qwen3": "qwen3", "gemma": "gemma"}
WARM = 16  # canvases of a pass that warms up


@dataclass(frozen=True)
class Served:
    """One inverter under the name it is asked for by."""

    id: str
    inverter: Inverter
    created: int

    @cached_property
    def pieces(self) -> list[str]:
        """The display piece of each token id; nothing for what stands behind a text's end."""
        tokenizer = self.inverter.tokenizer
        ends = (tokenizer.eos_id, tokenizer.pad_id)
        return ["" if i in ends else tokenizer.token(i) for i in range(tokenizer.vocab_size)]

    @cached_property
    def parameters(self) -> int:
        """Parameters of the denoiser without its token table."""
        return count_parameters(self.inverter.denoiser)

    @property
    def guided(self) -> bool:
        """Whether there can be a search."""
        return self.inverter.surrogate is not None

    def warm(self) -> Rate:
        """Make the first request as quick as the next: load the encoder, run each kind of work once.

        Returns the rate of passes.
        """
        e_BD, rate = self.inverter.encode(["Every kind of work is done once."]), Rate()
        self.inverter.invert(e_BD, steps=1)
        for _ in range(2):
            started = time.perf_counter()
            self.inverter.invert(np.repeat(e_BD, WARM, axis=0), steps=1, measure_cosine=False)
            rate.add(time.perf_counter() - started, WARM)
        if self.guided:
            next(self.inverter.search(e_BD[0]))
        len(self.pieces)
        return rate


class Models:
    """All served inverters, the default first."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.all = list(served)
        self.pace = Pace()  # of those that are warm
        names = [one.id.lower() for one in self.all]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two models are called {name!r}, name them apart with --model NAME=MODEL")

    @property
    def default(self) -> Served:
        """The model of a request that names none."""
        return self.all[0]

    @property
    def ids(self) -> list[str]:
        """Names in order."""
        return [one.id for one in self.all]

    def find(self, name: str | None) -> Served:
        """The model of that name, or of the encoder that has the name. Raises Fault 404."""
        if name is None:
            return self.default
        wanted = name.lower()
        for one in self.all:
            if wanted in (one.id.lower(), *map(str.lower, aliases(one.inverter.recipe.encoder))):
                return one
        shown = name if len(name) <= 80 else name[:80] + "..."
        raise Fault(404, "unknown_model", f"model {shown!r} is not served here, expected one of {', '.join(self.ids)}")

    def find_published(self, name: str | None) -> Served:
        """As `find`; the names that the published page sends mean a model of that encoder, or else the default."""
        try:
            return self.find(name)
        except Fault:
            part = PUBLISHED.get((name or "").lower())
            if part is None:
                raise
            fitting = [one for one in self.all if part in one.inverter.recipe.encoder.lower()]
            return fitting[0] if fitting else self.default


def load_models(
    names: Sequence[str], device: str, warm: bool = True, precision: str = "float32", encoders: Sequence[str] = ()
) -> Models:
    """Load inverters; without names the packaged one.

    Args:
        names: what `Inverter.from_pretrained` takes, or an aligner's folder, for the packaged inverter; or `NAME=` and
            that.
        precision: as there.
        encoders: that may be loaded although only a model names them.

    Raises:
        CheckpointError: there is no such inverter, or it is damaged.
        EncoderError: its encoder cannot be loaded.
        InputError: two have the same name, or there is no such precision.
    """
    served = []
    for given in names or [DEFAULT]:
        name, found, place = given.partition("=")
        source = place if found else given
        is_aligner = (Path(source) / ALIGNER).is_file()
        inverter = Inverter.from_pretrained(
            None if is_aligner else source, device, precision=precision, aligner=source if is_aligner else None
        )
        inverter.encoder_named = inverter.recipe.encoder in encoders
        served.append(Served(name if found else _name(source), inverter, int(time.time())))
    models = Models(served)
    if warm:
        for one in models.all:
            models.pace.passes[one.id] = one.warm()
    return models


def _name(source: str) -> str:
    """A model's name where none was given: a packaged name as it is, else the last part of a path or id."""
    return source if source in PACKAGED else Path(source).resolve().stem if Path(source).exists() else source


def describe(one: Served, default: bool, limits: dict[str, float]) -> dict[str, Any]:
    """The entry of a model in `GET /v1/models`."""
    inverter, default_decoding = one.inverter, Decoding()
    steering = default_decoding.steering if inverter.surrogate is not None and inverter.surrogate.steers else 0.0
    return {
        "id": one.id,
        "object": "model",
        "created": one.created,
        "owned_by": "unembed",
        "encoder": inverter.recipe.encoder,
        "dimension": inverter.recipe.dimension,
        "length": inverter.length,
        "normalize": inverter.recipe.normalize,
        "parameters": one.parameters,
        "strategies": list(STRATEGIES),
        "guided": one.guided,
        "default": default,
        "defaults": {
            "steps": min(default_decoding.steps, inverter.length),
            "strategy": default_decoding.strategy,
            "candidates": default_decoding.candidates,
            "steering": steering,
        },
        "limits": {"steps": inverter.length} | limits,
        "results": inverter.results,
    }
