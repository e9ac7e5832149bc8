"""Guided inversion: the denoiser proposes, the encoder judges.

One search per embedding. It starts from blind candidates. Each round changes the best hypotheses so far (`moves`),
lets the denoiser refill what was masked in the light of the embedding, embeds the new texts, and keeps the best. Blind
inversion finds words before places; the cosine tells one order from another.

Unusual here: a hypothesis is a text, not a canvas: its tokens are those that the text tokenises to, since that is
what the encoder sees, and no text is embedded twice for one embedding. What hypotheses are ranked by is the cosine plus
a small share of the denoiser's log-likelihood: by the cosine alone the search ends in unreadable text of high cosine.
Where the inverter has a surrogate of the encoder, a forecast (`forecast`) learns from every answer what cosine another
text would have. Most drafts then are hypotheses of which a part, small or large, is written anew (`moves.rewrite`);
the others, more of them the nearer a hypothesis is, are the most promising of hundreds of small edits (`edits`), or
arranged: the denoiser puts the words of a part, or of all, down again in an order of its own. What the denoiser fills
in is steered towards what the hypothesis lacks. How many of each was chosen by what 200 calls find
(experiments/LOG.md, 2026-11-27).
More drafts are made than embedded, and those embedded of which most is foreseen, by the surrogate's student where it
has one, among still more edits, which cost no pass.
A denoiser with feedback is also told the embedding of the hypothesis that it refills or doubts, and sees what that
still lacks.
Rows share batches, but each has random numbers of its own, so that a row's result does not depend on its neighbours.

Shape suffixes as in model.py; T: content tokens.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from unembed.edits import Editor
from unembed.errors import EncoderError, InputError
from unembed.forecast import Forecast, nearness
from unembed.model import Denoiser
from unembed.moves import Draft, arrange, draw, rewrite
from unembed.refill import ROWS, Blank, Floats, Judged, Refiller, Text
from unembed.search import BLACK_BOX, BLIND, EXACT, WHITE_BOX, Answering, Differentiable, Hypothesis, Row, Search
from unembed.surrogate import Surrogate
from unembed.tokenizer import Tokenizer

EDITS = 0.1, 0.3  # share of drafts that are edits, where there is a surrogate: far from the embedding, and near it
ARRANGE = 0.2  # share of drafts of a hypothesis near the embedding that are arranged; less of those that are farther
AGAIN = 8  # times to draw when the same edits were drawn in this round already
JUDGED = 16  # texts of a round that a row's beam may take
IDLE = 30  # rounds without a new text after which there is none to be expected


class Guide:
    """A denoiser and an encoder at work on the rows of a batch.

    Args:
        e_BD: the embeddings, (B, D) float32.
        encoder: what is asked; where the attacker is blind, an `Imitation`.
        starts: texts to begin with, some for each row.
        first_row: the first row's number, which decides its random numbers.
        surrogate: of this encoder, for this denoiser.

    Raises:
        InputError: an option is impossible, or a white box is asked for of an encoder that gives no gradient.
    """

    edits = EDITS  # another share for a denoiser whose drafts are worth nothing

    def __init__(
        self,
        denoiser: Denoiser,
        tokenizer: Tokenizer,
        encoder: Answering,
        e_BD: Floats,
        starts: Sequence[Sequence[str]],
        search: Search,
        first_row: int = 0,
        surrogate: Surrogate | None = None,
    ) -> None:
        search.check()
        self.white_box: Differentiable | None = None
        if search.attacker == WHITE_BOX:
            if not isinstance(encoder, Differentiable):
                raise InputError(f"attacker is {WHITE_BOX}, but this encoder gives no gradient: expected {BLACK_BOX}")
            self.white_box = encoder
        self.denoiser = denoiser
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.search = search
        self.starts = [list(texts) for texts in starts]
        self.first_row = first_row
        self.surrogate = surrogate
        # Whom a blind search asks is the student itself.
        knows_more = surrogate is not None and surrogate.fitted.student is not None and search.attacker != BLIND
        self.student = surrogate if knows_more else None
        self.length = denoiser.config.max_tokens
        table_VH = self.white_box.token_table if self.white_box is not None else None
        self.refiller = Refiller(denoiser, tokenizer, torch.from_numpy(e_BD), search.temperature, table_VH, surrogate)
        self.rows = [Row(e_D, np.random.default_rng([search.seed, first_row + i])) for i, e_D in enumerate(e_BD)]

    def run(self) -> Iterator[list[Row]]:
        """The rows after the starts were judged, and after each round. Rows that are done wait for the others.

        Rows that have begun (see `rounds`) go on from where they are, which is yielded first.

        Raises:
            EncoderError: the encoder fails, or answers with something else than one finite vector (D,) per text.
        """
        if not any(row.calls for row in self.rows):
            self._judge({(number, text): None for number, texts in enumerate(self.starts) for text in texts})
        yield self.rows
        for _ in range(max((row.rounds for row in self.rows), default=0), self.search.rounds):
            active = [
                number for number, row in enumerate(self.rows)
                if row.beam and not row.exact and row.left(self.search) > 0 and row.idle < IDLE
            ]  # fmt: skip
            if not active:
                return
            if self.white_box is not None:
                self._differentiate(self.white_box, active)
            blanks = [blank for number in active for blank in self._propose(number)]
            filled = self.refiller.fill(blanks)
            origins: dict[tuple[int, str], Blank | None] = {}
            for blank, found in zip(blanks, filled, strict=True):
                self.rows[blank.row].passes += found.passes
                origins.setdefault((blank.row, found.text), blank)
            self._judge(origins)
            for number in active:
                self.rows[number].rounds += 1
                self.rows[number].idle += 1
            yield self.rows

    def _propose(self, number: int) -> list[Blank]:
        """Random moves, half of them of the best hypothesis, half of the rest of the second, and so on."""
        row = self.rows[number]
        chances = _halves(len(row.beam))
        # No more than can still be embedded, or as many times that as in other rounds.
        drafts = min(self.search.drafts, row.left(self.search) * -(-self.search.drafts // self.search.proposals))
        if self.surrogate is not None:  # what is far needs words, which the denoiser's drafts bring, however they look
            beyond = max(0, drafts - self.search.proposals)
            drafts -= beyond - round(beyond * nearness(row.beam[0].cosine))
        forecast = None if self.surrogate is None else self._forecast(row, self.surrogate)
        editors: dict[tuple[int, ...], Editor] = {}  # of each parent
        drawn: set[tuple[int, ...]] = set()
        found = []
        for _ in range(drafts):
            parent = row.beam[int(row.noise.choice(len(row.beam), p=chances))]
            ids = parent.ids
            near = nearness(parent.cosine)
            edits = self.edits[0] + near * (self.edits[1] - self.edits[0])
            if forecast is not None and parent.choices is not None and row.noise.random() < edits:
                draft = _edited(self._editor(row, parent, forecast, editors), drawn)
            elif forecast is not None:
                draft = rewrite(ids, parent.doubts, row.noise)
            else:
                _, draft = draw(ids, parent.doubts, self.tokenizer.starts_word, row.noise, self.length)
            taken: tuple[int, ...] = ()
            if forecast is not None and row.noise.random() < ARRANGE * near:
                draft, taken = arrange(draft, row.noise, self.length)
            share, gradient_TH = row.noise.random(), row.gradients.get(parent.text)
            if gradient_TH is not None:
                gradient_TH = self.search.pull * share * gradient_TH
            uniform_L, steering = row.noise.random(self.length), self.search.steering * share
            found.append(Blank(number, draft, ids, parent.e_hat, gradient_TH, uniform_L, taken, steering))
        if forecast is not None:
            found += self._spare(number, forecast, editors, drawn)
            found += self._promising(number, forecast, editors)
        return found

    def _spare(
        self,
        number: int,
        forecast: Forecast,
        editors: dict[tuple[int, ...], Editor],
        drawn: set[tuple[int, ...]],
    ) -> list[Blank]:
        """Edits for the student to choose from, drawn as the drafts are; none where it is no help."""
        row = self.rows[number]
        if self.student is None:
            return []
        parents = [parent for parent in row.beam if parent.choices is not None]
        found = []
        for _ in range(round(self.search.spare * nearness(row.beam[0].cosine)) if parents else 0):
            parent = parents[int(row.noise.choice(len(parents), p=_halves(len(parents))))]
            editor = self._editor(row, parent, forecast, editors)
            found.append(self._made(number, parent, _edited(editor, drawn, single=True)))
        return found

    def _made(self, number: int, parent: Hypothesis, draft: Draft) -> Blank:
        """A draft without masks, for which there is no pass."""
        return Blank(number, draft, parent.ids, parent.e_hat, None, np.zeros(self.length))

    def _promising(self, number: int, forecast: Forecast, editors: dict[tuple[int, ...], Editor]) -> list[Blank]:
        """What may be asked beyond the drafts: the most promising edits, shared as the drafts are, without a pass."""
        row = self.rows[number]
        more = min(self.search.proposals, row.left(self.search)) - self.search.drafts
        found: list[Blank] = []
        if more <= 0:
            return found
        for parent, share in zip(row.beam, _halves(len(row.beam)), strict=True):
            if parent.choices is None:
                continue
            editor = self._editor(row, parent, forecast, editors)
            for edited in editor.best(round(more * share), partial(self._asked, row)):
                found.append(self._made(number, parent, Draft(list(edited.ids), list(edited.origin))))
        return found

    def _asked(self, row: Row, ids: Sequence[int]) -> bool:
        return self.tokenizer.decode(ids) in row.seen

    def _editor(
        self, row: Row, parent: Hypothesis, forecast: Forecast, editors: dict[tuple[int, ...], Editor]
    ) -> Editor:
        """That of a hypothesis with choices, made when first asked for."""
        assert parent.choices is not None
        if parent.ids not in editors:
            editors[parent.ids] = Editor(
                forecast, parent.ids, parent.cosine, parent.doubts, parent.choices,
                self.tokenizer.starts_word, self.length, self.search.prior, row.noise,
            )  # fmt: skip
        return editors[parent.ids]

    def _differentiate(self, encoder: Differentiable, active: Sequence[int]) -> None:
        """The gradient of each new hypothesis, as far as calls are left."""
        new = []
        for number in active:
            row = self.rows[number]
            row.gradients = {h.text: row.gradients[h.text] for h in row.beam if h.text in row.gradients}
            missing = [h for h in row.beam if h.text not in row.gradients]
            # A gradient is no use without a text to embed after it.
            affordable = len(missing) if self.search.max_calls is None else max(0, row.left(self.search) - 1)
            new += [(row, hypothesis) for hypothesis in missing[:affordable]]
        for start in range(0, len(new), ROWS):
            part = new[start : start + ROWS]
            lengths_B = torch.tensor([len(hypothesis.ids) for _, hypothesis in part])
            ids_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(h.ids) for _, h in part], batch_first=True)
            e_BD = torch.from_numpy(np.stack([row.e for row, _ in part]))
            gradient_BTH = encoder.cosine_gradient(ids_BT, lengths_B, e_BD)
            for (row, hypothesis), gradient_TH in zip(part, gradient_BTH, strict=True):
                row.calls += 1
                row.gradients[hypothesis.text] = gradient_TH[: len(hypothesis.ids)]

    def _judge(self, found: Mapping[tuple[int, str], Blank | None]) -> None:
        """Of the texts (by row) that are new to their rows, embed the likeliest, learn from them, keep the best.

        Each with what it was made of, if it was made of another text.
        """
        texts = [(number, text) for number, text in found if text not in self.rows[number].seen]
        ids = self.tokenizer.encode_batch([text for _, text in texts])
        new = [
            Text(number, text, tuple(content))
            for (number, text), content in zip(texts, ids, strict=True)
            if 0 < len(content) <= self.length
        ]
        judged: dict[Text, Judged] = {}
        if self.surrogate is not None:
            foreseen = self._foreseen(self.surrogate, new, found)
            new.sort(key=lambda text: -foreseen[text])
        elif self.search.drafts > self.search.proposals:
            judged = self._likelihoods(new)
            new.sort(key=lambda text: -np.log(judged[text].chances).sum())
        chosen: list[Text] = []
        asked = Counter[int]()
        for text in new:
            row = self.rows[text.row]
            if asked[text.row] < self.search.proposals and row.left(self.search) > 0:
                asked[text.row] += 1
                row.calls += 1
                row.idle = -1  # this round is counted when it ends
                row.seen.add(text.text)
                chosen.append(text)
        e_hats, cosines = self._embed(chosen)
        if self.surrogate is not None:
            for number in dict.fromkeys(text.row for text in chosen):
                mine = [text for text in chosen if text.row == number]
                ids_N, e_hats_ND = [text.ids for text in mine], np.stack([e_hats[text] for text in mine])
                told_ND = None if self.student is None else self.student.embed(ids_N)
                self.rows[number].answers.take(ids_N, e_hats_ND, told_ND)
        if self.denoiser.feedback is not None:  # more is known now than when they were chosen
            judged = {}
        waiting = {number: self._hopeful(number, chosen, cosines) for number in asked}
        while any(waiting.values()):
            # Few at a time: each that enters a beam leaves less room for what is farther.
            part = [text for mine in waiting.values() for text in mine[: self.search.beam]]
            judged |= self._likelihoods([text for text in part if text not in judged], e_hats)
            for text in part:
                row, cosine = self.rows[text.row], cosines[text]
                chances_T, choices = judged[text]
                score = cosine + self.search.prior * float(np.log(chances_T).sum())
                doubts = 1 - chances_T[: len(text.ids)]
                row.beam.append(Hypothesis(text.text, text.ids, cosine, doubts, score, e_hats[text], choices))
            for number, mine in waiting.items():
                beam = self.rows[number].beam
                beam.sort(key=lambda h: (-(h.cosine >= EXACT), -h.score))
                del beam[self.search.beam :]
                waiting[number] = [text for text in mine[self.search.beam :] if cosines[text] > self._least(number)]

    def _foreseen(
        self, surrogate: Surrogate, texts: Sequence[Text], found: Mapping[tuple[int, str], Blank | None]
    ) -> dict[Text, float]:
        """The cosine to expect of each text, where some are to be left out; of starts, of which nothing is known, 0."""
        foreseen = dict.fromkeys(texts, 0.0)
        counts = Counter(text.row for text in texts)
        made: dict[int, dict[tuple[int, ...], list[Text]]] = {}  # of each row, by the hypotheses that they were made of
        for text in texts:
            blank = found[text.row, text.text]
            # Where all are to be embedded there is nothing to choose.
            if blank is not None and counts[text.row] > min(
                self.search.proposals, self.rows[text.row].left(self.search)
            ):
                made.setdefault(text.row, {}).setdefault(blank.before, []).append(text)
        for number, several in made.items():
            forecast = self._forecast(self.rows[number], surrogate)  # not kept since the drafts were made: it is large
            for before, children in several.items():
                cosines = forecast.judged([text.ids for text in children], before)
                foreseen |= dict(zip(children, cosines.tolist(), strict=True))
        return foreseen

    def _forecast(self, row: Row, surrogate: Surrogate) -> Forecast:
        """For the hypotheses of a row, by what is known now."""
        return Forecast(surrogate, row.answers, row.e, [(h.ids, h.e_hat) for h in row.beam])

    def _hopeful(self, number: int, texts: Sequence[Text], cosines: Mapping[Text, float]) -> list[Text]:
        """Those of a row's texts that may enter its beam, nearest first, and JUDGED of them at most.

        No likelihood raises a score above the cosine, so most texts need no pass.
        """
        least = self._least(number)
        mine = [text for text in texts if text.row == number and cosines[text] > least]
        return sorted(mine, key=lambda text: -cosines[text])[:JUDGED]

    def _least(self, number: int) -> float:
        """Score that a text must have to enter a row's beam."""
        beam = self.rows[number].beam
        return -np.inf if len(beam) < self.search.beam else beam[-1].score

    def _embed(self, texts: Sequence[Text]) -> tuple[dict[Text, Floats], dict[Text, float]]:
        """The embedding (D,) of each text, and its cosine to its row's."""
        if not texts:
            return {}, {}
        vectors = np.asarray(self.encoder.encode([text.text for text in texts]), np.float32)
        expected = (len(texts), len(self.rows[0].e))
        if vectors.shape != expected:
            raise EncoderError(f"the encoder answered with embeddings of shape {vectors.shape}, expected {expected}")
        if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
            raise EncoderError("the encoder answered with an embedding that is zero or not finite")
        wanted = np.stack([self.rows[text.row].e for text in texts])
        sizes = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted, axis=1)
        cosines = (vectors * wanted).sum(1) / sizes
        return dict(zip(texts, vectors, strict=True)), dict(zip(texts, cosines.tolist(), strict=True))

    def _likelihoods(self, texts: Sequence[Text], e_hats: Mapping[Text, Floats] | None = None) -> dict[Text, Judged]:
        """See `Refiller.judge`, whose passes are counted here."""
        for text in texts:
            self.rows[text.row].passes += 1
        known = None if e_hats is None else [e_hats[text] for text in texts]
        return dict(zip(texts, self.refiller.judge(texts, known, self.surrogate is not None), strict=True))


def _halves(count: int) -> NDArray[np.float64]:
    """Shares of the best hypothesis, the second, and so on: each half as much as the one before, 1 together."""
    weights = 0.5 ** np.arange(count)
    shares: NDArray[np.float64] = (weights / weights.sum()).astype(np.float64)
    return shares


def _edited(editor: Editor, drawn: set[tuple[int, ...]], single: bool = False) -> Draft:
    """An edit, another than were `drawn` in this round if that can be; of one step alone if `single`."""
    edited = editor.draw(single)
    for _ in range(AGAIN):
        if edited.ids not in drawn:
            break
        edited = editor.draw(single)
    drawn.add(edited.ids)
    return Draft(list(edited.ids), list(edited.origin))
