"""A quick look at a denoiser while it trains; the honest figures come from `evaluate`."""

import torch
from torch import Tensor

from unembed.corpus.windows import Batch
from unembed.decoding.options import Decoding
from unembed.decoding.predictor import decode
from unembed.denoiser.model import Denoiser
from unembed.encoders.encoder import Encoder

SHARES = (0.1, 0.5, 1.0)
PASSES = 8


@torch.inference_mode()
def validate(denoiser: Denoiser, encoder: Encoder, batch: Batch, seed: int) -> dict[str, float]:
    """Accuracy on a held-out batch, over content tokens.

    Returns:
        `accuracy_10`, `accuracy_50`, `accuracy_100`: masked tokens restored by one pass at that share masked;
        `token_accuracy` and `cosine` of decoding from all masks in 8 passes;
        `corrected_accuracy` and `corrected_cosine` after one more pass with the result's embedding as feedback, where
        the denoiser takes it.
    """
    training, device = denoiser.training, denoiser.output_bias.device
    denoiser.eval()
    batch = batch.to(device)
    e_BD = batch.embeddings if batch.embeddings is not None else encoder.encode_tokens(batch.canvas, batch.lengths)
    modulation = denoiser.condition(e_BD)
    generator = torch.Generator().manual_seed(seed)
    content_BL = torch.arange(batch.canvas.shape[1], device=device) < batch.lengths[:, None]
    draw_BL = torch.rand(batch.canvas.shape, generator=generator).to(device)
    found = {}
    for share in SHARES:
        masked_BL = draw_BL < share
        hidden_BLH = denoiser.hidden(batch.canvas.masked_fill(masked_BL, denoiser.mask_id), modulation)
        chosen_BL = masked_BL & content_BL
        best = denoiser.logits(hidden_BLH[chosen_BL]).argmax(-1)
        found[f"accuracy_{share * 100:.0f}"] = (best == batch.canvas[chosen_BL]).float().mean().item()
    ids_BL = decode(denoiser, e_BD, Decoding(steps=min(PASSES, batch.canvas.shape[1]))).ids
    found["token_accuracy"] = (ids_BL == batch.canvas)[content_BL].float().mean().item()
    e_hat_BD, found["cosine"] = _embedded(encoder, ids_BL, e_BD)
    if denoiser.feedback is not None:
        modulation = denoiser.condition(e_BD, hypothesis_BD=e_hat_BD)
        ids_BL = denoiser.logits(denoiser.hidden(ids_BL, modulation)).argmax(-1)
        found["corrected_accuracy"] = (ids_BL == batch.canvas)[content_BL].float().mean().item()
        _, found["corrected_cosine"] = _embedded(encoder, ids_BL, e_BD)
    denoiser.train(training)
    return found


def _embedded(encoder: Encoder, ids_BL: Tensor, e_BD: Tensor) -> tuple[Tensor, float]:
    """Embeddings (B, D) of the canvases' texts, and their mean cosine to e (B, D)."""
    e_hat_BD = torch.from_numpy(encoder.encode([encoder.tokenizer.decode(row) for row in ids_BL.tolist()])).to(e_BD)
    return e_hat_BD, (e_hat_BD * e_BD).sum(1).mean().item()
