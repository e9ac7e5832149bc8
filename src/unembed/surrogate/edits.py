"""Edits of texts, as wrong as blind candidates are: the student learns from them beside the texts themselves."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GROUP = 4  # texts of one origin: a window and edits of it
ALIKE = 40  # tokens nearest to one that may take its place
ROWS = 1024  # of the vocabulary, compared with all of it at once


class Editor:
    """Makes of a text other ones.

    Args:
        u_VH: the tokens' directions; what is near is computed on their device.
        length: most tokens of a text.
    """

    def __init__(self, u_VH: Tensor, length: int) -> None:
        self.u_VH = u_VH
        self.length = length
        self._near: dict[int, NDArray[np.int64]] = {}

    def near(self, token: int) -> NDArray[np.int64]:
        """The `ALIKE` tokens, or all others, of nearest directions to one's, the nearest first."""
        if token not in self._near:
            self._find(torch.tensor([token]))
        return self._near[token]

    def find_all(self) -> None:
        """Compute `near` of all tokens, which a GPU does at once."""
        for tokens in torch.split(torch.arange(len(self.u_VH)), ROWS):
            self._find(tokens)

    def _find(self, tokens: Tensor) -> None:
        found = (self.u_VH[tokens] @ self.u_VH.T).topk(min(ALIKE + 1, len(self.u_VH))).indices[:, 1:]
        self._near |= zip(tokens.tolist(), found.cpu().numpy(), strict=True)

    def edit(self, ids: Sequence[int], pool: NDArray[np.int64], noise: np.random.Generator) -> list[int]:
        """One to many exchanges, insertions, deletions and changes of order; new tokens mostly from the `pool`."""
        found = list(ids)
        few = noise.random() < 0.7
        count = int(noise.geometric(0.45)) if few else int(noise.integers(1, max(2, len(found) // 2 + 1)))
        for _ in range(count):
            kind, place = noise.random(), int(noise.integers(len(found)))
            if kind < 0.5:
                near = noise.random() < 0.4
                found[place] = int(noise.choice(self.near(found[place]) if near else pool))
            elif kind < 0.6 and len(found) < self.length:
                token = int(noise.choice(pool)) if noise.random() < 0.8 else int(noise.choice(found))
                found.insert(int(noise.integers(len(found) + 1)), token)
            elif kind < 0.7 and len(found) > 3:
                del found[place]
            elif kind < 0.95:
                size = min(int(noise.geometric(0.5)), len(found) - 1)
                first = int(noise.integers(len(found) - size + 1))
                taken, rest = found[first : first + size], found[:first] + found[first + size :]
                place = int(noise.integers(len(rest) + 1))
                found = rest[:place] + taken + rest[place:]
            else:
                size = min(int(noise.integers(2, 9)), len(found))
                first = int(noise.integers(len(found) - size + 1))
                found[first : first + size] = noise.permutation(found[first : first + size]).tolist()
        return found

    def groups(self, originals: Sequence[list[int]], noise: np.random.Generator) -> Iterator[list[int]]:
        """Each text followed by edits of it or of those edits: `GROUP` texts together."""
        pool = np.concatenate(originals)
        for original in originals:
            group = [original]
            while len(group) < GROUP:
                group.append(self.edit(group[int(noise.integers(len(group)))], pool, noise))
            yield from group
