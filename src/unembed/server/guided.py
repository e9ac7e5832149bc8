"""Guided inversion on the server: the rounds of `Inverter.search`, each a piece of work of its own.

A round asks the denoiser and the encoder by itself, so nothing of it is merged with other requests' passes; between two
rounds these go on (see `batching`).
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from unembed.decoding.inversion import Inversion
from unembed.server.work import Ended, Need, Pause, Recovered, Round

SHARE = 0.9  # of the time that a request has left that its searches may take
LEAST = 0.01  # seconds of a search whose time is over before it begins: it tells its blind candidates


@dataclass(frozen=True)
class Reached:
    """The best of a search after a round; round 0 are its blind candidates."""

    step: int
    progress: float  # 0 to 1, by what may be spent
    several: list[Inversion]  # candidates, best first
    changed: list[list[bool]]  # of each candidate's tokens: not taken over from its predecessor of the round before


@dataclass(frozen=True)
class Limits:
    """What a request's searches may spend on each embedding, and when all of them must be over."""

    seconds: float
    max_calls: int | None
    deadline: float  # by the monotonic clock

    def share(self, left: int, longest: float) -> float:
        """Seconds for the next search, with so many embeddings left; its last round, begun in time, comes on top."""
        return max(LEAST, min(self.seconds, SHARE * (self.deadline - time.monotonic()) / left - longest))


def search(
    begin: Callable[[int, float], Iterator[Inversion]],
    rows: int,
    limits: Limits,
    watch: Callable[[Reached], None] | None = None,
) -> Generator[Need, Inversion | Ended, list[Recovered]]:
    """Search for the texts of embeddings, one after the other.

    Args:
        begin: the search for a row's text, from the row and its seconds.
        rows: embeddings.
        watch: told of every round.
    """
    found = []
    longest = 0.0  # seconds of a round so far, other requests' turns included
    for row in range(rows):
        seconds = limits.share(rows - row, longest)
        rounds = begin(row, seconds)
        best: Inversion | None = None
        step = -1
        while best is None or time.monotonic() + longest < limits.deadline:
            spent = best.seconds or 0.0 if best else 0.0
            left = max(0.0, seconds - spent) + (rows - row - 1) * limits.seconds
            started = time.monotonic()
            if isinstance(reached := (yield Round(rounds, best, left)), Ended):
                break
            longest = max(longest, time.monotonic() - started)
            step += 1
            if watch is not None:
                progress = _progress(reached, seconds, limits.max_calls)
                watch(Reached(step, progress, _several(reached), _changes(best, reached)))
            best = reached
            yield Pause()
        assert best is not None  # a search tells of its blind candidates at least
        several = _several(best)
        found.append(Recovered(several, [None] * len(several), best.passes, step))
    return found


def _progress(reached: Inversion, seconds: float, max_calls: int | None) -> float:
    shares = [(reached.seconds or 0.0) / seconds, reached.encoder_calls / max_calls if max_calls else 0.0]
    return min(1.0, max(shares))


def _several(inversion: Inversion) -> list[Inversion]:
    return inversion.candidates or [inversion]


def _changes(before: Inversion | None, after: Inversion) -> list[list[bool]]:
    """What is new of each candidate's tokens; nothing where there is nothing to compare with."""
    predecessors = [] if before is None else [one.tokens for one in _several(before)]
    found = []
    for place, one in enumerate(_several(after)):
        changed = [place < len(predecessors)] * len(one.tokens)
        if place < len(predecessors):
            for block in SequenceMatcher(None, predecessors[place], one.tokens, autojunk=False).get_matching_blocks():
                changed[block.b : block.b + block.size] = [False] * block.size
        found.append(changed)
    return found
