"""One step of training: the batch on its device with its embeddings, and the loss as a module, compiled for a GPU."""

import warnings
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from unembed.config import Config, TrainingConfig
from unembed.corpus.windows import Batch
from unembed.decoding.guesses import Choose, choose
from unembed.denoiser.model import Block, Denoiser
from unembed.encoders.encoder import Encoder
from unembed.objective.autoregressive import autoregressive_loss
from unembed.objective.diffusion import CrossEntropy, Hypotheses, Loss, noisy, training_loss, whole_cross_entropy
from unembed.objective.feedback import guessed_rows, make_hypotheses


def embedded(
    batch: Batch, encoder: Encoder, device: torch.device, aside: torch.cuda.Stream | None = None
) -> tuple[Tensor, Tensor]:
    """The batch's canvas (B, L) and embeddings (B, d), stored ones or computed now by the frozen encoder, on `device`.

    Args:
        aside: stream of a GPU to embed in. transformers looks at the padding mask, and so waits for all that its stream
            has still to do: in the training's own a whole step, after which the GPU would wait for the next to begin.
    """
    with torch.cuda.stream(aside) if aside is not None else nullcontext():
        batch = batch.to(device)
        canvas_BL, e_BD = batch.canvas, batch.embeddings
        if e_BD is None:
            e_BD = encoder.encode_tokens(canvas_BL, batch.lengths)
    if aside is not None:
        current = torch.cuda.current_stream(device)
        current.wait_stream(aside)
        for tensor in (canvas_BL, e_BD):
            tensor.record_stream(current)  # its memory belongs to `aside`, which may be ahead
    return canvas_BL, e_BD


class TrainingStep(nn.Module):
    """The loss as a module's forward, which is what data-parallel training wraps."""

    def __init__(self, denoiser: Denoiser, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.config = config
        self.embed = encoder.encode_tokens
        self.cross_entropy: CrossEntropy | None = None
        self.choose: Choose = choose

    def forward(self, canvas_BL: Tensor, e_BD: Tensor, generator: torch.Generator) -> Loss:
        settings = self.config.diffusion
        guessed = guessed_rows(settings.feedback_share, len(canvas_BL))
        # Not of hypotheses: the noise would be longer than what a good one lacks.
        e_BD = torch.cat([e_BD[:guessed], noisy(e_BD[guessed:], settings.embedding_noise, generator)])
        with autocast(canvas_BL.device, self.config.training):
            if self.config.model.causal:
                return autoregressive_loss(self.denoiser, canvas_BL, e_BD, settings, generator)
            hypotheses: Hypotheses | None = None
            if guessed:
                hypotheses = make_hypotheses(
                    self.denoiser, self.embed, canvas_BL[:guessed], e_BD[:guessed], generator, self.choose
                )
            # By its name in this module, where a test may put another in its place.
            return training_loss(self.denoiser, canvas_BL, e_BD, settings, generator, hypotheses, self.cross_entropy)

    def compile_parts(self) -> None:
        """Compile what most of a step's time goes to: a block, once for all of them, and what reads whole vocabularies.

        A GPU's kernels then read and write each tensor once. To compile all blocks as one takes minutes more, and
        gains nothing between them.
        """
        model, device = self.config.model, self.denoiser.positions.device
        if device.type == "cuda" and not model.causal and short_is_faster(self.config, device):
            from unembed.denoiser.short_attention import short_attention

            for attention in (block.attention for block in cast(list[Block], self.denoiser.blocks)):
                attention.packed = short_attention
        for block in self.denoiser.blocks:
            block.compile(dynamic=False)
        self.cross_entropy = torch.compile(whole_cross_entropy, dynamic=False)
        self.choose = torch.compile(choose, dynamic=False)


def short_is_faster(config: Config, device: torch.device) -> bool:
    """Whether `short_attention` works on this GPU and is faster than torch's; a warning where it is not."""
    model, batch = config.model, config.training.batch_size
    try:  # what Triton raises where it does not suit the GPU, its driver or torch depends on their versions
        from unembed.denoiser.short_attention import speedup

        gain = speedup(batch, model.max_tokens, model.width, model.heads, device)
        if gain <= 1:
            warnings.warn(
                f"short attention would run at {gain:.2f} of the speed of torch's, which is used", stacklevel=2
            )
        return gain > 1
    except Exception as error:
        warnings.warn(f"torch's attention is used: {type(error).__name__}: {error}", stacklevel=2)
        return False


def autocast(device: torch.device, settings: TrainingConfig) -> torch.autocast:
    """Mixed precision as the configuration says, whatever `accelerate launch` was told."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")
