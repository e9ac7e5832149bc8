"""Which encoder made a collection's vectors, and whether it is the inverter's own.

What counts, in this order: the user's word; the texts beside the vectors, embedded by the inverter's own encoder; what
the store says; what the vectors say. A name that only a store says is never loaded: it may be anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unembed.alignment.identify import Guess, identify
from unembed.alignment.linear import normalised
from unembed.encoders.recipes import RECIPES, aliases
from unembed.errors import EncoderError, InputError, printable
from unembed.inverter import Inverter

ASKED = 16  # texts that are embedded to compare with their vectors
SAME = 0.99  # their median cosine from which the encoder is the inverter's own
OTHER = 0.5  # below it is not, whatever the store says; of unrelated encoders it is near 0
FEWEST = 5  # vectors that tell an encoder, see `identify`
NAMED = "the store names it"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Which:
    """What is known of the encoder.

    Attributes:
        name: `unknown` where nothing is.
        by: `declared`, `named`, `identified` or `unknown`, as in `findings.Audited`.
        own: whether it is the inverter's own; None where nothing tells, and the dimension is its.
        why: one sentence.
    """

    name: str
    by: str
    own: bool | None
    why: str


def which_encoder(
    vectors: NDArray[np.float32], texts: Sequence[str | None], said: str, declared: str | None, inverter: Inverter
) -> Which:
    """Tell the encoder.

    Args:
        vectors: some of a collection's, (n, d), finite and not zero.
        texts: of these rows, where there are any.
        said: what the store calls the encoder, or "".
        declared: what the user calls it.
        inverter: whose recipe is its own encoder's, and which embeds up to 16 texts, if its encoder can be loaded.

    Raises:
        EncoderError: the encoder fails.
        InputError: the user's word is wrong: the texts beside the vectors have them from the inverter's own encoder.
    """
    dimension = vectors.shape[1]
    fits = dimension == inverter.recipe.dimension
    cosine = _of_texts(vectors, texts, inverter) if fits else None
    if declared is not None:
        own_word = fits and is_own(declared, inverter)
        if not own_word and cosine is not None and cosine >= SAME:
            raise InputError(
                f"--encoder is {printable(declared)}, but {inverter.recipe.encoder} gives the texts beside the vectors "
                f"the same ones (median cosine {cosine:.3f}): leave --encoder out"
            )
        return Which(_whole_name(declared), "declared", own_word, "you name it")
    name, by, why, denied = _by_word_and_vectors(vectors, said, inverter)
    if cosine is not None and cosine >= SAME:
        why = f"it gives the texts beside the vectors the same ones (median cosine {cosine:.3f})"
        by = by if is_own(name, inverter) and by == "named" else "identified"
        return Which(_whole_name(inverter.recipe.encoder), by, True, why)
    own: bool | None = fits and is_own(name, inverter)
    if fits and cosine is not None and cosine < OTHER:
        contradicted = f", but {inverter.recipe.encoder} gives the texts beside them others (cosine {cosine:.2f})"
        return Which(name, by, False, why + contradicted * bool(own))
    if own and denied:
        return Which(name, by, False, f"{why}, but the vectors are not as it makes them")
    return Which(name, by, None if by == UNKNOWN and fits and not denied else own, why)


def _by_word_and_vectors(vectors: NDArray[np.float32], said: str, inverter: Inverter) -> tuple[str, str, str, bool]:
    """Name, how it is known, why, and whether the vectors speak against the inverter's own encoder."""
    guesses = identify(vectors)
    own = next((one for one in guesses if is_own(one.name, inverter)), None)
    denied = own is not None and own.likelihood == "unlikely"
    if said:
        named = next((one for one in identify(vectors, said) if NAMED in one.reasons), None)
        name = printable(said)[:200] if named is None else named.name
        return name, "named", "the store names it", denied
    likely = [one for one in guesses if one.likelihood in ("very likely", "likely")]
    if len(likely) == 1 and len(vectors) >= FEWEST:
        return likely[0].name, "identified", "; ".join(likely[0].reasons), denied
    return UNKNOWN, UNKNOWN, _possible(guesses), denied


def _possible(guesses: Sequence[Guess]) -> str:
    names = [one.name for one in guesses if one.likelihood != "unlikely"]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"nothing names it; possible are {', '.join(names[:5])}{more}" if names else "nothing names it"


def _of_texts(vectors: NDArray[np.float32], texts: Sequence[str | None], inverter: Inverter) -> float | None:
    """The median cosine of vectors to those that the inverter's encoder gives their texts; None without any."""
    rows = [row for row, text in enumerate(texts) if text and text.strip()][:ASKED]
    if not rows:
        return None
    try:
        encoder = inverter.encoder
    except EncoderError:
        return None
    found = normalised(encoder.encode([str(texts[row]) for row in rows]))
    return float(np.median((found * normalised(vectors[rows])).sum(1)))


def is_own(name: str, inverter: Inverter) -> bool:
    """Whether a name is one of the inverter's own encoder's."""
    own = inverter.recipe.encoder
    known = {one.casefold().rpartition("/")[2] for one in aliases(own) if not Path(one).is_dir()}
    return name == own or name.casefold().rpartition("/")[2] in known


def _whole_name(name: str) -> str:
    """The name by which the Hub knows an encoder, where it is a known one."""
    recipe = RECIPES.get(name)
    return name if recipe is None else max(aliases(recipe.encoder), key=len)
