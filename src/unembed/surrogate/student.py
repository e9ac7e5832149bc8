"""The student: what a bag of tokens cannot know of an embedding, learned from texts with their embeddings.

A small transformer beside the bag (`bag`): it reads the same token directions u_t, in their order, and its mean output
corrects the bag's embedding. It is trained by distillation (Hinton et al. 2015, arXiv 1503.02531; `distillation`) on
the encoder's embeddings of texts and of edits of them, so that it tells a text from its neighbours. None of the
encoder's layers is in it. It ranks the candidates of a blind inversion, and nothing else.

Shape suffixes as in denoiser/model.py; K: width.
"""

from typing import Self

import torch
from torch import Tensor, nn

from unembed.files.shapes import check_declared

HEAD = 32  # width of an attention head
LOUD = 20**0.5  # by which directions are scaled, so that their coordinates are of order one


class Student(nn.Module):
    """Token directions (B, L, H) and lengths -> what is to be added to the bag's embedding, (B, D), zero at first."""

    def __init__(self, features: int, dimension: int, positions: int, width: int = 256, blocks: int = 2) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.positions = nn.Parameter(torch.randn(positions, width) * 0.02)
        self.input_norm = nn.LayerNorm(width)
        block = nn.TransformerEncoderLayer(
            width, width // HEAD, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, blocks, nn.LayerNorm(width), enable_nested_tensor=False)
        self.output = nn.Linear(width, dimension)
        self.gain = nn.Parameter(torch.ones(1))  # of the bag
        for layer in self.blocks.layers:  # residual branches start as nothing
            nn.init.zeros_(layer.self_attn.out_proj.weight)
            nn.init.zeros_(layer.linear2.weight)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @classmethod
    def of(cls, state: dict[str, Tensor], features: int, dimension: int) -> Self:
        """A student with these weights, whose shapes tell its own. Raises KeyError, ValueError where they do not."""
        layers = {name.split(".")[2] for name in state if name.startswith("blocks.layers.")}
        shape = (features, dimension, len(state["positions"]), len(state["input.bias"]))
        check_declared(lambda: cls(*shape, blocks=1), "blocks.layers.", len(layers), state)
        student = cls(*shape, len(layers))
        student.load_state_dict(state)
        return student.eval().requires_grad_(False)

    def forward(self, u_BLH: Tensor, lengths_B: Tensor, bag_BD: Tensor) -> Tensor:
        """The embeddings (B, D) of texts, by their tokens' directions and what the bag makes of them."""
        inside_BL = torch.arange(u_BLH.shape[1], device=u_BLH.device) < lengths_B[:, None]
        x_BLK = self.input_norm(self.input(LOUD * u_BLH) + self.positions[: u_BLH.shape[1]])
        x_BLK = self.blocks(x_BLK, src_key_padding_mask=~inside_BL)
        mean_BK = (x_BLK * inside_BL[..., None]).sum(1) / lengths_B[:, None]
        corrected_BD: Tensor = self.gain * bag_BD + self.output(mean_BK)
        return corrected_BD
