"""Edits: random changes of whole batches of texts, as index operations, for the hypotheses of training (`feedback`).

An edit says of every place of a text from which place its token comes, and whether a mask stands there instead. So any
number of them is one gather of the tokens, and no text is looked at by itself.

Shape suffixes as in denoiser/model.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unembed.decoding.guesses import laid_out
from unembed.decoding.strategies import is_end
from unembed.objective.diffusion import uniform

NOTHING, SWAP, MOVE, INSERTION, DELETION, EXCHANGE = range(6)
MOST = 4  # edits of a text; each has one at least
EXCHANGES = 4  # for each edit of another kind
NEARNESS = 3  # power of a uniform number that gives the distance between two places: an eighth of it is the median


def edited(
    canvas_BL: Tensor, mask_id: int, end_ids: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Texts after one to `MOST` random edits, with masks where a token was exchanged or put in.

    Returns:
        seen_BL: the canvases, of a token at least.
        barred_BL: what is not to be put where a mask stands, or the edit would be none: the token that stood there, or
            behind it.
    """
    (batch, length), device = canvas_BL.shape, canvas_BL.device
    place_L = torch.arange(length, device=device)
    count_B1 = (~is_end(canvas_BL, end_ids)).sum(1, keepdim=True)
    edits_B1 = 1 + (MOST * uniform((batch, 1), generator, device)).long()
    source_BL = place_L.expand(batch, length)
    masked_BL = torch.zeros_like(canvas_BL, dtype=torch.bool)
    for edit in range(MOST):
        kind_B1 = (SWAP + (EXCHANGES + 4) * uniform((batch, 1), generator, device)).long().clamp(max=EXCHANGE)
        kind_B1 = torch.where((kind_B1 == DELETION) & (count_B1 == 1), EXCHANGE, kind_B1)
        kind_B1 = torch.where(edit < edits_B1, kind_B1, NOTHING)
        inserted_B1, deleted_B1 = kind_B1 == INSERTION, kind_B1 == DELETION
        one_B1, two_B1, three_B1 = uniform((3, batch, 1), generator, device)
        first_B1 = (one_B1 * (count_B1 + inserted_B1)).long()
        second_B1 = (first_B1 + 1 + (two_B1.pow(NEARNESS) * count_B1).long()) % count_B1
        from_BL = sources(kind_B1, first_B1, second_B1, (three_B1 * count_B1).long(), length)
        opened_BL = (place_L == first_B1) & (inserted_B1 | (kind_B1 == EXCHANGE))
        source_BL, masked_BL = source_BL.gather(1, from_BL), masked_BL.gather(1, from_BL) | opened_BL
        count_B1 = (count_B1 + inserted_B1.long() - deleted_B1.long()).clamp(max=length)
    barred_BL = canvas_BL.gather(1, source_BL)
    return laid_out(barred_BL.masked_fill(masked_BL, mask_id), count_B1.squeeze(1), end_ids), barred_BL


def sources(kind_B1: Tensor, first_B1: Tensor, second_B1: Tensor, turn_B1: Tensor, length: int) -> Tensor:
    """Places (B, L) from which the tokens of a text come after one edit.

    `SWAP` exchanges the tokens at `first` and `second`; `MOVE` turns what lies from one to the other, both included, by
    `turn` places to the left, which exchanges two neighbouring blocks; `INSERTION` makes room at `first`; `DELETION`
    drops what stands there; the others leave the order as it is.
    """
    place_L = torch.arange(length, device=kind_B1.device)
    low_B1, high_B1 = torch.minimum(first_B1, second_B1), torch.maximum(first_B1, second_B1)
    turned_BL = low_B1 + (place_L - low_B1 + turn_B1) % (high_B1 - low_B1 + 1)
    several = {
        SWAP: torch.where(place_L == first_B1, second_B1, torch.where(place_L == second_B1, first_B1, place_L)),
        MOVE: torch.where((low_B1 <= place_L) & (place_L <= high_B1), turned_BL, place_L),
        INSERTION: place_L - (place_L > first_B1).long(),
        DELETION: (place_L + (place_L >= first_B1).long()).clamp(max=length - 1),
    }
    from_BL = place_L.expand(len(kind_B1), length)
    for kind, found_BL in several.items():
        from_BL = torch.where(kind_B1 == kind, found_BL, from_BL)
    return from_BL
