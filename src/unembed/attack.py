"""Searches by attacker: from what they begin, who judges them, and what came back.

The blind attacker's search is judged by the surrogate alone, in the encoder's place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unembed.errors import InputError
from unembed.guidance import Guide
from unembed.inversion import Inversion
from unembed.model import Denoiser
from unembed.refill import Floats
from unembed.rounds import load_rounds, save_rounds
from unembed.search import ATTACKERS, BLACK_BOX, BLIND, STARTS, WHITE_BOX, Answering, Hypothesis, Search
from unembed.surrogate import Surrogate
from unembed.tokenizer import Tokenizer

# How a search goes that the surrogate judges: it errs, so language counts for more.
BLINDLY: dict[str, Any] = {"attacker": BLIND, "max_calls": None, "prior": 0.004}


def plan(
    wanted: Search,
    attacker: str | None,
    candidates: int,
    surrogate: Surrogate | None,
    has_gradients: Callable[[], bool],
) -> Search | None:
    """How to search, or None for a blind inversion without rounds. Raises InputError.

    Args:
        wanted: the search that was asked for, but for its attacker.
        attacker: None to be chosen: blind without rounds, else by what the encoder gives.
        has_gradients: whether the encoder gives them; asked only where the attacker is not named.
    """
    if candidates < 1:
        raise InputError(f"candidates is {candidates}, expected at least 1")
    wanted.check()
    if attacker not in (None, *ATTACKERS):
        raise InputError(f"attacker is {attacker!r}, expected one of {', '.join(ATTACKERS)}")
    if attacker == BLIND or (attacker is None and wanted.rounds == 0):
        if wanted.max_calls is not None:
            raise InputError(f"max_calls is {wanted.max_calls}, but a blind inversion makes no encoder calls")
        if not wanted.rounds:
            return None
        if surrogate is None:
            raise InputError(
                f"rounds is {wanted.rounds}, but this inverter has no surrogate to judge a blind search: expected 0"
            )
        named = BLINDLY
    else:
        named = {"attacker": attacker or (WHITE_BOX if has_gradients() else BLACK_BOX)}
    return replace(wanted, beam=max(wanted.beam, candidates), **named)


def count_starts(search: Search | None, candidates: int) -> int:
    """Blind candidates per embedding: those asked for, or some for a search to begin with."""
    if search is None:
        return candidates
    starts = candidates if candidates > 1 else STARTS
    return starts if search.max_calls is None else min(starts, search.max_calls)


def attack(
    denoiser: Denoiser,
    tokenizer: Tokenizer,
    surrogate: Surrogate | None,
    encoder: Answering,
    e_BD: Floats,
    blind: Sequence[Inversion],
    search: Search,
    candidates: int,
    first_row: int,
    kept: Path | None = None,
) -> Iterator[list[Inversion]]:
    """What a search from blind candidates has found for each embedding (B, D), first of all and after each round.

    Args:
        encoder: who is asked; for a blind attacker an `Imitation`, whose cosines are not told.
        candidates: how many texts to give for each embedding.
        kept: file for the rounds, from which the same search goes on.
    """
    starts = [[candidate.text for candidate in one.candidates or [one]] for one in blind]
    guide = Guide(denoiser, tokenizer, encoder, e_BD, starts, search, first_row, surrogate)
    if kept is not None:
        load_rounds(kept, guide)
    for rows in guide.run():
        if kept is not None:
            save_rounds(kept, guide)
        found = []
        for row, one in zip(rows, blind, strict=True):
            passes = one.passes + row.passes
            several = [_inversion(tokenizer, h, denoiser.config.max_tokens, passes) for h in row.beam[:candidates]]
            several = several or [replace(one, candidates=[])]  # where no start held a word
            if search.attacker == BLIND:
                several = [replace(each, cosine=None) for each in several]
            else:
                several = [replace(each, encoder_calls=row.calls) for each in several]
            found.append(replace(several[0], candidates=several if candidates > 1 else []))
        yield found


def _inversion(tokenizer: Tokenizer, found: Hypothesis, length: int, passes: int) -> Inversion:
    return Inversion(
        text=found.text,
        tokens=[tokenizer.token(i) for i in found.ids],
        confidence=(1 - found.doubts).tolist(),
        ids=tokenizer.canvas(found.ids, length),
        score=found.score,
        passes=passes,
        encoder_calls=0,
        cosine=found.cosine,
    )
