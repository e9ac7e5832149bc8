"""Adapting a denoiser to an aligner: its projection, trained on vectors as the aligner maps them.

A mapped vector lies off the true one, more in some directions than in others, and a denoiser that has seen none such
reads it badly. What a map of unseen texts gets wrong is known of the pairs, by cross-validation: it is a linear
function of the true vector y, which shrinks it, and a residual r that is not. Any text of which y is known, and the
inverter's own encoder makes it known, then has mapped vectors that it might have had,

    y -> normalised(y B + b + r),    r of a pair drawn at random

The blocks and the token table stay as they are: what they know of language does not depend on the encoder.
"""

import copy
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from unembed.alignment.linear import ridge
from unembed.config import DiffusionConfig
from unembed.denoiser.precision import granted
from unembed.errors import TrainingError
from unembed.inverter import Inverter
from unembed.objective.diffusion import training_loss

BATCH = 64
RATE = 1e-3  # of AdamW; falls to zero with the time
WARM_UP = 20  # steps
TRAINED = "projection."  # what reads an embedding first

Floats = NDArray[np.float32]


def adapt(
    inverter: Inverter, texts: Sequence[str], mapped: Floats, true: Floats, minutes: float, *, seed: int = 0,
    show_progress_bar: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Weights that take the place of the denoiser's, by their names in it.

    Args:
        inverter: is left as it is.
        texts: what to train on, cut to the inverter's length; the pairs' and others of the kind.
        mapped: of each pair the vector that a map gave which had not seen it, (N, D).
        true: of each pair the vector by the inverter's own encoder, (N, D).

    Raises:
        TrainingError: the loss is not finite.
        EncoderError: the inverter's encoder fails.
    """
    torch.manual_seed(seed)
    denoiser = copy.deepcopy(inverter.denoiser)
    tokenizer, length = inverter.tokenizer, inverter.length
    rows = [ids[:length] for ids in tokenizer.encode_batch(texts) if ids]
    true_ND = inverter.encode([tokenizer.decode(ids) for ids in rows], show_progress_bar=show_progress_bar)
    shrunk = ridge(true, mapped).linear
    residuals = torch.from_numpy(mapped - shrunk(true))
    bases_ND = torch.from_numpy(shrunk(true_ND))
    canvas_NL = torch.tensor([tokenizer.canvas(ids, length) for ids in rows])

    weights = {name: weight for name, weight in denoiser.named_parameters() if name.startswith(TRAINED)}
    for name, weight in denoiser.named_parameters():
        weight.requires_grad_(name in weights)
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    settings = DiffusionConfig(
        time_skew=2.0, condition_dropout=0.0, corrupt_visible=0.08, keep_visible=0.08, vocabulary_sample=2048
    )
    generator = torch.Generator().manual_seed(seed)
    device = denoiser.positions.device
    bfloat16 = granted("bfloat16", device) == "bfloat16"
    start, spent = time.monotonic(), 0.0
    with tqdm(total=round(60 * minutes), desc="adapt", unit=" s", leave=False, disable=not show_progress_bar) as bar:
        for step, chosen in enumerate(_batches(len(rows), generator), start=1):
            if spent >= 60 * minutes:
                break
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(step / WARM_UP, 1 - spent / (60 * minutes))
            other = torch.randint(len(residuals), (len(chosen),), generator=generator)
            e_BD = F.normalize(bases_ND[chosen] + residuals[other], dim=-1).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                found = training_loss(denoiser, canvas_NL[chosen].to(device), e_BD, settings, generator)
            found.loss.backward()  # type: ignore[no-untyped-call]
            if not torch.isfinite(torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)):
                raise TrainingError(f"the loss of adapting is {found.loss.item()}")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.set_postfix(loss=f"{found.loss.item():.2f}", refresh=False)
            bar.update(round(time.monotonic() - start) - round(spent))
            spent = time.monotonic() - start
    return {name: weight.detach().cpu() for name, weight in weights.items()}


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows in random order, again and again."""
    while True:
        yield from torch.randperm(n, generator=generator).split(BATCH)  # type: ignore[no-untyped-call]
