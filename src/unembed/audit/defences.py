"""What protects vectors, and at what price: the leak under an attack that is adapted to each form, beside its search.

The attacker knows the form and has pairs of text and stored vector, as many as there are rows besides the sample. From
them he fits the map into the inverter's space that is best on pairs held out: a ridge regression, one of what the
stored vector lacks, or Procrustes' rotation. A defence that holds against an attacker without pairs alone is none.

Search: the sampled rows are questions, all rows that are kept are searched, and the ten nearest by float32 cosines are
right. Binary vectors with rescoring need the full vectors too, so that these leak.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.alignment.linear import Linear, normalised, procrustes, ridge
from unembed.audit.sample import Sample
from unembed.audit.stored_forms import FORMS as STORED
from unembed.audit.stored_forms import Form
from unembed.decoding.agreement import bag_f1
from unembed.errors import InputError
from unembed.evaluation import metrics
from unembed.inverter import Inverter

FORMS = (*STORED, "binary with rescoring")
NONE = next(iter(STORED))
FEWEST = 64  # rows besides the sample, on which the attack is adapted
LEAKING = 60  # rows that are inverted for each form
NEIGHBOURS = 10
OVERSAMPLED = 4  # times as many are found by bits as are then rescored
HELD_OUT = 0.2  # of the pairs, to choose the map

Floats = NDArray[np.float32]


def price(sample: Sample, own: bool | None, inverter: Inverter, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A row for each of `FORMS`, in order.

    Args:
        own: whether the vectors are of the inverter's own encoder. Else rows need texts.

    Returns:
        Rows of `name`; `bytes` a vector; `leak`, `recall` and `ndcg` at 10, each with `value`, `low`, `high` and `n`;
        `measure` of the leak: token F1 of recovered texts, or where rows have no text the cosine of recovered texts to
        the vectors as they were; `note`.

    Raises:
        InputError: fewer than 64 rows besides the sample, or rows have no text where they need one.
        EncoderError: the inverter's encoder fails.
    """
    rows, others = sample.rows, sample.others if own is not False else sample.pairs
    if len(others) < FEWEST:
        raise InputError(f"{len(others)} rows besides the sample can be used, expected at least {FEWEST}")
    told = [row for row, text in enumerate(rows.texts) if inverter.tokenizer.encode(text or "")][:LEAKING]
    if own is False and not told:
        raise InputError("no sampled row has a text, by which to tell what comes back")
    x_ND, q_MD = normalised(others.vectors), normalised(rows.vectors)
    y_ND = x_ND if own is not False else inverter.encode([str(text) for text in others.texts])
    inverted = told or list(range(min(LEAKING, len(rows))))
    truths = [inverter.tokenizer.encode(rows.texts[row] or "") for row in told]
    generator = np.random.default_rng((seed, 4))
    search = _Search(q_MD, np.concatenate([q_MD, x_ND]), seed)
    leaks: dict[str, dict[str, float]] = {}
    for name, fit in STORED.items():
        form = fit(x_ND, generator)
        kept_ND, kept_MD = form.store(x_ND), form.store(q_MD)
        mapped = adapted(kept_ND, y_ND, own is not False, seed)(_padded(kept_MD[inverted], kept_ND, y_ND))
        found = inverter.invert(mapped, measure_cosine=False)
        if truths:
            ids = [inverter.tokenizer.content(one.ids) for one in found]
            scores = [bag_f1(one, truth) for one, truth in zip(ids, truths, strict=True)]
        else:
            scores = (normalised(inverter.encode([one.text for one in found])) * q_MD[inverted]).sum(1).tolist()
        leaks[name] = _figure(scores, seed)
        yield _row(name, form, leaks[name], bool(truths), search.quality(form, kept_MD, kept_ND))
    form = STORED["binary"](x_ND, generator)
    both = form._replace(
        bytes=form.bytes + 4 * x_ND.shape[1], note="the full vectors, needed for rescoring, leak as without a defence"
    )
    yield _row(FORMS[-1], both, leaks[NONE], bool(truths), search.rescored(form))


