"""The inverter: embeddings in, texts out.

    inverter = Inverter.from_pretrained()
    inverter.invert(inverter.encode(["The cat sat on the mat."]))[0].text

Blind inversion does not ask the encoder while a text is being recovered: it is loaded only when something needs it,
`encode` or the cosine that is reported beside a finished text. Guided inversion (`seconds` or `max_calls`, see
`search`) asks it.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from unembed.alignment.aligner import Aligner
from unembed.config import Config, Recipe
from unembed.decoding.agreement import agreement
from unembed.decoding.calibration import Calibration
from unembed.decoding.inversion import Inversion, with_cosines
from unembed.decoding.options import Decoding
from unembed.decoding.other_encoders import Doubts
from unembed.decoding.predictor import check, stream
from unembed.decoding.steering import Steering
from unembed.decoding.strategies import Frame
from unembed.denoiser.model import Denoiser, Modulation
from unembed.denoiser.precision import granted
from unembed.encoders.checks import check_embeddings, check_recipe, check_rows, refusal
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.encoders.fast_batches import FastEncoder
from unembed.encoders.recipes import known_recipe
from unembed.encoders.recipes import locate as locate_encoder
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import EmbeddingError, EncoderError, InputError
from unembed.search.beginnings import Beginnings
from unembed.search.encoder_calls import EncoderCalls, fast_lane
from unembed.search.inversions import inversions
from unembed.search.likelihoods import Conditioned
from unembed.search.loop import Searcher
from unembed.search.options import Options, Search, plan
from unembed.storage.checkpoint import Parts, load_inverter, save_inverter
from unembed.storage.hub import push_folder
from unembed.storage.packaged_inverters import DEFAULT, locate
from unembed.surrogate.bag import Surrogate

SECONDS = 30.0  # of a search that was given no limit


class Inverter:
    """A trained denoiser with its tokenizer and the recipe of the encoder it was trained for."""

    aligner: Aligner | None = None  # of `AlignedInverter`

    def __init__(self, parts: Parts, encoder: Encoder | None = None) -> None:
        self.denoiser: Denoiser = parts.denoiser
        self.tokenizer: Tokenizer = parts.tokenizer
        self.config: Config = parts.config
        self.results: dict[str, Any] = parts.results
        self.calibration: Calibration | None = parts.calibration
        self.surrogate = Surrogate(self.denoiser.table.weight, parts.surrogate) if parts.surrogate else None
        if encoder is not None:
            check_recipe(encoder.recipe, self.recipe)
        self._encoder = encoder
        self.encoder_named = False  # whether the user has, and not only the checkpoint
        self._fast: FastEncoder | None = None
        self._doubts = Doubts()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        device: str | torch.device = "cpu",
        encoder: Encoder | str | None = None,
        precision: str = "float32",
        aligner: str | Path | None = None,
    ) -> "Inverter":
        """Load an inverter.

        Args:
            name: an encoder with a packaged inverter (the default), a folder, a `.pt` file or a Hub id.
            encoder: the encoder to use instead of loading the recipe's own; or the name of the recipe's own, which
                lets one be loaded that is not known here. It need be given once on a machine (`encoders.named`).
            precision: of the denoiser's products: float32, or bfloat16, which is several times faster where the
                processor has it and changes a token here and there. Where it would be slower, float32, with a warning.
            aligner: folder of an aligner, with which it takes another encoder's vectors (`aligned`); `encoder` is then
                that one.

        Raises:
            CheckpointError: there is no such inverter, or its files are damaged, incomplete or unsafe.
            RecipeError: `encoder` runs another recipe than the inverter was trained for.
        """
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"precision is {precision!r}, expected float32 or bfloat16")
        parts = load_inverter(locate(str(name) if name is not None else DEFAULT))
        parts.denoiser.precision = getattr(torch, granted(precision, device))
        parts = parts._replace(denoiser=parts.denoiser.to(device))
        own = None if isinstance(encoder, str) else encoder
        inverter = cls(parts, own) if aligner is None else cls(parts).aligned(aligner, own)
        if isinstance(encoder, str):
            inverter.check_recipe(encoder)
            inverter.encoder_named = encoder == inverter.recipe.encoder
        return inverter

    def aligned(self, aligner: Aligner | str | Path, encoder: Encoder | None = None) -> "Inverter":
        """The same inverter, sharing its weights, for an aligner's encoder. Raises CheckpointError, RecipeError."""
        from unembed.inverter.aligned import AlignedInverter

        found = aligner if isinstance(aligner, Aligner) else Aligner.load(aligner)
        return AlignedInverter(self.parts, found, encoder, self._encoder)

    def asking(self, encoder: Encoder) -> "Inverter":
        """The same inverter, sharing its weights, with another encoder to ask. Raises RecipeError."""
        return Inverter(self.parts, encoder)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the inverter's folder, whole or not at all. Raises OutputError."""
        parts = self.parts
        save_inverter(
            folder, parts.denoiser.state_dict(), parts.tokenizer, parts.config, parts.results, dtype,
            parts.calibration, parts.surrogate,
        )  # fmt: skip

    @property
    def parts(self) -> Parts:
        """What it is made of; another inverter may share it."""
        surrogate = self.surrogate.fitted if self.surrogate else None
        return Parts(self.denoiser, self.tokenizer, self.config, self.results, self.calibration, surrogate)

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Upload the inverter's folder to the Hub; returns the address of the commit."""
        return push_folder(self.save_pretrained, repo_id, private, token)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the encoder that this inverter was trained for."""
        return self.config.encoder

    @property
    def length(self) -> int:
        """Positions L of the canvas."""
        return self.config.model.max_tokens

    @property
    def device(self) -> torch.device:
        """Where the denoiser runs."""
        return self.denoiser.output_bias.device

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded when first asked for. Raises EncoderError, also of one that only a checkpoint names."""
        if self._encoder is None:
            self._encoder = load_encoder(self.recipe, self.device, self.encoder_named)
        return self._encoder

    def encode(
        self, texts: str | Sequence[str], batch_size: int = 32, show_progress_bar: bool = False
    ) -> NDArray[np.float32]:
        """Embeddings (n, d) float32 of texts, by the recipe; of one text (1, d). Raises EncoderError, InputError."""
        # Of a table or a mapping, the names would be embedded.
        if not isinstance(texts, Iterable) or isinstance(texts, Mapping) or hasattr(texts, "columns"):
            raise InputError(f"texts are {type(texts).__name__}, expected a string or a list of strings")
        several = [texts] if isinstance(texts, str) else list(texts)
        for number, text in enumerate(several):
            if not isinstance(text, str):
                raise InputError(f"text {number} is {type(text).__name__}, expected a string")
        embeddings: NDArray[np.float32] = self.encoder.encode(several, batch_size, show_progress_bar)
        return embeddings

    def check_recipe(self, recipe: Recipe | str) -> None:
        """Raise RecipeError where embeddings of a recipe, or of an encoder known by name, are not for this inverter."""
        if recipe != self.recipe.encoder:
            check_recipe(recipe if isinstance(recipe, Recipe) else known_recipe(recipe), self.recipe)

    def plan(
        self, decoding: Decoding | None = None, search: Search | None = None, **options: Unpack[Options]
    ) -> tuple[Decoding, Search | None]:
        """What `invert` does with these arguments, checked for this inverter; the search is None where it is blind.

        Raises:
            InputError: an option is impossible.
            TypeError: there is no such option.
        """
        decoding, search = plan(decoding, search, **options)
        check(self.denoiser, decoding)
        if search is not None and self.surrogate is None:
            raise InputError("this inverter has no surrogate, which a guided inversion needs: `unembed fit` fits one")
        return decoding, search

    def invert(
        self,
        embeddings: ArrayLike | Tensor,
        decoding: Decoding | None = None,
        search: Search | None = None,
        *,
        batch_size: int = 64,
        measure_cosine: bool = True,
        normalize: bool = False,
        skip_bad: bool = False,
        first_row: int = 0,
        show_progress_bar: bool = False,
        **options: Unpack[Options],
    ) -> list[Inversion]:
        """Recover a text from each embedding, from all masks, its length not given.

        Args:
            embeddings: (n, d) or (d,), made by this inverter's recipe.
            decoding: how masks become tokens.
            search: guided inversion: what a search for each embedding's text may spend. It asks the encoder, until the
                text is exact. None: blind inversion.
            batch_size: canvases on the device at once, where inversion is blind. No result depends on it.
            measure_cosine: embed each finished text once to report its cosine (not an encoder call of the inversion).
                Without it up to 16 texts are embedded, to warn of another encoder's embeddings; none where the encoder
                stands behind an address or is not on this machine.
            normalize: scale embeddings to length 1 first.
            skip_bad: leave out embeddings that are none (`skipped` of their inversions says why).
            first_row: number of the first embedding in a larger file, so that its parts invert as the whole would.
            options: single fields of `decoding` and `search` by name, such as `steps=16`, `candidates=4` or
                `seconds=30`; they change those two (`plan`).

        Returns:
            One inversion for each embedding. Of several candidates it is the best, ranked by the cosine that the
            surrogate foresees and by how many words they share with the others (`ranked`), or by their cosine where
            there is a search.

        Raises:
            EmbeddingError: wrong dimension or rank, not finite, zero or not normalised.
            InputError: an option is impossible.
            EncoderError: guided, and the encoder fails.
        """
        decoding, search = self.plan(decoding, search, **options)
        rows, bad = check_rows(embeddings, self.recipe, normalize=normalize)
        if bad and not skip_bad:
            raise refusal("embeddings", {first_row + row: why for row, why in bad.items()}, len(rows))
        e_BD = torch.tensor(rows, device=self.device)
        found: list[Inversion] = []
        with tqdm(total=len(e_BD), desc="invert", disable=not show_progress_bar) as bar:
            if search is not None:
                for row, e_1D in enumerate(e_BD[:, None], first_row):  # none of none, where split gives one
                    if (why := bad.get(row - first_row)) is None:
                        *_, last = self._search(e_1D, decoding, search, row)
                    found.append(last if why is None else Inversion.of_none(why))
                    bar.update(1)
                return found
            at_once = max(1, batch_size // decoding.candidates)
            for start in range(0, len(e_BD), at_once):
                found += self._invert_batch(e_BD[start : start + at_once], decoding, first_row + start)
                bar.update(len(found) - bar.n)
        if measure_cosine and found:
            found = self.measured(found, rows)
        good = [row for row in range(len(found)) if row not in bad]
        if decoding.steps > 1:  # texts of a single pass come back badly, whoever made the embeddings
            reach = (self.results.get("evaluation") or {}).get("cosine")
            at_hand = None if measure_cosine else self._encoder_at_hand
            self._doubts, message = self._doubts.after(
                [found[row] for row in good], rows[good], first_row, self.recipe.encoder, reach, at_hand
            )
            if message:
                warnings.warn(message, stacklevel=2)
        return [Inversion.of_none(bad[row]) if row in bad else one for row, one in enumerate(found)]

    def stream(
        self,
        embedding: ArrayLike | Tensor,
        decoding: Decoding | None = None,
        *,
        normalize: bool = False,
        first_row: int = 0,
        **options: Unpack[Options],
    ) -> Iterator[Frame]:
        """Recover the text of one embedding (d,) blindly, yielding one frame a pass; frame 0 is all masks.

        Arguments and errors as for `invert`, whose one candidate for the embedding the last frame holds; options are
        checked before the first frame is asked for.
        """
        decoding, search = self.plan(decoding, None, **options)
        if search is not None or decoding.candidates > 1:
            raise InputError("a stream shows one blind candidate, expected no seconds, max_calls or candidates")
        e_BD = self._checked(embedding, normalize)
        if len(e_BD) != 1:
            raise EmbeddingError(f"stream takes one embedding, found {len(e_BD)}")
        return stream(self.denoiser, self.condition(e_BD), decoding, [first_row], steering=self.steering(e_BD))

    def search(
        self,
        embedding: ArrayLike | Tensor,
        decoding: Decoding | None = None,
        search: Search | None = None,
        *,
        normalize: bool = False,
        first_row: int = 0,
        **options: Unpack[Options],
    ) -> Iterator[Inversion]:
        """Recover the text of one embedding (d,) by guided inversion, yielding the best so far after each round.

        The first is the best of the blind candidates that it begins with. Arguments and errors as for `invert`, whose
        result for the embedding is the last one; without `search`, seconds and max_calls it takes 30 seconds. Options
        are checked before the first is asked for.
        """
        decoding, search = self.plan(decoding, search, **options)
        decoding, search = self.plan(decoding, search or Search(SECONDS))
        assert search is not None
        e_BD = self._checked(embedding, normalize)
        if len(e_BD) != 1:
            raise EmbeddingError(f"search takes one embedding, found {len(e_BD)}")
        return self._search(e_BD, decoding, search, first_row)

    def inversion(self, frame: Frame, row: int = 0) -> Inversion:
        """A frame's canvas as text; masks that are left are shown as nothing."""
        ids = frame.ids[row].tolist()
        content = self.tokenizer.content(ids)
        raw = frame.confidence[row].tolist()
        confidence = raw[: len(content)]
        return Inversion(
            text=self.tokenizer.decode(content),
            tokens=[self.tokenizer.token(i) for i in content],
            confidence=self.calibration.apply(confidence) if self.calibration else confidence,
            ids=ids,
            score=sum(math.log(max(c, 1e-9)) for c in raw) / len(raw),
            passes=int(frame.passes[row]),
            encoder_calls=0,
        )

    def ranked(
        self, frame: Frame, rows: Sequence[int], e_D: NDArray[np.float32], decoding: Decoding
    ) -> list[tuple[int, Inversion]]:
        """The blind candidates for one embedding (D,) in some rows of a frame, best first, each with its row.

        Which of several is nearest the surrogate tells better than the denoiser, and which has the words the others
        say: the score is the cosine that the surrogate foresees and `tuning.consensus` of the agreement with the
        others. The denoiser's confidence stays the score where there is no surrogate or nothing to choose from.
        """
        several = [self.inversion(frame, row) for row in rows]
        if self.surrogate is not None and len(several) > 1:
            texts = [self.tokenizer.content(one.ids) for one in several]
            scores = self.surrogate.cosines(texts, self.inner(e_D[None])[0]) + decoding.tuning.consensus * agreement(
                texts
            )
            several = [replace(one, score=float(score)) for one, score in zip(several, scores, strict=True)]
        return sorted(zip(rows, several, strict=True), key=lambda pair: -pair[1].score)

    def measured(self, found: list[Inversion], e_BD: NDArray[np.float32]) -> list[Inversion]:
        """Inversions of embeddings (B, D) with the cosine of each text, candidates included.

        Without an encoder they stay as they are, with a warning. Raises EncoderError where it fails.
        """
        try:
            encoder = self.encoder
        except EncoderError as error:
            warnings.warn(f"cosines are not measured: {error}", stacklevel=3)
            return found
        return with_cosines(found, e_BD, encoder)

    def _encoder_at_hand(self) -> Encoder | None:
        """The encoder, if it is on this machine: neither downloaded nor asked at a price."""
        try:
            if self._encoder is None:
                locate_encoder([self.recipe.encoder], self.recipe.revision, download=False)
            return self.encoder if self.encoder.network is not None else None
        except EncoderError:
            return None

    def _invert_batch(self, e_BD: Tensor, decoding: Decoding, first_row: int) -> list[Inversion]:
        candidates = decoding.candidates
        rows = range(first_row * candidates, (first_row + len(e_BD)) * candidates)
        modulation = self.condition(e_BD).repeat(candidates)
        *_, last = stream(self.denoiser, modulation, decoding, rows, steering=self.steering(e_BD, candidates))
        found = []
        for number, e_D in enumerate(e_BD.cpu().numpy()):
            rows = range(number * candidates, (number + 1) * candidates)
            several = [one for _, one in self.ranked(last, rows, e_D, decoding)]
            passes = sum(inversion.passes for inversion in several)
            found.append(replace(several[0], passes=passes, candidates=several if candidates > 1 else []))
        return found

    def _search(self, e_1D: Tensor, decoding: Decoding, search: Search, row: int) -> Iterator[Inversion]:
        """The best so far of a guided inversion, after its blind candidates and after each round."""
        surrogate = self.outer_surrogate
        assert surrogate is not None
        encoder = EncoderCalls(self.encoder, self._fast_lane(search), self.tokenizer, search, self.recipe.dimension)
        e_D = e_1D[0].cpu().numpy()
        denoiser = Conditioned(self.denoiser, self.tokenizer, e_D, self.inner)
        beginnings = Beginnings(denoiser, surrogate, decoding, search.tuning, row)
        searcher = Searcher(
            denoiser, beginnings, self.tokenizer, surrogate, encoder, e_D, decoding, search, row, self._learn
        )
        return inversions(
            searcher, None if search.journal_folder is None else Path(search.journal_folder) / f"{row}.npz"
        )

    _learn: Callable[[Sequence[tuple[int, ...]], NDArray[np.float32]], None] | None = None  # from a search's answers

    @property
    def outer_surrogate(self) -> Surrogate | None:
        """The surrogate of the encoder whose embeddings are given."""
        return self.surrogate

    def _fast_lane(self, search: Search) -> FastEncoder | None:
        """The encoder's, made once."""
        if self._fast is None and not search.frugal:
            self._fast = fast_lane(self.encoder, self.tokenizer)
        return None if search.frugal else self._fast

    def steering(self, e_BD: Tensor, candidates: int = 1) -> Steering | None:
        """What steers passes for embeddings (B, D), each as often as there are candidates.

        None without a surrogate whose tokens have learned what they contribute (`contributions`).
        """
        surrogate = self.outer_surrogate
        if surrogate is None or not surrogate.steers:
            return None
        return Steering(*surrogate.bag(self.device), e_BD.repeat_interleave(candidates, 0))

    @torch.inference_mode()
    def condition(self, e_BD: Tensor) -> Modulation:
        """What embeddings (B, d) do to the denoiser."""
        return self.denoiser.condition(self._inner(e_BD))

    def inner(self, e_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (B, d) as the denoiser and its surrogate know them, (B, D)."""
        return e_BD

    def _inner(self, e_BD: Tensor) -> Tensor:
        return torch.from_numpy(self.inner(e_BD.cpu().numpy())).to(e_BD.device)

    def _checked(self, embeddings: ArrayLike | Tensor, normalize: bool) -> Tensor:
        return torch.tensor(check_embeddings(embeddings, self.recipe, normalize=normalize), device=self.device)
