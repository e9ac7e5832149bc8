"""The search: propose, screen, ask, compose, judge.

A hypothesis is a text of which the encoder's embedding is known. Each round one of them, by turns the best and the
nearest that was not changed yet, is changed in every small way (`changes`), by what the denoiser makes of it
(`likelihoods`). A forecast (`gaussian_process`) that has learned from all answers so far says which of these thousand
texts are worth asking about, by turns with the order in which they are listed. What the answers say of single changes,
and the forecast of others, tells which combinations of them are (`composition`): from these come most of the steps.
Which hypothesis is best is decided by the cosine and by language: the cosine alone prefers heaps of words that lean the
right way, from which no small change leads to a sentence. A search whose pool brings nothing better is stuck. It asks
about hundreds of changes of its nearest hypothesis, since the text may be a single one away; then it begins again, from
texts that the denoiser makes of the words found so far (`beginnings`). It ends at the very text, or when its calls or
its time are spent.

The fast lane of a local encoder may be wrong in the fourth digit. So what is reported, and what ends the search, is
the encoder's own float32 cosine of the decoded text: the nearest hypotheses are confirmed each round.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import nlargest

import numpy as np

from unembed.decoding.options import Decoding
from unembed.encoders.tokenizer import Tokenizer
from unembed.search.beginnings import Beginnings
from unembed.search.changes import Changes
from unembed.search.encoder_calls import EncoderCalls, as_read
from unembed.search.gaussian_process import Answers
from unembed.search.likelihoods import Conditioned
from unembed.search.options import Search
from unembed.search.screening import Screen
from unembed.search.state import Floats, Hypothesis, Ids, Proposals, State
from unembed.surrogate.bag import Surrogate

FRUITLESS = 10  # rounds without a new text after which there is none to be expected


class Searcher:
    """The search for one embedding's text.

    Args:
        denoiser: conditioned on the embedding.
        surrogate: of the encoder that is asked.
        e_D: the embedding (D,).
        beginnings: where it starts from, and starts again from.
        decoding: of these; also the texts that are wanted in the end, and the seed.
        row: number of the embedding, which decides the random numbers.
        learn: told of every text that was asked about, with its embedding (N, D). What the denoiser makes of the
            embedding changes by it, so that the search begins again now and then beside its pool.

    Raises:
        EncoderError: the encoder fails, or answers with something else than one finite vector (D,) per text.
    """

    def __init__(
        self,
        denoiser: Conditioned,
        beginnings: Beginnings,
        tokenizer: Tokenizer,
        surrogate: Surrogate,
        encoder: EncoderCalls,
        e_D: Floats,
        decoding: Decoding,
        search: Search,
        row: int = 0,
        learn: Callable[[Sequence[Ids], Floats], None] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.surrogate = surrogate
        self.encoder = encoder
        self.e_D: Floats = (e_D / np.linalg.norm(e_D)).astype(np.float32)
        self.beginnings = beginnings
        self.decoding = decoding
        self.search = search
        self.wanted = max(decoding.candidates, search.tuning.admitted)  # texts that are confirmed in a round
        self.row = row
        self.learn = learn
        self.length = denoiser.length
        self.denoiser = denoiser
        self.state = State(Answers(search.tuning.kernel))
        self.screen = Screen(denoiser, surrogate, self.e_D, search, self.state)

    @property
    def passes(self) -> int:
        """Passes of the denoiser so far, those of the blind candidates included."""
        return self.denoiser.passes

    def confidence(self, found: Hypothesis) -> list[float]:
        """The probability of each token of a hypothesis, all others in sight."""
        if found.confidence is None:
            self._judged(found)
        assert found.confidence is not None
        return found.confidence

    def run(self) -> Iterator[State]:
        """The state after the blind candidates were asked about, and after each round."""
        state, tuning = self.state, self.search.tuning
        if not state.begun:
            self._begin()
        elif self.learn is not None and state.answers.texts:  # one that goes on: what it knew
            self.learn(list(state.answers.texts), state.answers.e_ND)
        yield state
        fruitless = 0
        while not state.exact and self.encoder.left > 0 and fruitless < FRUITLESS:
            calls = self.encoder.calls
            stuck = state.idle >= tuning.patience or not state.pool
            if stuck and (nearest := self._unexplored()) is not None:
                nearest.explored += 1
                self._round(nearest, tuning.widened_asked)
            elif stuck:
                self._begin()
            elif self.learn is not None and state.rounds.bit_count() == 1:  # after 1, 2, 4, ... rounds
                self._begin(beside=True)
            else:
                self._round(self._parent(), tuning.frugal_asked if self.search.frugal else tuning.asked)
            fruitless = 0 if self.encoder.calls > calls else fruitless + 1
            state.rounds += 1
            yield state

    def _round(self, parent: Hypothesis, asked: int) -> None:
        """Ask about changes of a hypothesis, then about combinations of all that are known of it."""
        tuning, state = self.search.tuning, self.state
        best = state.pool[0]
        proposals = self._propose(parent)
        found = self._ask(self.screen.changes(parent, proposals, asked))
        composed = tuning.frugal_composed if self.search.frugal else tuning.composed
        found += self._ask(self.screen.combinations(parent, proposals, composed))
        parent.changed = True
        self._admit(found)
        state.idle = 0 if state.pool[0] is not best else state.idle + 1

    def _parent(self) -> Hypothesis:
        """The hypothesis to change next: by turns the best one, again and again, and the nearest not changed yet."""
        best = self.state.pool[0]
        fresh = (hypothesis for hypothesis in self.state.pool if not hypothesis.changed)
        return max(fresh, key=lambda h: h.cosine, default=best) if self.state.rounds % 2 else best

    def _unexplored(self) -> Hypothesis | None:
        """What a stuck search changes in rounds of many more texts before it begins again, or None.

        The nearest hypothesis of the pool, and of all pools what is as near. Few of a hypothesis' changes were asked
        about, so that the text may be a single one away. Where calls are counted there are too few for this.
        """
        state, tuning = self.state, self.search.tuning
        if self.search.frugal or not state.pool:
            return None
        least = max(h.cosine for h in state.pool)
        several = [h for h in [*state.found, *state.pool] if h.explored < tuning.explorations and h.cosine >= least]
        return max(several, key=lambda h: h.cosine, default=None)

    def _begin(self, beside: bool = False) -> None:
        """Ask about blind candidates, or about texts decoded again from the words of the nearest hypotheses.

        Their pool takes the place of the one so far, unless they are to stand beside it: these are blind ones. Where
        calls are counted they join it too, since few of its changes were asked about.
        """
        state, tuning, before = self.state, self.search.tuning, self.state.pool
        near = {} if beside else {h.ids: h for h in [*state.found, *before]}
        if not beside:
            state.pool, state.idle = before if self.search.frugal else [], 0
        if near:
            nearest = nlargest(tuning.teachers, near.values(), key=lambda h: h.cosine)
            several = [(h.ids, h.e_hat) for h in nearest]
            texts = self.beginnings.again(state.begun, tuning.again, several, lambda: self.encoder.left <= 0)
        else:
            texts = self.beginnings.blind(state.begun, min(tuning.starts, self.search.max_calls or tuning.starts))
        # There may be none: empty ones, and ones that are too long once they are tokenised again.
        found = self._ask([ids for ids in texts if ids])
        if not found and not before:
            found = self._ask(self._words(tuning.starts))
        self._admit(found)
        state.pool = state.pool or before
        state.begun += 1

    def _words(self, count: int) -> list[Ids]:
        """Texts of one token, the nearest by the surrogate: where no blind candidate has a token."""
        y_VD = self.surrogate.x_VD + self.surrogate.fitted.bias.numpy()
        promised_V = y_VD @ self.e_D / np.linalg.norm(y_VD, axis=1).clip(min=1e-6)
        promised_V[~self.tokenizer.starts_word[: len(promised_V)]] = -np.inf
        return [(int(token),) for token in np.argsort(-promised_V, kind="stable")[:count]]

    def _propose(self, parent: Hypothesis) -> Proposals:
        """Small changes of a hypothesis, listed once."""
        if parent.proposals is None:
            gains_TV, nats_T = self._judged(parent)
            # Random numbers of its own, so that a search that goes on lists the same changes.
            own = np.random.default_rng([self.decoding.seed, self.row, *parent.ids])
            changes = Changes(self.surrogate, parent.ids, parent.e_hat, self.e_D, nats_T, self.search, own)
            listed = {
                "exchanges": changes.exchanges(gains_TV), "deletions": changes.deletions(), "orders": changes.orders()
            }  # fmt: skip
            if len(parent.ids) < self.length:
                listed["insertions"] = changes.insertions(self.denoiser.between(parent.ids, parent.e_hat))
            parent.proposals = {
                kind: {change.of(parent.ids): change for change in several} for kind, several in listed.items()
            }
        return parent.proposals

    def _ask(self, rows: Sequence[Ids]) -> list[Hypothesis]:
        """Embed what is new of some texts, and learn from the answers."""
        state = self.state
        new = [ids for ids in as_read(self.tokenizer, rows, self.length) if hash(ids) not in state.seen]
        e_ND = self.encoder.embed(new)
        new = new[: len(e_ND)]
        state.seen.update(map(hash, rows))
        state.seen.update(map(hash, new))
        if new:
            state.answers.take(new, e_ND)
            if self.learn is not None:
                self.learn(new, e_ND)
        return [Hypothesis(ids, e, float(e @ self.e_D)) for ids, e in zip(new, e_ND, strict=True)]

    def _admit(self, found: list[Hypothesis]) -> None:
        """Put the nearest of some texts into the pool, which is in the order of cosine and language."""
        state, tuning = self.state, self.search.tuning
        near = sorted(found, key=lambda h: -h.cosine)[: self.wanted]
        self._confirm(near)
        near = near[: tuning.admitted]
        if near and not state.exact:
            self._judge(near)
        several = [*state.pool, *near]
        nat = self.search.language(max((h.cosine for h in several), default=1.0))
        pool = sorted(several, key=lambda h: -h.cosine - nat * h.nats)
        state.pool = pool[: tuning.pool]
        for hypothesis in pool[tuning.admitted :]:
            hypothesis.judged = None  # V numbers a token

    def _judge(self, several: Sequence[Hypothesis]) -> None:
        """Look at texts with the denoiser."""
        judged = self.denoiser.likelihoods([h.ids for h in several], [h.e_hat for h in several])
        for hypothesis, (gains_TV, nats_T) in zip(several, judged, strict=True):
            hypothesis.judged = gains_TV, nats_T
            hypothesis.nats = float(nats_T.sum())
            hypothesis.confidence = np.exp(nats_T.astype(np.float64)).tolist()

    def _judged(self, found: Hypothesis) -> tuple[Floats, Floats]:
        """What the denoiser says of a hypothesis (`Conditioned.likelihoods`)."""
        if found.judged is None:
            self._judge([found])
        assert found.judged is not None
        return found.judged

    def _confirm(self, near: Sequence[Hypothesis]) -> None:
        """Ask the encoder itself about some hypotheses, where the fast lane may be wrong about them."""
        state = self.state
        worst = state.found[self.decoding.candidates - 1 :][:1]  # of those that are wanted
        least = worst[0].cosine - self.encoder.error if worst else -1.0
        near = [h for h in near if h.cosine >= least]
        if near and self.encoder.error:
            for hypothesis, e in zip(near, self.encoder.exact([h.ids for h in near]), strict=True):
                hypothesis.e_hat, hypothesis.cosine = e, float(e @ self.e_D)
        known = {h.ids: h for h in [*state.found, *near]}
        state.found = sorted(known.values(), key=lambda h: -h.cosine)[: self.wanted]
