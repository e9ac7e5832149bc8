"""An inverter that takes another encoder's vectors, through an aligner.

Everything outside speaks of the other encoder: the recipe, the cosines, what a search asks. Inside, the denoiser sees
mapped vectors. Its passes are steered by a bag of tokens in the other space, which knows the vector itself.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unembed.alignment.aligner import Aligner
from unembed.alignment.local import LocalMap
from unembed.config import Recipe
from unembed.decoding.inversion import Inversion
from unembed.decoding.options import Decoding
from unembed.encoders.checks import check_recipe
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.encoders.fast_batches import FastEncoder
from unembed.errors import RecipeError
from unembed.inverter.inverter import Inverter
from unembed.search.encoder_calls import fast_lane
from unembed.search.options import Search
from unembed.storage.checkpoint import Parts
from unembed.surrogate.bag import Surrogate


class AlignedInverter(Inverter):
    """An inverter with an aligner.

    Args:
        encoder: the other encoder, whose vectors it takes.
        own: the encoder that the inverter was trained for, which a search asks too. Both are loaded when they are
            needed, where they are not given.

    Raises:
        RecipeError: the aligner is for another inverter, or `encoder` is not its source.
    """

    def __init__(
        self, parts: Parts, aligner: Aligner, encoder: Encoder | None = None, own: Encoder | None = None
    ) -> None:
        self.aligner: Aligner = aligner
        self._own = own
        check_recipe(aligner.target, parts.config.encoder)
        if aligner.words is not None and len(aligner.words.code) != parts.denoiser.table.num_embeddings:
            raise RecipeError("the aligner's words are of another vocabulary than this inverter's")
        # A calibration and figures are of the inverter's own encoder's vectors.
        results = {"aligner": dict(aligner.about)}
        super().__init__(parts._replace(calibration=None, results=results), encoder)
        self._map: Aligner | LocalMap = aligner

    @property
    def recipe(self) -> Recipe:
        """The recipe of the encoder whose vectors it takes."""
        return self.aligner.source

    def asking(self, encoder: Encoder) -> Inverter:
        """As `Inverter.asking`."""
        return AlignedInverter(self.parts, self.aligner, encoder, self._own)

    def inner(self, e_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (B, S) mapped into the space of the denoiser, (B, D)."""
        return self._map(e_BD)

    def _search(self, e_1D: Tensor, decoding: Decoding, search: Search, row: int) -> Iterator[Inversion]:
        """As the inverter's own, with a map of its own, which is mended by the answers."""
        assert self.outer_surrogate is not None  # made before there are copies, for all of them
        local, x_S = copy.copy(self), e_1D[0].cpu().numpy()
        local._map = found = LocalMap(self.aligner, x_S / np.linalg.norm(x_S), self._embedded)
        local._learn = found.learn
        return super(AlignedInverter, local)._search(e_1D, decoding, search, row)

    def _embedded(self, rows: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
        """Embeddings (n, D) of rows of ids by the encoder that the inverter was trained for."""
        if self._own_lane is not None:
            return self._own_lane.embed(rows)
        assert self._own is not None
        return self._own.encode([self.tokenizer.decode(row) for row in rows])

    @cached_property
    def _own_lane(self) -> FastEncoder | None:
        if self._own is None:
            self._own = load_encoder(self.aligner.target, self.device, named=False)
        return fast_lane(self._own, self.tokenizer)

    @cached_property
    def outer_surrogate(self) -> Surrogate | None:
        if self.surrogate is None:
            return None
        return Surrogate(self.denoiser.table.weight, self.aligner.surrogate(self.surrogate.fitted))
