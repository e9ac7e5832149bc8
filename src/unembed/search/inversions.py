"""Searches as inversions: what a search has reached, as `Inversion`.

A search multiplies matrices with NumPy and with torch by turns, so NumPy has one thread meanwhile (`denoiser.threads`).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unembed.decoding.inversion import Inversion
from unembed.denoiser.threads import one_numpy_thread
from unembed.search.journal import load_search, save_search
from unembed.search.loop import Searcher
from unembed.search.state import Hypothesis


def inversions(searcher: Searcher, journal: Path | None = None) -> Iterator[Inversion]:
    """The best so far of a search, after its blind candidates and after each round.

    Args:
        journal: file from which the same search goes on, and to which each round is written.

    Raises:
        InputError: the journal is damaged.
    """
    if journal is not None:
        load_search(journal, searcher)
    states = searcher.run()
    while True:
        with one_numpy_thread():
            state = next(states, None)
        if state is None:
            return
        if journal is not None:
            save_search(journal, searcher)
        several = [_inversion(searcher, found) for found in state.found[: searcher.decoding.candidates]]
        yield replace(several[0], candidates=several if searcher.decoding.candidates > 1 else [])


def _inversion(searcher: Searcher, found: Hypothesis) -> Inversion:
    tokenizer = searcher.tokenizer
    return Inversion(
        text=tokenizer.decode(found.ids),
        tokens=[tokenizer.token(i) for i in found.ids],
        confidence=searcher.confidence(found),
        ids=tokenizer.canvas(found.ids, searcher.length),
        score=found.cosine,
        passes=searcher.passes,
        encoder_calls=searcher.encoder.calls,
        cosine=found.cosine,
        seconds=searcher.encoder.seconds,
    )
