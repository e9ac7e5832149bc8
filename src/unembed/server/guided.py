"""Guided inversion on the server: the rounds of `Inverter.search`, each a piece of work of its own.

A round asks the denoiser and the encoder by itself, so nothing of it is merged with other requests' passes; between two
rounds these go on (see `batching`).
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from unembed.inversion import Inversion
from unembed.search import STARTS
from unembed.server.work import Ended, Need, Pause, Recovered, Round

GRADIENTS = 2  # of a round, about, each an encoder call


@dataclass(frozen=True)
class Reached:
    """The best of a search after a round; round 0 are its starts."""

    step: int
    total: int
    several: list[Inversion]  # candidates, best first
    changed: list[list[bool]]  # of each candidate's tokens: not taken over from its predecessor of the round before


def search(
    searches: Sequence[Iterator[Inversion]], rounds: int, watch: Callable[[Reached], None] | None = None
) -> Generator[Need, Inversion | Ended, list[Recovered]]:
    """Follow searches of at most `rounds` rounds, one for each embedding, one after the other, to their ends.

    Args:
        watch: told of every round.
    """
    found = []
    for one in searches:
        best: Inversion | None = None
        step = -1
        while not isinstance(reached := (yield Round(one, best)), Ended):
            step += 1
            if watch is not None:
                watch(Reached(step, rounds, _several(reached), _changes(best, reached)))
            best = reached
            yield Pause()
        assert best is not None  # a search tells of its starts at least
        several = _several(best)
        found.append(Recovered(several, [None] * len(several), best.passes, step))
    return found


def cost(rounds: int, candidates: int, max_calls: int | None, proposals: int) -> int:
    """About how many encoder calls a search makes.

    In time each is worth about a pass of one canvas alone, although four or five passes go with it: in a search they
    are merged.
    """
    calls = (candidates if candidates > 1 else STARTS) + rounds * (proposals + GRADIENTS)
    return calls if max_calls is None else min(calls, max_calls)


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
