"""What a guided search may do, and what it knows: its options, the attackers, hypotheses, and the rows of a batch.

Three attackers, by what they may ask:

    blind       nothing: it has the embedding alone. Its search is judged by the surrogate in the encoder's place
    black box   the embedding of any text: each is an encoder call
    white box   also the encoder's weights, hence the gradient of the cosine by each input token, which bends refills
                towards tokens that would raise it (first-order estimate of HotFlip, arXiv 1712.06751); a gradient
                counts as one call

Shape suffixes as in guidance.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unembed.edits import Choices
from unembed.errors import InputError
from unembed.forecast import Answers
from unembed.refill import Floats
from unembed.strategies import STEERING

BLIND, BLACK_BOX, WHITE_BOX = ATTACKERS = ("blind", "black-box", "white-box")
STARTS = 8  # blind candidates to start from, where no other number is asked for
EXACT = 1 - 1e-6  # cosine from which a text is the very one: float noise is 2e-7, the next text ten thousand times that


@runtime_checkable
class Differentiable(Protocol):
    """What a white box offers beside `Encoder`."""

    @property
    def token_table(self) -> Tensor:
        """Input vectors (V, h) of the vocabulary."""
        ...

    def cosine_gradient(self, ids: Tensor, lengths: Tensor, e: Tensor) -> Tensor:
        """See `TransformerEncoder.cosine_gradient`."""
        ...


class Answering(Protocol):
    """What a search asks: an encoder, or for a blind one a surrogate that imitates it."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embeddings (n, D) of texts."""
        ...


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        rounds: most rounds per embedding.
        attacker: "blind", "black-box" or "white-box".
        max_calls: most encoder calls per embedding, those of the starts included; None for no limit but the rounds.
        proposals: texts embedded per round and embedding, at most. What goes beyond the drafts is edits, which cost
            no pass: for an encoder whose calls cost little.
        drafts: texts made per round and embedding; where more than `proposals`, those are embedded of which the
            forecast promises most, or without a surrogate the likeliest. Saves encoder calls and costs passes.
        spare: edits beside the drafts, of which the surrogate's student chooses; fewer of what is far. They cost no
            pass.
        beam: hypotheses kept.
        temperature: of the refills.
        pull: what a refill's logits gain at most per unit of cosine that the gradient promises; each draft draws its
            own share of it, since the promise is of first order and sometimes wrong.
        steering: how strongly a refill is steered at most, by the surrogate; each draft by the same share of it.
        prior: what a hypothesis gains per nat of the denoiser's log-likelihood, in units of cosine.
        seed: decides everything that is random.
    """

    rounds: int = 20
    attacker: str = WHITE_BOX
    max_calls: int | None = None
    proposals: int = 16
    drafts: int = 28
    spare: int = 36
    beam: int = 4
    temperature: float = 0.7
    pull: float = 200.0
    steering: float = STEERING
    prior: float = 0.001
    seed: int = 0

    def check(self) -> None:
        """Raise InputError where an option is impossible."""
        if self.rounds < 0:
            raise InputError(f"rounds is {self.rounds}, expected 0 or more")
        if self.attacker not in ATTACKERS:
            raise InputError(f"attacker is {self.attacker!r}, expected one of {', '.join(ATTACKERS)}")
        if self.proposals < 1:
            raise InputError(f"proposals is {self.proposals}, expected at least 1")
        if self.max_calls is not None and self.max_calls < 1:
            raise InputError(f"max_calls is {self.max_calls}, expected at least 1")


@dataclass(frozen=True)
class Hypothesis:
    """A text that was embedded."""

    text: str
    ids: tuple[int, ...]  # content tokens, as the text tokenises
    cosine: float
    doubts: NDArray[np.float64]  # of each token: 1 - its probability, all others given
    score: float  # what the beam is ranked by
    e_hat: Floats  # (D,) the text's embedding
    choices: Choices | None = None  # other tokens at each position, where there is a surrogate


@dataclass
class Row:
    """The search for one embedding's text, as far as it has come."""

    e: Floats  # (D,)
    noise: np.random.Generator
    beam: list[Hypothesis] = field(default_factory=list)  # best first
    calls: int = 0  # texts and gradients asked for; encoder calls unless the attacker is blind
    passes: int = 0
    rounds: int = 0
    idle: int = 0  # rounds since a new text was embedded
    seen: set[str] = field(default_factory=set)
    gradients: dict[str, Tensor] = field(default_factory=dict)  # of the beam's texts, each (tokens, h)
    answers: Answers = field(default_factory=Answers)

    @property
    def exact(self) -> bool:
        """Whether the very text is found."""
        return bool(self.beam) and self.beam[0].cosine >= EXACT

    def left(self, search: Search) -> int:
        """Encoder calls that may still be made."""
        return search.proposals if search.max_calls is None else search.max_calls - self.calls
