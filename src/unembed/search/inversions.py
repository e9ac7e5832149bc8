"""Searches as inversions: what a search has reached, told as `Inversion`, and several searches side by side."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import torch

from unembed.decoding.inversion import Inversion
from unembed.search.journal import load_search, save_search
from unembed.search.loop import Hypothesis, Searcher


def inversions(searcher: Searcher, journal: Path | None = None) -> Iterator[Inversion]:
    """The best so far of a search, after its blind candidates and after each round.

    Args:
        journal: file from which the same search goes on, and to which each round is written.

    Raises:
        InputError: the journal is damaged.
    """
    if journal is not None:
        load_search(journal, searcher)
    for state in searcher.run():
        if journal is not None:
            save_search(journal, searcher)
        several = [_inversion(searcher, found) for found in state.found[: searcher.candidates]]
        yield replace(several[0], candidates=several if searcher.candidates > 1 else [])


def side_by_side(search: Callable[[int], Iterator[Inversion]], rows: Sequence[int], most: int) -> Iterator[Inversion]:
    """What searches end with, in the order of `rows`, at most so many at a time, each on one of torch's threads."""
    stopped, threads = Event(), torch.get_num_threads()

    def last(row: int) -> Inversion:
        for reached in search(row):
            best = reached
            if stopped.is_set():
                break
        return best

    workers = min(most, len(rows))
    if workers <= 1:
        yield from map(last, rows)
        return
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(last, rows)
        finally:  # interrupted: the searches that run end after their rounds, the others do not begin
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)


def _inversion(searcher: Searcher, found: Hypothesis) -> Inversion:
    tokenizer = searcher.tokenizer
    return Inversion(
        text=tokenizer.decode(found.ids),
        tokens=[tokenizer.token(i) for i in found.ids],
        confidence=searcher.confidence(found),
        ids=tokenizer.canvas(found.ids, searcher.length),
        score=found.cosine,
        passes=searcher.passes,
        encoder_calls=searcher.asking.calls,
        cosine=found.cosine,
        seconds=searcher.asking.seconds,
    )
