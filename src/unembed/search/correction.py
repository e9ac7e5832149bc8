"""Correction by steps: the encoder tells what a text lacks, one pass of the denoiser makes of it the next text.

This is how Vec2Text spends its calls (arXiv 2310.06816, section 3.2), with a denoiser that takes feedback as the
corrector: the plain way to turn encoder calls into a better text, to which the search of `loop` is to be compared.
Training makes hypotheses by the same pass (`unembed.objective.feedback`).

Shape suffixes as in denoiser/model.py; P: texts.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from unembed.decoding.guesses import Guesser, ended
from unembed.decoding.inversion import EXACT
from unembed.denoiser.model import Denoiser
from unembed.encoders.tokenizer import Tokenizer
from unembed.search.encoder_calls import EncoderCalls, as_read
from unembed.search.state import Floats, Hypothesis, Ids

TRIES = 2  # revisions of each hypothesis in a pass, of which one is asked about where it is new
FRUITLESS = 8  # passes without a new text after which there is none to be expected


class Corrector:
    """Corrects texts towards one embedding.

    Args:
        e_D: the embedding (D,).
        beam: texts that are asked about in a step, and kept for the next.
        seed: decides everything that is random.

    Attributes:
        passes: of the denoiser so far, one for each text.
    """

    def __init__(
        self, denoiser: Denoiser, tokenizer: Tokenizer, encoder: EncoderCalls, e_D: Floats, beam: int = 1, seed: int = 0
    ) -> None:
        self.denoiser = denoiser
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.e_D: Floats = (e_D / np.linalg.norm(e_D)).astype(np.float32)
        self.beam = beam
        self.length = denoiser.config.max_tokens
        self.guesser = Guesser(denoiser, torch.Generator().manual_seed(seed))
        self.passes = 0
        self._seen: set[Ids] = set()

    def run(self, starts: Sequence[Ids]) -> Iterator[list[Hypothesis]]:
        """The beam, nearest first, after the starts were asked about and after each step.

        It ends at the very text, where no call is left, or where the denoiser has nothing new to say.

        Raises:
            EncoderError: the encoder fails.
        """
        beam: list[Hypothesis] = []
        asked = self._new(starts)
        while asked:
            e_PD = self.encoder.embed(asked)
            self._seen.update(asked)
            found = [Hypothesis(ids, e, float(e @ self.e_D)) for ids, e in zip(asked, e_PD, strict=False)]
            beam = sorted([*beam, *found], key=lambda h: -h.cosine)[: self.beam]
            yield beam
            if self.encoder.left <= 0 or beam[0].cosine >= EXACT:
                return
            further = (self._new(self.revisions(beam)) for _ in range(FRUITLESS))
            asked = next(filter(None, further), [])

    @torch.inference_mode()
    def revisions(self, several: Sequence[Hypothesis], tries: int = TRIES) -> list[Ids]:
        """Texts that one pass makes of hypotheses, by turns of each.

        The first try takes the likeliest token everywhere; others are drawn at a temperature, where there is doubt.
        """
        device = self.denoiser.output_bias.device
        rows = [hypothesis for hypothesis in several for _ in range(tries)]
        ids_PL = torch.tensor(
            [self.tokenizer.canvas(hypothesis.ids, self.length) for hypothesis in rows], device=device
        )
        e_hat_PD = torch.from_numpy(np.stack([hypothesis.e_hat for hypothesis in rows])).to(device)
        e_PD = torch.from_numpy(self.e_D).to(device).expand(len(rows), -1)
        first_P1 = (torch.arange(len(rows), device=device) % tries == 0)[:, None]
        drawn_P1 = torch.rand(len(rows), 1, generator=self.guesser.generator).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.denoiser.precision != torch.float32):
            revised_PL = self.guesser.revised(
                ids_PL,
                self.denoiser.condition(e_PD, hypothesis_BD=e_hat_PD),
                torch.where(first_P1, 0.0, drawn_P1),
                torch.where(first_P1, 2.0, drawn_P1),  # no probability is above 1
            )
        self.passes += len(rows)
        texts = [tuple(self.tokenizer.content(ids)) for ids in ended(revised_PL, self.denoiser.end_ids)[0].tolist()]
        of_each = [texts[start : start + tries] for start in range(0, len(texts), tries)]
        return list(chain.from_iterable(zip(*of_each, strict=True)))

    def _new(self, rows: Sequence[Ids]) -> list[Ids]:
        """The first of some texts that were not asked about, as many as the beam has."""
        fit = as_read(self.tokenizer, rows, self.length)
        return [ids for ids in fit if ids not in self._seen][: self.beam]
