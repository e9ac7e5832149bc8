"""The denoiser's part in a guided search: it fills the masks of drafts, and says how likely a text is.

It sees the embedding, and with feedback also that of the hypothesis which a draft was made from. What it fills in is
steered (`steering`) towards what that hypothesis still lacks, and bent by gradients where the encoder gives them. Which
drafts there are and what becomes of the texts is decided in `guidance`.

Shape suffixes as in model.py; P: drafts; R: positions to fill of a batch; K: tokens considered for one; T: content
tokens.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unembed.balance import Balance
from unembed.edits import CONSIDERED, Choices
from unembed.model import Denoiser, Modulation
from unembed.moves import MASK, Draft
from unembed.predictor import Question, compute, sample
from unembed.steering import Steering
from unembed.surrogate import Surrogate
from unembed.tokenizer import Tokenizer

DRAWN_FROM = 64  # tokens K from which a masked position is drawn
REFILLS = 4  # passes in which the masks of a draft are filled, the surest first
ARRANGING = 6  # the same where words are to be put down again
COOLER = 0.5  # share of the temperature at which they are drawn, for the order is to be a good one
KEPT = 4.0  # what the logit of each such word gains, until it stands
TURN = 0.5 * (5**0.5 - 1)  # by which a pass' random numbers differ from those of the pass before
ROWS = 128  # canvases in one pass
STEP = 8  # positions by which the canvases of a pass differ: a short text's padding tells next to nothing
LEAST = 1e-6  # no token is less likely, so that one rare token does not sink a text

Floats = NDArray[np.float32]


class Blank(NamedTuple):
    """A draft to fill."""

    row: int  # whose text it is to become
    draft: Draft
    before: tuple[int, ...]  # tokens of the hypothesis that the draft was made from
    e_hat: Floats  # (D,) its embedding
    gradient: Tensor | None  # (tokens of the hypothesis, h): what a token's logit gains there per input vector
    uniform: NDArray[np.float64]  # (L,) random numbers
    taken: tuple[int, ...] = ()  # tokens that were taken up, to be put down again if they fit
    steering: float = 0.0  # strength at which its masks are steered


class Filled(NamedTuple):
    """What a draft became."""

    text: str
    passes: int


class Text(NamedTuple):
    """A text that may become a hypothesis of one row."""

    row: int
    text: str
    ids: tuple[int, ...]


class Judged(NamedTuple):
    """What one pass says of a text."""

    chances: NDArray[np.float64]  # (T + 1,) of each token and of the end; without the end where the canvas is full
    choices: Choices | None  # other tokens at each position, where asked for


class Refiller:
    """A denoiser at work on the drafts of a batch.

    Args:
        e_BD: the embeddings of the rows, (B, D).
        table_VH: the encoder's input vectors, where gradients are to be used.
        surrogate: what steers drafts, where its tokens have contributions of their own.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        tokenizer: Tokenizer,
        e_BD: Tensor,
        temperature: float,
        table_VH: Tensor | None,
        surrogate: Surrogate | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.tokenizer = tokenizer
        self.e_BD = e_BD
        self.temperature = temperature
        self.table_VH = table_VH
        self.surrogate = surrogate if surrogate is not None and surrogate.steers else None
        self.balance = Balance(0.0, denoiser.mask_id, denoiser.end_ids)
        self.length = denoiser.config.max_tokens
        self.device = denoiser.output_bias.device

    @torch.inference_mode()
    def fill(self, blanks: Sequence[Blank]) -> list[Filled]:
        """The texts of the drafts, their masks filled by sampling, in a few passes, the surest first."""
        mask_id = self.denoiser.mask_id
        rows = [[mask_id if token == MASK else token for token in blank.draft.ids] for blank in blanks]
        canvas_PL = torch.tensor([self.tokenizer.canvas(row, self.length) for row in rows], device=self.device)
        wanted_PL = canvas_PL == mask_id
        modulation = self._modulation([blank.row for blank in blanks], [blank.e_hat for blank in blanks])
        uniform_PL = torch.from_numpy(np.stack([blank.uniform for blank in blanks]))
        passes = [0] * len(blanks)
        bags = [Counter(blank.taken) for blank in blanks]  # what is still to be put down
        widths = [self._width(row) for row in rows]
        steering = self._steering(blanks)
        while len(open_P := wanted_PL.any(1).nonzero().squeeze(1)):
            for chosen, width in _batches(open_P.tolist(), widths):
                part_B = torch.tensor(chosen, device=self.device)
                canvas_BL, wanted_BL = canvas_PL[part_B, :width], wanted_PL[part_B, :width]
                (logits_RV,) = compute(self.denoiser, [Question(canvas_BL, wanted_BL, modulation.rows(part_B))])
                logits_RV = logits_RV.float()
                if steering is not None:
                    strengths = {number: blanks[number].steering for number in chosen}
                    self._steer(logits_RV, steering, strengths, canvas_BL, wanted_BL)
                tokens_R, chances_R = self._choose(
                    self._favoured(logits_RV, [bags[number] for number in chosen], wanted_BL),
                    self._gradients([blanks[number] for number in chosen], wanted_BL),
                    uniform_PL[part_B.cpu(), :width][wanted_BL.cpu()],
                    torch.tensor([COOLER if blanks[number].taken else 1.0 for number in chosen]).repeat_interleave(
                        wanted_BL.sum(1).cpu()
                    ),
                )
                counts = wanted_BL.sum(1).tolist()
                places = torch.split(wanted_BL.nonzero()[:, 1], counts)
                found = zip(chosen, places, torch.split(tokens_R, counts), torch.split(chances_R, counts), strict=True)
                for number, place_M, token_M, chance_M in found:
                    left = (ARRANGING if blanks[number].taken else REFILLS) - passes[number]
                    order_M = chance_M.argsort(descending=True, stable=True).tolist()
                    stands = _stands(token_M.tolist(), order_M, bags[number], blanks[number].taken, left)
                    place_K = place_M[stands]
                    canvas_PL[number, place_K] = token_M[stands]
                    wanted_PL[number, place_K] = False
                    # The others again, with these in sight.
                    canvas_PL[number, wanted_PL[number]] = mask_id
                    passes[number] += 1
            uniform_PL = (uniform_PL + TURN) % 1
        texts = [self.tokenizer.decode(row) for row in canvas_PL.tolist()]
        return [Filled(text, number) for text, number in zip(texts, passes, strict=True)]

    @torch.inference_mode()
    def judge(
        self, texts: Sequence[Text], e_hats: Sequence[Floats] | None = None, choices: bool = False
    ) -> list[Judged]:
        """How likely each token of some texts is, and which others would be likelier, all others in sight.

        One pass for each, blind or in sight of the texts' embeddings. The tokens are not masked for it: the denoiser
        has learned to doubt what it sees (`diffusion.corrupt_visible`).
        """
        judged: dict[int, Judged] = {}
        for numbers, width in _batches(range(len(texts)), [self._width(text.ids) for text in texts]):
            part = [texts[number] for number in numbers]
            canvas_BL = torch.tensor([self.tokenizer.canvas(text.ids, width) for text in part], device=self.device)
            ends_B1 = torch.tensor([[len(text.ids) + 1] for text in part], device=self.device)
            wanted_BL = torch.arange(width, device=self.device) < ends_B1
            known = None if e_hats is None else [e_hats[number] for number in numbers]
            modulation = self._modulation([text.row for text in part], known)
            (logits_RV,) = compute(self.denoiser, [Question(canvas_BL, wanted_BL, modulation)])
            # In its own precision and without a copy of the table: the largest tensor here by far.
            standing_R = logits_RV.gather(1, canvas_BL[wanted_BL][:, None]).squeeze(1).float()
            chances_R = (standing_R - logits_RV.logsumexp(-1).float()).exp().clamp(min=LEAST).double().cpu()
            counts = wanted_BL.sum(1).tolist()
            several = zip(
                numbers, *(torch.split(tensor, counts) for tensor in (chances_R, logits_RV, standing_R)), strict=True
            )
            for number, chances_T, logits_TV, standing_T in several:
                found = self._choices(logits_TV, standing_T, len(texts[number].ids)) if choices else None
                judged[number] = Judged(chances_T.numpy(), found)
        return [judged[number] for number in range(len(texts))]

    def _width(self, ids: Sequence[int]) -> int:
        """Positions of the canvas for a text: room for its end and some padding, so that short texts cost less."""
        return min(self.length, -(-(len(ids) + 2) // STEP) * STEP)

    def _choices(self, logits_TV: Tensor, standing_T: Tensor, count: int) -> Choices:
        """The likeliest tokens at the first `count` positions, which may be exchanged for those that stand there."""
        best = logits_TV[:count].topk(min(CONSIDERED, logits_TV.shape[1]), dim=-1)
        gains_TK = best.values.float() - standing_T[:count, None]
        for token in (*self.denoiser.end_ids, self.denoiser.mask_id):  # moves decide the length
            gains_TK = gains_TK.masked_fill(best.indices == token, -torch.inf)
        return Choices(best.indices.cpu().numpy(), gains_TK.cpu().numpy())

    def _modulation(self, rows: Sequence[int], e_hats: Sequence[Floats] | None) -> Modulation:
        """Of some rows' embeddings, with the embeddings of hypotheses where they are known."""
        e_PD = self.e_BD[list(rows)].to(self.device)
        if e_hats is None or self.denoiser.feedback is None:
            return self.denoiser.condition(e_PD)
        return self.denoiser.condition(e_PD, hypothesis_BD=torch.from_numpy(np.stack(e_hats)).to(self.device))

    def _steering(self, blanks: Sequence[Blank]) -> Steering | None:
        """What steers each of some drafts: its row's embedding, and what the hypothesis' bag lacks of its own."""
        if self.surrogate is None or not any(blank.steering for blank in blanks):
            return None
        lacking_PD = np.stack([self.surrogate.lacking(blank.before, blank.e_hat) for blank in blanks])
        e_PD = self.e_BD[[blank.row for blank in blanks]].to(self.device)
        return Steering(*self.surrogate.bag(self.device), e_PD, torch.from_numpy(lacking_PD).to(self.device))

    def _steer(
        self,
        logits_RV: Tensor,
        steering: Steering,
        strengths: Mapping[int, float],
        canvas_BL: Tensor,
        wanted_BL: Tensor,
    ) -> None:
        """Steer the wanted positions of the drafts of these numbers, whose logits these are, in place."""
        stop = 0
        for (number, strength), ids_L, wanted_L in zip(strengths.items(), canvas_BL, wanted_BL, strict=True):
            start, stop = stop, stop + int(wanted_L.sum())
            if strength:
                n_V = self.balance.visible(ids_L[~wanted_L], logits_RV.shape[1])
                masses_RV = self.balance.masses(logits_RV[start:stop])
                gain_V = steering.gains(number, masses_RV, n_V, torch.zeros_like(n_V), strength)
                logits_RV[start:stop] = self.balance.multiplied(logits_RV[start:stop], masses_RV, gain_V)

    def _favoured(self, logits_RV: Tensor, bags: Sequence[Counter[int]], wanted_BL: Tensor) -> Tensor:
        """The logits, more for what is still to be put down in a row."""
        counts = wanted_BL.sum(1).tolist()
        at: list[int] = []
        tokens: list[int] = []
        first = 0
        for bag, count in zip(bags, counts, strict=True):
            for token in bag:
                at += range(first, first + count)
                tokens += [token] * count
            first += count
        if at:
            logits_RV[at, tokens] += KEPT
        return logits_RV

    def _gradients(self, blanks: Sequence[Blank], wanted_BL: Tensor) -> Tensor | None:
        """What a wanted position's logits gain per input vector, (R, h)."""
        if self.table_VH is None:
            return None
        nothing_H = self.table_VH.new_zeros(self.table_VH.shape[1], dtype=torch.float32)
        found = []
        for blank, wanted_L in zip(blanks, wanted_BL, strict=True):
            for place in wanted_L.nonzero().squeeze(1).tolist():
                origin = blank.draft.origin[place]
                found.append(nothing_H if blank.gradient is None or origin < 0 else blank.gradient[origin])
        return torch.stack(found)

    def _choose(
        self, logits_RV: Tensor, gradients_RH: Tensor | None, uniform_R: Tensor, cooler_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A sample (R,) of the K best tokens and its chance (R,). Nothing ends a text here: moves decide the length."""
        if gradients_RH is not None and self.table_VH is not None:
            gain_RV = (gradients_RH @ self.table_VH.to(gradients_RH).T).to(logits_RV.device)[:, : logits_RV.shape[1]]
            logits_RV[:, : gain_RV.shape[1]] += gain_RV - gain_RV.mean(1, keepdim=True)
        logits_RV[:, [*self.denoiser.end_ids, self.denoiser.mask_id]] = -torch.inf
        best = logits_RV.topk(min(DRAWN_FROM, logits_RV.shape[1]), dim=-1)
        index_R1 = sample(best.values / cooler_R.to(self.device)[:, None], self.temperature, uniform_R)[:, None]
        chances_RK = best.values.softmax(-1)
        return best.indices.gather(1, index_R1).squeeze(1), chances_RK.gather(1, index_R1).squeeze(1)


def _batches(numbers: Sequence[int], widths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Numbers of texts for which there is one pass, and the width of its canvases."""
    for width in sorted(set(widths)):
        alike = [number for number in numbers if widths[number] == width]
        for start in range(0, len(alike), ROWS):
            yield alike[start : start + ROWS], width


def _stands(
    tokens: Sequence[int], order: Sequence[int], bag: Counter[int], taken: Sequence[int], left: int
) -> list[int]:
    """Which of the tokens that a pass has put down are to stay: the surest, so many that `left` passes are enough.

    Where words are put down again, each as often as there are in the `bag`, which loses it. In the last pass all stay.
    """
    kept: list[int] = []
    for number in order:
        if len(kept) * left >= len(tokens):
            break
        token = tokens[number]
        if token in taken:
            if not bag[token] and left > 1:
                continue
            bag[token] -= 1
            if bag[token] <= 0:
                del bag[token]
        kept.append(number)
    return kept
