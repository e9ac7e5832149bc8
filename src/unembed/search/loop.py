"""The search: propose, screen, ask, keep.

A hypothesis is a text of which the encoder's embedding is known. Each round the best hypothesis, and the best that was
not changed yet, are changed in every small way (`changes`); at times the denoiser writes parts of them anew
(`denoising`). A forecast
(`forecast`) that has learned from all answers so far says which of these thousands of texts are worth asking about; of
what the answers say of single changes, the best combinations are asked about as well (`composition`). A search whose
pool brings nothing better begins again from other blind candidates. It ends at the very text, or when its calls or its
time are spent.

The fast lane of a local encoder may be wrong in the fourth digit. So what is reported, and what ends the search, is
the encoder's own float32 cosine of the decoded text: the nearest hypotheses are confirmed each round.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from unembed.model import Denoiser
from unembed.search.asking import Asking
from unembed.search.changes import Changes
from unembed.search.composition import Change, compose, rewritten
from unembed.search.denoising import Conditioned
from unembed.search.forecast import Answers, Forecast
from unembed.search.options import EXACT, Search
from unembed.surrogate import Surrogate
from unembed.tokenizer import Tokenizer

FRUITLESS = 10  # rounds without a new text after which there is none to be expected
CONFIRMED = 4  # hypotheses that are confirmed in a round, at most

Ids = tuple[int, ...]
Floats = NDArray[np.float32]


@dataclass
class Hypothesis:
    """A text whose embedding is known."""

    ids: Ids
    e_hat: Floats  # (D,) of length 1
    cosine: float
    confirmed: bool = False  # whether the cosine is the encoder's own, in float32
    changed: bool = False  # whether its changes were proposed already
    nats: Floats | None = None  # (T,) log-likelihood of its tokens, once it was changed
    proposals: dict[str, dict[Ids, Change]] | None = None  # its small changes by kind, once they were listed
    confidence: list[float] | None = None  # of each token, once it was asked for


@dataclass
class State:
    """A search as far as it has come."""

    noise: np.random.Generator
    pool: list[Hypothesis] = field(default_factory=list)  # nearest first
    found: list[Hypothesis] = field(default_factory=list)  # confirmed, nearest first, of all pools
    seen: set[int] = field(default_factory=set)  # hashes of token rows that were asked about, or lead to such
    answers: Answers = field(default_factory=Answers)
    rounds: int = 0
    idle: int = 0  # rounds since the pool's best was found
    begun: int = 0  # times that the search began

    @property
    def exact(self) -> bool:
        """Whether the very text was found."""
        return bool(self.found) and self.found[0].cosine >= EXACT


class Searcher:
    """The search for one embedding's text.

    Args:
        e_D: the embedding (D,).
        begin: blind candidates and the passes that they took, from the number of times that the search has begun and
            how many are wanted.
        candidates: texts that are wanted in the end.
        row: number of the embedding, which decides the random numbers.
        begun_by: says how blind candidates are made, so that a journal of another way is not continued.

    Raises:
        EncoderError: the encoder fails, or answers with something else than one finite vector (D,) per text.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        tokenizer: Tokenizer,
        surrogate: Surrogate,
        asking: Asking,
        e_D: Floats,
        begin: Callable[[int, int], tuple[Sequence[Ids], int]],
        search: Search,
        candidates: int = 1,
        row: int = 0,
        begun_by: str = "",
    ) -> None:
        self.tokenizer = tokenizer
        self.surrogate = surrogate
        self.asking = asking
        self.e_D: Floats = (e_D / np.linalg.norm(e_D)).astype(np.float32)
        self.begin = begin
        self.search = search
        self.candidates = candidates
        self.row = row
        self.begun_by = begun_by
        self.length = denoiser.config.max_tokens
        self.special = set(tokenizer.special_ids)
        self.denoiser = Conditioned(denoiser, tokenizer, self.e_D)
        self.state = State(np.random.default_rng([search.seed, row]))

    @property
    def passes(self) -> int:
        """Passes of the denoiser so far, those of the blind candidates included."""
        return self.denoiser.passes

    def confidence(self, found: Hypothesis) -> list[float]:
        """The probability of each token of a hypothesis, all others in sight."""
        if found.confidence is None:
            found.confidence = self.denoiser.confidence(found.ids, found.e_hat)
        return found.confidence

    def run(self) -> Iterator[State]:
        """The state after the blind candidates were asked about, and after each round."""
        state, tuning = self.state, self.search.tuning
        if not state.begun:
            self._begin()
        yield state
        fruitless = 0
        while not state.exact and self.asking.left > 0 and fruitless < FRUITLESS:
            calls = self.asking.calls
            if state.idle < tuning.patience and state.pool:
                self._round(self._parents())
            else:
                self._begin()
            fruitless = 0 if self.asking.calls > calls else fruitless + 1
            state.rounds += 1
            yield state

    def _round(self, parents: Sequence[Hypothesis]) -> None:
        tuning, frugal = self.search.tuning, self.search.frugal
        asked = (tuning.frugal_asked if frugal else tuning.asked) // len(parents)
        composed = (tuning.frugal_composed if frugal else tuning.composed) // len(parents)
        best = self.state.pool[0]
        proposals = self._propose(parents)
        forecast = Forecast(self.surrogate, self.state.answers, self.e_D, [(p.ids, p.e_hat) for p in parents])
        chosen = [self._screen(forecast, parent, mine, asked) for parent, mine in zip(parents, proposals, strict=True)]
        answers = self._ask([ids for mine in chosen for ids in mine])
        texts: list[Ids] = []
        for parent, mine in zip(parents, chosen, strict=True):
            measured = [(change, answers[ids]) for ids, change in mine.items() if ids in answers]
            joined = compose(parent.e_hat, measured, self.e_D, 2 * composed)
            new = dict.fromkeys(change.of(parent.ids) for change in joined)
            texts += [ids for ids in new if hash(ids) not in self.state.seen][:composed]
            parent.changed = True
        self._ask(texts)
        self.state.idle = 0 if self.state.pool[0] is not best else self.state.idle + 1
        self._confirm()

    def _parents(self) -> list[Hypothesis]:
        """The hypotheses to change next: the best one, again and again, and the best that were not changed yet."""
        ranked = self.state.pool
        best, others = ranked[0], [hypothesis for hypothesis in ranked[1:] if not hypothesis.changed]
        return [best, *others][: self.search.tuning.parents]

    def _begin(self) -> None:
        """Ask about blind candidates, whose pool takes the place of the one so far."""
        state, before = self.state, self.state.pool
        state.pool, state.idle = [], 0
        starts = min(self.search.tuning.starts, self.search.max_calls or self.search.tuning.starts)
        candidates, passes = self.begin(state.begun, starts)
        self.denoiser.passes += passes
        texts = [ids for ids in candidates if ids]
        # There may be none: empty ones, and ones that are too long once they are tokenised again.
        if not self._ask(texts) and not before:
            self._ask(self._words(starts))
        state.pool = state.pool or before
        state.begun += 1
        self._confirm()

    def _words(self, count: int) -> list[Ids]:
        """Texts of one token, the nearest by the surrogate: where no blind candidate has a token."""
        y_VD = self.surrogate.x_VD + self.surrogate.fitted.bias.numpy()
        promised_V = y_VD @ self.e_D / np.linalg.norm(y_VD, axis=1).clip(min=1e-6)
        promised_V[~self.tokenizer.starts_word[: len(promised_V)]] = -np.inf
        return [(int(token),) for token in np.argsort(-promised_V, kind="stable")[:count]]

    def _propose(self, parents: Sequence[Hypothesis]) -> list[dict[str, dict[Ids, Change]]]:
        """Changes of each parent and the texts that they lead to, by kind: small ones, listed once, and new refills."""
        tuning = self.search.tuning
        if new := [parent for parent in parents if parent.proposals is None]:
            judged = self.denoiser.likelihoods([parent.ids for parent in new], [parent.e_hat for parent in new])
            for parent, (gains_TV, nats_T) in zip(new, judged, strict=True):
                # Random numbers of its own, so that a search that goes on lists the same changes.
                own = np.random.default_rng([self.search.seed, self.row, *parent.ids])
                changes = Changes(
                    self.surrogate, parent.ids, parent.e_hat, self.e_D, gains_TV, nats_T, self.length, tuning.nat, own
                )
                by_kind = {
                    "exchanges": changes.exchanges(),
                    "insertions": changes.insertions(),
                    "deletions": changes.deletions(),
                    "orders": changes.orders(),
                }
                parent.nats = nats_T
                parent.proposals = {
                    kind: {change.of(parent.ids): change for change in several} for kind, several in by_kind.items()
                }
        refills = self._refills(parents) if self.state.rounds % tuning.refill_every == 0 else [{} for _ in parents]
        return [mine | (parent.proposals or {}) for parent, mine in zip(parents, refills, strict=True)]

    def _refills(self, parents: Sequence[Hypothesis]) -> list[dict[str, dict[Ids, Change]]]:
        """Parts of each parent written anew by the denoiser."""
        tuning, noise = self.search.tuning, self.state.noise
        count = max(1, tuning.drafts // len(parents))
        drafts = [
            draft
            for parent in parents
            if parent.nats is not None
            for draft in self.denoiser.drafts(parent.ids, parent.nats, count, noise)
        ]
        e_hats = [parent.e_hat for parent in parents for _ in range(count)]
        texts = iter(self.denoiser.refill(drafts, e_hats, tuning.temperature, tuning.refill_steps, noise))
        return [{"refills": {ids: rewritten(parent.ids, ids) for ids in islice(texts, count)}} for parent in parents]

    def _screen(
        self, forecast: Forecast, parent: Hypothesis, proposals: dict[str, dict[Ids, Change]], count: int
    ) -> dict[Ids, Change]:
        """The most promising of each kind that were not asked about: the texts, and what was done to the parent."""
        chosen: dict[Ids, Change] = {}
        for kind, texts in proposals.items():
            new = [ids for ids in texts if ids and hash(ids) not in self.state.seen]
            if new:
                promised = forecast.cosines(new, parent.ids)
                most = max(1, round(count * getattr(self.search.tuning, kind)))
                chosen |= {new[i]: texts[new[i]] for i in np.argsort(-promised, kind="stable")[:most]}
        return chosen

    def _ask(self, rows: Sequence[Ids]) -> dict[Ids, Floats]:
        """Embed what is new of some texts, learn from the answers, and put them into the pool; the answers by text.

        A text is what it tokenises to once it is decoded: that is what the encoder sees.
        """
        state = self.state
        texts = [self.tokenizer.decode(ids) for ids in rows]
        read = [tuple(ids) for ids in self.tokenizer.encode_batch(texts)]
        new = [ids for ids in dict.fromkeys(read) if 0 < len(ids) <= self.length and hash(ids) not in state.seen]
        new = [ids for ids in new if not set(ids) & self.special]  # an unknown token is lost when it is decoded
        e_ND = self.asking.embed(new)
        new = new[: len(e_ND)]
        state.seen.update(map(hash, rows))
        state.seen.update(map(hash, new))
        if not new:
            return {}
        state.answers.take(new, e_ND)
        found = [Hypothesis(ids, e, float(e @ self.e_D)) for ids, e in zip(new, e_ND, strict=True)]
        state.pool = sorted([*state.pool, *found], key=lambda h: -h.cosine)[: self.search.tuning.pool]
        return dict(zip(new, e_ND, strict=True))

    def _confirm(self) -> None:
        """Ask the encoder itself about the nearest hypotheses, where the fast lane may be wrong about them."""
        state = self.state
        worst = state.found[self.candidates - 1 :][:1]  # of those that are wanted
        least = worst[0].cosine - self.asking.error if worst else -1.0
        near = [h for h in state.pool[: max(CONFIRMED, self.candidates)] if not h.confirmed and h.cosine >= least]
        if near and self.asking.error:
            for hypothesis, e in zip(near, self.asking.exact([h.ids for h in near]), strict=True):
                hypothesis.e_hat, hypothesis.cosine = e, float(e @ self.e_D)
        for hypothesis in near:
            hypothesis.confirmed = True
        known = {h.ids: h for h in [*state.found, *near]}
        state.found = sorted(known.values(), key=lambda h: -h.cosine)[: max(CONFIRMED, self.candidates)]
