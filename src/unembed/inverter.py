"""The inverter: embeddings in, texts out.

    inverter = Inverter.from_pretrained()
    inverter.invert(inverter.encode(["The cat sat on the mat."]))[0].text

Blind inversion does not ask the encoder while a text is being recovered: it is loaded only when something needs it,
`encode` or the cosine that is reported beside a finished text. Guided inversion (`rounds` > 0, see `guidance`) asks it.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from unembed.attack import attack, count_starts, plan
from unembed.calibration import Calibration
from unembed.checkpoint import Parts, load_inverter, save_inverter
from unembed.config import Config, Recipe
from unembed.consensus import agreement
from unembed.encoder import Encoder, check_embeddings, check_recipe, load_encoder
from unembed.errors import EmbeddingError, EncoderError, InputError
from unembed.inversion import Inversion, with_cosines
from unembed.model import Denoiser
from unembed.packaged import DEFAULT, locate
from unembed.precision import granted
from unembed.predictor import check, stream
from unembed.recipes import RECIPES
from unembed.search import BLIND, Answering, Differentiable, Search
from unembed.steering import Steering
from unembed.strategies import BALANCE, STEERING, Frame, Options, default_temperature
from unembed.surrogate import Imitation, Surrogate
from unembed.tokenizer import Tokenizer

CONSENSUS = 0.2  # what a candidate's agreement with the others counts beside the cosine that is foreseen


class Inverter:
    """A trained denoiser with its tokenizer and the recipe of the encoder it was trained for."""

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

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        device: str | torch.device = "cpu",
        encoder: Encoder | None = None,
        precision: str = "float32",
    ) -> Self:
        """Load an inverter.

        Args:
            name: an encoder with a packaged inverter (the default), a folder, a `.pt` file or a Hub id.
            encoder: the encoder to use instead of loading the recipe's own.
            precision: of the denoiser's products: float32, or bfloat16, which is several times faster where the
                processor has it and changes a token here and there. Where it would be slower, float32, with a warning.

        Raises:
            CheckpointError: there is no such inverter, or its files are damaged, incomplete or unsafe.
            RecipeError: `encoder` runs another recipe than the inverter was trained for.
        """
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"precision is {precision!r}, expected float32 or bfloat16")
        parts = load_inverter(locate(str(name) if name is not None else DEFAULT))
        parts.denoiser.precision = getattr(torch, granted(precision, device))
        return cls(parts._replace(denoiser=parts.denoiser.to(device)), encoder)

    def asking(self, encoder: Encoder) -> "Inverter":
        """The same inverter, sharing its weights, with another encoder to ask. Raises RecipeError."""
        return Inverter(self._parts, encoder)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the inverter's folder, whole or not at all. Raises OutputError."""
        parts = self._parts
        save_inverter(
            folder, parts.denoiser.state_dict(), parts.tokenizer, parts.config, parts.results, dtype,
            parts.calibration, parts.surrogate,
        )  # fmt: skip

    @property
    def _parts(self) -> Parts:
        surrogate = self.surrogate.fitted if self.surrogate else None
        return Parts(self.denoiser, self.tokenizer, self.config, self.results, self.calibration, surrogate)

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Upload the inverter's folder to the Hub; returns the address of the commit."""
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as parent:
            self.save_pretrained(Path(parent) / "inverter")
            return str(api.upload_folder(repo_id=repo_id, folder_path=Path(parent) / "inverter"))

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
        """The encoder, loaded when first asked for. Raises EncoderError."""
        if self._encoder is None:
            self._encoder = load_encoder(self.recipe, self.device)
        return self._encoder

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False
    ) -> NDArray[np.float32]:
        """Embeddings (n, d) float32 of texts, by the recipe. Raises EncoderError."""
        embeddings: NDArray[np.float32] = self.encoder.encode(texts, batch_size, show_progress_bar)
        return embeddings

    def invert(
        self,
        embeddings: ArrayLike | Tensor,
        steps: int = 8,
        strategy: str = "confidence",
        candidates: int = 1,
        rounds: int = 0,
        *,
        guidance: float = 0.0,
        balance: float = BALANCE,
        steering: float = STEERING,
        temperature: float | None = None,
        attacker: str | None = None,
        max_calls: int | None = None,
        proposals: int = Search.proposals,
        seed: int = 0,
        batch_size: int = 64,
        recipe: Recipe | str | None = None,
        measure_cosine: bool = True,
        first_row: int = 0,
        rounds_folder: str | Path | None = None,
        show_progress_bar: bool = False,
    ) -> list[Inversion]:
        """Recover a text from each embedding, from all masks, its length not given.

        Args:
            embeddings: (n, d) or (d,), made by this inverter's recipe.
            steps: most passes per candidate, 1 to L.
            candidates: texts per embedding, ranked by the cosine that the surrogate foresees and by how many words they
                share with the others (`ranked`), or by the attacker's cosine.
            rounds: most rounds of a search, which asks the encoder, or where the attacker is blind the surrogate; 0 is
                blind, or best of `candidates` for an attacker who is not.
            balance: how strongly later passes keep to the token counts that the first one expects; 0: not at all.
            steering: how strongly tokens are drawn towards those whose bag has the embedding, by the surrogate, where
                its tokens have contributions of their own; 0: not at all, so that the embedding enters through AdaLN
                alone. In a search what the denoiser fills in, too.
            temperature: 0 takes the best token; by default 0 for one candidate and 0.5 for several.
            attacker: "blind", "black-box" or "white-box"; by default blind without rounds, and with them a white box
                where the encoder gives gradients, else a black box.
            max_calls: most encoder calls per embedding; by default as many as the rounds take, about 18 each.
            proposals: texts asked about per round and embedding. More than 28 cost calls and next to no passes: for an
                encoder at hand, of which a call takes little time.
            seed: decides everything that is random; a row's result does not depend on `batch_size`.
            recipe: what the embeddings were made by, where known; checked against the inverter's.
            measure_cosine: embed each finished text once to report its cosine (not an encoder call of the inversion).
            first_row: number of the first embedding in a larger file, so that its parts invert as the whole would.
            rounds_folder: where a guided inversion keeps its last rounds, so that the same call after a kill goes on
                from them. They are the caller's to delete.

        Raises:
            EmbeddingError: wrong dimension or rank, not finite, zero or not normalised.
            RecipeError: `recipe` is not the inverter's.
            InputError: an option is impossible.
            EncoderError: guided, and the encoder fails.
        """
        wanted = Search(rounds, max_calls=max_calls, proposals=proposals, steering=steering, seed=seed)
        search = plan(wanted, attacker, candidates, self.surrogate, self._gives_gradients)
        starts = count_starts(search, candidates)
        options = self._options(steps, strategy, starts, guidance, balance, steering, temperature, seed)
        e_BD = self._checked(embeddings, recipe)
        at_once = max(1, batch_size // starts)
        found: list[Inversion] = []
        for start in tqdm(range(0, len(e_BD), at_once), desc="invert", unit="batch", disable=not show_progress_bar):
            chunk_BD = e_BD[start : start + at_once]
            blind = self._invert_batch(chunk_BD, starts, options, first_row + start)
            if search is None:
                found += blind
            else:
                kept = Path(rounds_folder) / f"{first_row + start}.npz" if rounds_folder is not None else None
                for reached in self._attack(chunk_BD, blind, search, candidates, first_row + start, kept):
                    last = reached
                found += last
        blind_search = search is None or search.attacker == BLIND
        return self._with_cosines(found, e_BD) if measure_cosine and blind_search and found else found

    def stream(
        self,
        embedding: ArrayLike | Tensor,
        steps: int = 8,
        strategy: str = "confidence",
        *,
        guidance: float = 0.0,
        balance: float = BALANCE,
        steering: float = STEERING,
        temperature: float | None = None,
        seed: int = 0,
        recipe: Recipe | str | None = None,
        first_row: int = 0,
    ) -> Iterator[Frame]:
        """Recover the text of one embedding (d,), yielding one frame a pass; frame 0 is all masks.

        Arguments and errors as for `invert`, whose one candidate for the embedding the last frame holds; options are
        checked before the first frame is asked for.
        """
        options = self._options(steps, strategy, 1, guidance, balance, steering, temperature, seed)
        e_BD = self._checked(embedding, recipe)
        if len(e_BD) != 1:
            raise EmbeddingError(f"stream takes one embedding, found {len(e_BD)}")
        return stream(self.denoiser, self._condition(e_BD), options, [first_row], steering=self.steering(e_BD))

    def search(
        self,
        embedding: ArrayLike | Tensor,
        rounds: int = 20,
        candidates: int = 1,
        steps: int = 8,
        strategy: str = "confidence",
        *,
        guidance: float = 0.0,
        balance: float = BALANCE,
        steering: float = STEERING,
        temperature: float | None = None,
        attacker: str | None = None,
        max_calls: int | None = None,
        proposals: int = Search.proposals,
        seed: int = 0,
        recipe: Recipe | str | None = None,
        first_row: int = 0,
    ) -> Iterator[Inversion]:
        """Recover the text of one embedding (d,) by guided inversion, yielding the best so far after each round.

        The first is the best of the texts that it begins with. Arguments and errors as for `invert`, whose result for
        the embedding is the last one; options are checked before the first is asked for.
        """
        wanted = Search(rounds, max_calls=max_calls, proposals=proposals, steering=steering, seed=seed)
        search = plan(wanted, attacker, candidates, self.surrogate, self._gives_gradients)
        if search is None:
            raise InputError(f"rounds is {rounds}, expected at least 1 for a guided inversion")
        starts = count_starts(search, candidates)
        options = self._options(steps, strategy, starts, guidance, balance, steering, temperature, seed)
        e_BD = self._checked(embedding, recipe)
        if len(e_BD) != 1:
            raise EmbeddingError(f"search takes one embedding, found {len(e_BD)}")

        def rounds_of_one() -> Iterator[Inversion]:
            blind = self._invert_batch(e_BD, starts, options, first_row)
            for found in self._attack(e_BD, blind, search, candidates, first_row):
                yield self._with_cosines(found, e_BD)[0] if search.attacker == BLIND else found[0]

        return rounds_of_one()

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

    def ranked(self, frame: Frame, rows: Sequence[int], e_D: NDArray[np.float32]) -> list[tuple[int, Inversion]]:
        """The blind candidates for one embedding (D,) in some rows of a frame, best first, each with its row.

        Which of several is nearest the surrogate tells better than the denoiser, and which has the words the others
        say: the score is the cosine that the surrogate foresees and `CONSENSUS` of the agreement with the others. The
        denoiser's confidence stays the score where there is no surrogate or nothing to choose from.
        """
        several = [self.inversion(frame, row) for row in rows]
        if self.surrogate is not None and len(several) > 1:
            texts = [self.tokenizer.content(one.ids) for one in several]
            scores = self.surrogate.cosines(texts, e_D) + CONSENSUS * agreement(texts)
            several = [replace(one, score=float(score)) for one, score in zip(several, scores, strict=True)]
        return sorted(zip(rows, several, strict=True), key=lambda pair: -pair[1].score)

    def _invert_batch(self, e_BD: Tensor, candidates: int, options: Options, first_row: int) -> list[Inversion]:
        rows = range(first_row * candidates, (first_row + len(e_BD)) * candidates)
        modulation = self._condition(e_BD).repeat(candidates)
        *_, last = stream(self.denoiser, modulation, options, rows, steering=self.steering(e_BD, candidates))
        found = []
        for number, e_D in enumerate(e_BD.cpu().numpy()):
            rows = range(number * candidates, (number + 1) * candidates)
            several = [one for _, one in self.ranked(last, rows, e_D)]
            passes = sum(inversion.passes for inversion in several)
            found.append(replace(several[0], passes=passes, candidates=several if candidates > 1 else []))
        return found

    def _attack(
        self,
        e_BD: Tensor,
        blind: Sequence[Inversion],
        search: Search,
        candidates: int,
        first_row: int,
        kept: Path | None = None,
    ) -> Iterator[list[Inversion]]:
        """See `attack`; a blind attacker's texts have no cosines yet."""
        if search.attacker == BLIND and self.surrogate is not None:
            encoder: Answering = Imitation(self.surrogate, self.tokenizer)
        else:
            encoder = self.encoder
        return attack(
            self.denoiser, self.tokenizer, self.surrogate, encoder, e_BD.cpu().numpy(), blind, search, candidates,
            first_row, kept,
        )  # fmt: skip

    def steering(self, e_BD: Tensor, candidates: int = 1) -> Steering | None:
        """What steers passes for embeddings (B, D), each as often as there are candidates.

        None without a surrogate whose tokens have learned what they contribute (`contributions`).
        """
        if self.surrogate is None or not self.surrogate.steers:
            return None
        x_VD, bias_D = self.surrogate.bag(self.device)
        return Steering(x_VD, bias_D, e_BD.repeat_interleave(candidates, 0))

    @torch.inference_mode()
    def _condition(self, e_BD: Tensor) -> Any:
        return self.denoiser.condition(e_BD)

    def _checked(self, embeddings: ArrayLike | Tensor, recipe: Recipe | str | None) -> Tensor:
        if recipe is not None:
            check_recipe(_known(recipe), self.recipe)
        return torch.tensor(check_embeddings(embeddings, self.recipe), device=self.device)

    def _options(
        self,
        steps: int,
        strategy: str,
        candidates: int,
        guidance: float,
        balance: float,
        steering: float,
        temperature: float | None,
        seed: int,
    ) -> Options:
        if temperature is None:
            temperature = default_temperature(candidates)
        options = Options(steps, strategy, temperature, guidance, seed, balance, steering)
        check(self.denoiser, options)
        return options

    def _gives_gradients(self) -> bool:
        return isinstance(self.encoder, Differentiable)

    def _with_cosines(self, found: list[Inversion], e_BD: Tensor) -> list[Inversion]:
        """The same inversions with the cosine of each text, candidates included; without an encoder as they are."""
        try:
            encoder = self.encoder
        except EncoderError as error:
            warnings.warn(f"cosines are not measured: {error}", stacklevel=3)
            return found
        return with_cosines(found, e_BD.cpu().numpy(), encoder)


def _known(recipe: Recipe | str) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe in RECIPES:
        return RECIPES[recipe]
    raise InputError(f"encoder {recipe!r} is not known by name, expected one of {', '.join(RECIPES)}, or a recipe")