def adapted(kept_NK: Floats, y_ND: Floats, own: bool, seed: int) -> Linear:
    """The attacker's map from stored vectors to the inverter's space, the best on pairs held out, fitted on all.

    Args:
        kept_NK: stored; padded with zeros where they have fewer numbers than y_ND.
        own: whether a stored vector may be like the one it stands for.
    """
    x_NK = _padded(kept_NK, kept_NK, y_ND)
    order = np.random.default_rng((seed, 5)).permutation(len(x_NK))
    held, rest = np.split(order, [int(HELD_OUT * len(order))])
    fits: dict[str, Callable[[Floats, Floats], Linear]] = {"ridge": _ridge}
    if own and x_NK.shape[1] == y_ND.shape[1]:
        fits |= {"mended": _mended, "procrustes": procrustes}
    cosines = {name: float((fit(x_NK[rest], y_ND[rest])(x_NK[held]) * y_ND[held]).sum()) for name, fit in fits.items()}
    return fits[max(cosines, key=lambda name: cosines[name])](x_NK, y_ND)


def _ridge(x_NK: Floats, y_ND: Floats) -> Linear:
    return ridge(x_NK, y_ND).linear


def _mended(x_ND: Floats, y_ND: Floats) -> Linear:
    """The stored vector, scaled, and a ridge regression of what it lacks: hardly wrong where it lacks little."""
    scale = float((x_ND * y_ND).sum() / (x_ND * x_ND).sum())
    rest = ridge(x_ND, y_ND - scale * x_ND).linear
    return Linear.of(rest.mean_source, y_ND.mean(0), rest.weight + scale * np.eye(x_ND.shape[1], dtype=np.float32))


def _padded(x_NK: Floats, kept_NK: Floats, y_ND: Floats) -> Floats:
    """With zeros for numbers that are not kept, up to those of y_ND."""
    missing = y_ND.shape[1] - kept_NK.shape[1]
    return np.pad(x_NK, ((0, 0), (0, missing))) if missing > 0 else x_NK


class _Search:
    """Questions (m, d) that are the first rows of what is searched (n, d), and their nearest other rows."""

    def __init__(self, q_MD: Floats, x_ND: Floats, seed: int) -> None:
        self.q_MD, self.x_ND, self.seed = q_MD, x_ND, seed
        self.count = min(NEIGHBOURS, len(x_ND) - 1)
        self.right = self._nearest(q_MD, x_ND, self.count)

    def quality(self, form: Form, kept_MK: Floats, kept_NK: Floats) -> tuple[list[float], list[float]]:
        """Recall and nDCG of each question among stored vectors: those of the questions' rows, and the others."""
        found = self._nearest(form.query(self.q_MD), np.concatenate([kept_MK, kept_NK]), self.count)
        return self._scores(found)

    def rescored(self, form: Form) -> tuple[list[float], list[float]]:
        """The same where more are found by stored vectors, and put in order by the full ones."""
        many = min(OVERSAMPLED * self.count, len(self.x_ND) - 1)
        wide = self._nearest(form.query(self.q_MD), form.store(self.x_ND), many)
        cosines = np.take_along_axis(self.q_MD @ self.x_ND.T, wide, axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : self.count]
        return self._scores(np.take_along_axis(wide, order, axis=1))

    def _nearest(self, q_MK: Floats, x_NK: Floats, count: int) -> NDArray[np.intp]:
        similarity_MN = q_MK @ x_NK.T
        np.fill_diagonal(similarity_MN, -np.inf)
        return np.argsort(-similarity_MN, axis=1, kind="stable")[:, :count]

    def _scores(self, found: NDArray[np.intp]) -> tuple[list[float], list[float]]:
        recall, ndcg = [], []
        discount = 1 / np.log2(np.arange(self.count) + 2)
        best = float((np.arange(self.count, 0, -1) * discount).sum())
        for right, answer in zip(self.right.tolist(), found.tolist(), strict=True):
            gain = {row: self.count - place for place, row in enumerate(right)}
            gains = np.array([gain.get(row, 0) for row in answer])
            recall.append(float((gains > 0).mean()))
            ndcg.append(float((gains * discount).sum()) / best)
        return recall, ndcg


def _row(
    name: str, form: Form, leak: Mapping[str, float], by_words: bool, quality: tuple[list[float], list[float]]
) -> dict[str, Any]:
    recall, ndcg = (_figure(values, 0) for values in quality)
    measure = "token F1" if by_words else "cosine"
    return {
        "name": name, "bytes": form.bytes, "leak": dict(leak), "recall": recall, "ndcg": ndcg, "measure": measure,
        "note": form.note,
    }  # fmt: skip


def _figure(values: Sequence[float], seed: int) -> dict[str, float]:
    scores = metrics.mean(values)
    low, high = scores.interval(seed=seed)
    return {"value": round(scores.value, 4), "low": round(low, 4), "high": round(high, 4), "n": len(values)}
