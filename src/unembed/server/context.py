"""What every endpoint needs: the settings, the models, the batcher, and the work that several of them ask for."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from starlette.requests import Request

from unembed.decoding.options import Decoding
from unembed.server.batching import Batcher
from unembed.server.gate import client_of
from unembed.server.inputs import TextInputs, read_texts
from unembed.server.models import Models, Served
from unembed.server.pace import Cost
from unembed.server.settings import Settings
from unembed.server.work import FRAME, Embedded, embed


@dataclass(frozen=True)
class Context:
    """One server's parts."""

    settings: Settings
    models: Models
    batcher: Batcher
    # Texts are tokenised one request at a time, and each client has one at most that waits for it.
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    readers: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def embedded(
        self, request: Request, served: Served, texts: Any, skip_bad: bool = False
    ) -> tuple[TextInputs, Embedded]:
        """The texts of a request, checked, and the embeddings of the good ones. Raises Fault, InputError."""
        settings, client = self.settings, client_of(request.scope)
        turn = self.readers.setdefault(client, asyncio.Lock())
        async with turn, self.reading:
            found = await asyncio.to_thread(read_texts, texts, served, settings.max_texts, settings.max_text, skip_bad)
        good, ids = list(found.texts.values()), list(found.ids.values())
        if not good:
            return found, Embedded(np.empty((0, served.inverter.recipe.dimension), np.float32), [])
        cost = Cost(tokens=sum(len(row) + FRAME for row in ids))
        with self.batcher.submit(served, 1, lambda _: embed(good, ids), cost, client) as ticket:
            return found, await ticket.result()


def blind_cost(served: Served, embeddings: int, decoding: Decoding, cosine: bool = True) -> Cost:
    """What blind inversion takes."""
    texts = embeddings * decoding.candidates
    guided = 2 if decoding.guidance else 1
    return Cost(texts * decoding.steps * guided, texts * (served.inverter.length + FRAME) if cosine else 0)
