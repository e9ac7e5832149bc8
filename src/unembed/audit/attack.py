"""The attack on a collection's vectors: blind, guided or by an aligner, and the same on vectors that mean nothing.

| the encoder | attack |
| --- | --- |
| the inverter's own | blind; guided where seconds are given and the encoder can be asked |
| another, and an aligner is given | by that |
| another, and there are texts beside the vectors | by an aligner fitted on rows that are not sampled |
| another, without either | none |
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unembed.alignment.aligner import Aligner
from unembed.alignment.linear import normalised
from unembed.audit.options import AuditOptions
from unembed.audit.sample import Sample
from unembed.audit.which_encoder import UNKNOWN, Which
from unembed.config import Recipe
from unembed.decoding.inversion import Inversion
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.encoders.remote import RemoteEncoder
from unembed.errors import EncoderError
from unembed.inverter import Inverter
from unembed.search.options import Search
from unembed.stores.store import Rows
from unembed.training.align import Pairs, align

BATCH = 16  # rows that are inverted at once where inversion is blind
FEWEST_PAIRS = 64  # of which an aligner is fitted
UNASKED = "asking the encoder, which would find more and tell cosines"
RANDOM, RANDOM_GUIDED = 40, 5  # random vectors; a guided search for one spends all that it may

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Attack:
    """One way to recover a collection's texts.

    Attributes:
        kind: `blind`, `guided` or `aligned`.
        inverter: takes the collection's vectors, scaled to length 1.
        search: what a guided inversion may spend on a row.
        encoder: tells the cosine of a recovered text; None where it cannot be asked.
        tried, not_tried: sentences.
    """

    kind: str
    inverter: Inverter
    search: Search | None
    encoder: Encoder | None
    tried: tuple[str, ...]
    not_tried: tuple[str, ...] = ()

    def inversions(self, vectors: Floats, first: int = 0, journal: Path | None = None) -> Iterator[list[Inversion]]:
        """What comes back from vectors (n, d), batch by batch.

        Args:
            first: number of the first one, which decides the random numbers.
            journal: folder where a search keeps how far it has come.

        Raises:
            EncoderError: guided, and the encoder fails.
        """
        search = self.search and replace(self.search, journal_folder=journal)
        size = BATCH if search is None else 1
        inverter = copy.copy(self.inverter)  # whose doubts about other vectors are not carried over
        for start in range(0, len(vectors), size):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "these vectors are probably not")  # the baselines tell that here
                yield inverter.invert(
                    vectors[start : start + size], search=search, measure_cosine=False, normalize=True,
                    first_row=first + start, batch_size=size,
                )  # fmt: skip


def choose(sample: Sample, which: Which, inverter: Inverter, options: AuditOptions) -> Attack | str:
    """The attack that fits a collection, or why there is none.

    Args:
        inverter: for its own encoder's vectors.

    Raises:
        CheckpointError, RecipeError: `options.aligner` is no aligner, or for another inverter.
        EncoderError: an encoder that is asked fails.
        InputError: guided, and the inverter has no surrogate.
    """
    search = None if options.seconds is None else Search(options.seconds)
    own = which.own is not False
    found: Attack | str = (
        _of_own_encoder(which, inverter, options, search) if own else _aligned(sample, which, inverter, options, search)
    )
    if isinstance(found, Attack) and found.encoder is None and not _told(sample.rows):
        return (
            "rows have neither texts nor hashes, and their encoder cannot be asked, so that nothing would tell a right "
            f"text from a wrong one: {found.not_tried[0]}"
        )
    return found


def _of_own_encoder(which: Which, inverter: Inverter, options: AuditOptions, search: Search | None) -> Attack:
    try:
        if options.encoder_url is not None:
            remote = RemoteEncoder(options.encoder_url, inverter.recipe, inverter.tokenizer, options.encoder_model)
            remote.probe()
            inverter = inverter.asking(remote)
        encoder: Encoder | None = inverter.encoder
    except EncoderError as error:
        if options.encoder_url is not None:
            raise
        return Attack("blind", inverter, None, None, (_guided(None),), (f"{UNASKED} ({error})",))
    missing = _further(search)
    if which.own is None:
        missing = (*missing, f"an aligner: it is not known whether {inverter.recipe.encoder} made these vectors")
    return Attack("blind" if search is None else "guided", inverter, search, encoder, (_guided(search),), missing)


def _aligned(
    sample: Sample, which: Which, inverter: Inverter, options: AuditOptions, search: Search | None
) -> Attack | str:
    pairs, dimension = sample.pairs, sample.rows.vectors.shape[1]
    given = Aligner.load(options.aligner) if options.aligner is not None else None
    if given is not None and given.source.dimension != dimension:
        return f"the aligner takes {given.source.dimension} dimensions, these vectors have {dimension}"
    if given is None and len(pairs) < FEWEST_PAIRS:
        return (
            f"{which.name if which.name != UNKNOWN else 'the encoder, which is not known,'} is not the inverter's "
            f"({inverter.recipe.encoder}), and {len(pairs)} rows have a text besides those sampled, expected "
            f"{FEWEST_PAIRS} to fit an aligner; `unembed align` makes one, --aligner takes it"
        )
    recipe = given.source if given is not None else Recipe(which.name[:4096], dimension)
    other, why_not = _other_encoder(recipe, inverter, options, named=which.by == "declared")
    if given is None:
        fitted_on = Pairs([str(text) for text in pairs.texts], normalised(pairs.vectors), True)
        given = align(inverter, fitted_on, recipe if other is None else other.recipe, seed=options.seed)
        told = (
            f"an aligner fitted on {len(pairs):,} texts of this collection with their vectors, none of them sampled; "
            f"its vectors have a cosine of {given.about['cosine']['value']:.2f} to the true ones"
        )
    else:
        told = f"the aligner {options.aligner}, fitted on {given.about.get('pairs', 0):,} pairs"
    if other is None:
        return Attack("aligned", inverter.aligned(given), None, None, (told,), (f"{UNASKED} ({why_not})",))
    return Attack("aligned", inverter.aligned(given, other), search, other, (told, _guided(search)), _further(search))


def _told(rows: Rows) -> bool:
    """Whether anything in the store tells a right text from a wrong one."""
    return any(text and text.strip() for text in rows.texts) or any(rows.hashes or ())


def _guided(search: Search | None) -> str:
    if search is None:
        return "blind inversion: no text is embedded while one is recovered"
    return f"guided inversion, {search.seconds or 0:g} s a row: the encoder is asked about each guess"


def _further(search: Search | None) -> tuple[str, ...]:
    if search is None:
        return ("guided inversion, which finds more texts exactly: --seconds N asks the encoder for N seconds a row",)
    return ("longer searches, and inverters trained longer or on texts like these",)


def _other_encoder(
    recipe: Recipe, inverter: Inverter, options: AuditOptions, named: bool
) -> tuple[Encoder | None, str]:
    """The other encoder, if the user has named one that can be asked; else why not."""
    if options.encoder_url is not None:
        remote = RemoteEncoder(options.encoder_url, recipe, inverter.tokenizer, options.encoder_model)
        remote.probe()
        return remote, ""
    if options.encoder is None or not named:
        return None, "--encoder names a folder or a Hub id of it, --encoder-url an address"
    try:
        encoder = load_encoder(options.encoder, inverter.device)
    except EncoderError as error:
        return None, str(error)
    if encoder.recipe.dimension != recipe.dimension:
        return (
            None,
            f"{options.encoder} gives {encoder.recipe.dimension} dimensions, these vectors have {recipe.dimension}",
        )
    return encoder, ""


def random_vectors(vectors: Floats, count: int, seed: int) -> Floats:
    """Vectors (count, d) of length 1 that mean nothing: Gaussian, with the mean and the covariance of these (n, d).

    The fewer vectors, the more of the covariance is the same in all directions (a share of d / (n + d)): else few
    vectors would be drawn again in part.
    """
    x_ND = normalised(vectors).astype(np.float64)
    n, d = x_ND.shape
    mean_D = x_ND.mean(0)
    generator = np.random.default_rng((seed, 3))
    share = d / (n + d)
    own_MD = generator.standard_normal((count, n)) @ (x_ND - mean_D) / max(1, n - 1) ** 0.5
    deviation = (((x_ND - mean_D) ** 2).sum() / max(1, n - 1) / d) ** 0.5 or d**-0.5
    noise_MD = deviation * generator.standard_normal((count, d))
    return normalised(mean_D + (1 - share) ** 0.5 * own_MD + share**0.5 * noise_MD)
