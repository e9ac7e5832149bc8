"""What a user chooses of an audit. Kept free of heavy imports, since the command line reads it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from unembed.errors import InputError

SAMPLE = 200


@dataclass(frozen=True)
class AuditOptions:
    """Options of an audit. Raises InputError.

    Attributes:
        sample: rows that are attacked, over all collections; of each at least 20, or all that it has.
        seed: decides which rows, and everything else that is random.
        seconds: that a guided inversion may take for a row; None: blind.
        deadline: seconds for the whole audit. What is done by then is reported.
        encoder: what made the vectors: a known name, a folder or a Hub id.
        encoder_url: an address behind which it can be asked.
        encoder_model: what the address calls it.
        aligner: folder of an aligner, for collections of another encoder than the inverter's.
        model: the inverter; the packaged one where not given.
        device: of the inverter, as torch names it; auto: cuda where there is one.
        defences: price them on the largest collection.
        without_texts: use neither texts nor hashes of the store, as who has its vectors alone. The encoder alone
            decides what came back.
        show_text: whether reports show recovered text.
    """

    sample: int = SAMPLE
    seed: int = 0
    seconds: float | None = None
    deadline: float | None = None
    encoder: str | None = None
    encoder_url: str | None = None
    encoder_model: str | None = None
    aligner: str | None = None
    model: str | None = None
    device: str = "cpu"
    defences: bool = False
    without_texts: bool = False
    show_text: bool = False

    def __post_init__(self) -> None:
        for name, least in (("sample", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("seconds", "deadline"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}, expected more than 0")
        if self.encoder_model is not None and self.encoder_url is None:
            raise InputError("encoder_model is for an encoder behind an address, expected encoder_url too")

    @property
    def deciding(self) -> dict[str, Any]:
        """Those that decide the results, JSON-ready: an audit that was interrupted goes on where they are the same."""
        left_out = ("deadline", "device", "defences", "show_text", "encoder_url")
        return {name: value for name, value in asdict(self).items() if name not in left_out}
