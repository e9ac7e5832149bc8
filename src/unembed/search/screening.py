"""The screen: which of a thousand changes of a hypothesis, and which combinations of them, are worth an encoder call.

A change is worth what the forecast (`gaussian_process`) expects of its cosine, and what the denoiser says of its
language. A forecast that is wrong about a text would keep the search from it for good, so changes are taken by turns
from the order of what they are worth and from their lists', which the surrogate and the denoiser have made.
Combinations are made of the changes whose embeddings are known, and of others by the embedding to expect.
"""

from collections.abc import Mapping
from heapq import nlargest
from itertools import chain

import numpy as np

from unembed.search.composition import Change, compose
from unembed.search.gaussian_process import Forecast
from unembed.search.likelihoods import Conditioned
from unembed.search.options import Search
from unembed.search.state import Floats, Hypothesis, Ids, Proposals, State
from unembed.surrogate.bag import Surrogate


class Screen:
    """The screen of one search.

    Args:
        e_D: the embedding that is searched for, of length 1.
        state: of the search, whose answers and texts that were asked about it goes by.
    """

    def __init__(self, denoiser: Conditioned, surrogate: Surrogate, e_D: Floats, search: Search, state: State) -> None:
        self.denoiser = denoiser
        self.surrogate = surrogate
        self.e_D = e_D
        self.search = search
        self.tuning = search.tuning
        # Times as many texts as can be asked about, at which the denoiser looks first: where calls are what is scarce.
        self.reviewed = search.tuning.reviewed if search.frugal else 1
        self.state = state

    def changes(self, parent: Hypothesis, proposals: Proposals, count: int) -> list[Ids]:
        """About `count` changed texts that were not asked about, a share of each kind."""
        new = {kind: self._unasked(texts) for kind, texts in proposals.items()}
        every = {ids: change for texts in new.values() for ids, change in texts.items()}
        expected = self._expected(self._forecast(parent), every)
        nat = self.search.language(parent.cosine)
        score = self._scored(expected, every, nat)
        chosen: dict[Ids, None] = {}
        for kind, texts in new.items():
            most = max(1, round(count * getattr(self.tuning, kind)))
            ranked = nlargest(self.reviewed * most, texts, key=score.__getitem__)
            if kind == "orders":  # which are listed in no order
                ranked = self._review(ranked, expected, most, nat)
            else:
                both = (texts, ranked) if self.state.rounds % 2 else (ranked, texts)
                ranked = list(dict.fromkeys(chain.from_iterable(zip(*both, strict=False))))
            chosen |= dict.fromkeys(ranked[:most])
        return list(chosen)

    def combinations(self, parent: Hypothesis, proposals: Proposals, count: int) -> list[Ids]:
        """At most `count` texts that join changes: those ever asked about, and the best others by forecast."""
        known = dict(zip(self.state.answers.texts, self.state.answers.e_ND, strict=True))
        every = {ids: change for texts in proposals.values() for ids, change in texts.items()}
        unasked, forecast = self._unasked(every), self._forecast(parent)
        expected = self._expected(forecast, unasked)
        nat = self.search.language(parent.cosine)
        score = self._scored(expected, unasked, nat)
        best = nlargest(self.tuning.unasked_joined, score, key=score.__getitem__)
        single = known | {ids: expected[ids] for ids in best}
        several = [(change, single[ids]) for ids, change in every.items() if ids in single]
        joined = compose(parent.e_hat, several, self.e_D, 2 * max(count, self.tuning.beam), self.tuning, nat)
        new = self._unasked({change.of(parent.ids): change for change in joined})
        expected = self._expected(forecast, new)
        score = self._scored(expected, new, nat)
        return self._review(nlargest(self.reviewed * count, score, key=score.__getitem__), expected, count, nat)

    def _unasked(self, changes: Mapping[Ids, Change]) -> dict[Ids, Change]:
        """Those that lead to texts, no longer than a canvas, that were not asked about."""
        possible = range(1, self.denoiser.length + 1)
        return {
            ids: change for ids, change in changes.items() if len(ids) in possible and hash(ids) not in self.state.seen
        }

    def _forecast(self, parent: Hypothesis) -> Forecast:
        return Forecast(self.surrogate, self.state.answers, parent.ids, parent.e_hat)

    def _expected(self, forecast: Forecast, changes: Mapping[Ids, Change]) -> dict[Ids, Floats]:
        """The embedding (D,) to expect of each changed text."""
        return dict(zip(changes, forecast.embeddings(list(changes)), strict=True)) if changes else {}

    def _scored(self, expected: Mapping[Ids, Floats], changes: Mapping[Ids, Change], nat: float) -> dict[Ids, float]:
        """How promising changed texts are, by the cosine to expect and what their changes say of language."""
        return {ids: float(e @ self.e_D) + nat * changes[ids].nats for ids, e in expected.items()}

    def _review(self, texts: list[Ids], expected: Mapping[Ids, Floats], count: int, nat: float) -> list[Ids]:
        """The most promising texts, by the cosine to expect and the denoiser's likelihood of all their tokens."""
        if len(texts) <= count:
            return texts
        e_hats = [expected[ids] / np.linalg.norm(expected[ids]) for ids in texts]
        judged = self.denoiser.likelihoods(texts, e_hats)
        score = {
            ids: float(expected[ids] @ self.e_D) + nat * float(nats_T.sum())
            for ids, (_, nats_T) in zip(texts, judged, strict=True)
        }
        return nlargest(count, texts, key=score.__getitem__)
