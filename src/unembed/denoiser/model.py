"""The denoiser: a bidirectional transformer that an embedding modulates through AdaLN-Zero.

Shape suffixes: B batch, L positions, H width, D embedding, C condition width, V vocabulary, N heads, R rows
chosen from the canvas.

    e (B, D) -> projection MLP -> SiLU -> c (B, C), e -> AdaLN of each block -> shift, scale, gate (B, H)
    canvas (B, L) -> token table + positions -> blocks -> final norm -> token table^T -> logits

What is unusual here:

- There is no time conditioning: the number of masks tells the noise level (arXiv 2406.03736), so the
  modulation depends on the embedding alone. `condition` computes it once per inversion; `hidden` takes it.
- The embedding is read by a wide network, and once more directly: this happens once per text, not once per token, so
  that it costs next to nothing, and a narrow network loses words (`runs/words.py`). For the same reason the
  last norm's AdaLN has full rank, whatever that of the blocks.
- Gates enter as `1 + gate`. With everything that AdaLN produces starting at zero, the network starts
  as a vanilla pre-norm transformer, whatever the embedding. (DiT's zero gates, arXiv 2212.09748,
  would start it as the identity.)
- Layer norms carry no weights of their own: the bias of the AdaLN layer is their shift and scale.
- A denoiser with feedback (`ModelConfig.feedback`) may be told the embedding of a hypothesis, e_hat, beside e: AdaLN
  then also depends on e_hat and on the direction of e - e_hat. Both are zero when blind, which changes nothing.
- Input and output share the token table. The logit of [MASK] is -inf (arXiv 2406.07524, section 3.2.3).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unembed.config import ModelConfig

LEAST_MISSING = 0.05  # length of e - e_hat (a cosine of .9987) below which it is no longer scaled up


class Modulation(NamedTuple):
    """What an embedding does to the network: shifts, scales and gates, for every block.

    Rows can be indexed, repeated and concatenated, so that a batch may gain and lose members.
    """

    blocks: Tensor  # (B, blocks, 6, H): shift, scale, gate of attention, then of feed-forward
    final: Tensor  # (B, 2, H): shift, scale of the last norm

    def rows(self, index: Tensor | slice) -> "Modulation":
        """The modulation of the chosen rows of the batch."""
        return Modulation(self.blocks[index], self.final[index])

    def repeat(self, times: int) -> "Modulation":
        """Each row `times` times, neighbours together."""
        return Modulation(self.blocks.repeat_interleave(times, 0), self.final.repeat_interleave(times, 0))


class AdaLN(nn.Module):
    """What is known of a text (B, F) -> `chunks` vectors (B, chunks, H), all zero at initialisation.

    With rank r > 0 the matrix is the product of an (r, F) and a (chunks * H, r) matrix; the second
    starts at zero.
    """

    def __init__(self, features: int, width: int, chunks: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(features, rank, bias=False) if rank else nn.Identity()
        self.up = nn.Linear(rank or features, chunks * width)
        self.chunks = chunks

    def forward(self, known_BF: Tensor) -> Tensor:
        flat_BK: Tensor = self.up(self.down(known_BF))
        return flat_BK.view(len(flat_BK), self.chunks, -1)


class Attention(nn.Module):
    """Multi-head self-attention over all positions, in both directions unless `causal`."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.packed: Callable[[Tensor, int], Tensor] | None = None  # `short_attention`, where training found it faster
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLH: Tensor, past: list[Tensor] | None = None) -> Tensor:
        qkv_BLI = self.qkv(x_BLH)
        if self.packed is not None and past is None:
            return cast(Tensor, self.out(self.packed(qkv_BLI, self.heads)))
        q, k, v = qkv_BLI.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, N, L, H/N)
        if past is not None:  # keys and values of the positions before these; takes theirs in
            past[:] = k, v = [torch.cat(pair, dim=2) for pair in zip(past, (k, v), strict=True)] if past else [k, v]
        mixed: Tensor = self.out(attend(q, k, v, self.causal).transpose(1, 2).flatten(2))
        return mixed


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Scaled dot-product attention, each argument (B, N, L, K). The last query stands at the last key's place."""
    if q.is_cuda and (not causal or q.shape[2] in (1, k.shape[2])):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal and q.shape[2] > 1)
    # On a CPU, at 32 positions, torch's fused kernel makes a training step 1.5 times slower than two products.
    scores_BNLL = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).float()
    if causal and q.shape[2] > 1:
        later_LL = torch.ones(scores_BNLL.shape[-2:], dtype=torch.bool, device=q.device)
        scores_BNLL = scores_BNLL.masked_fill(later_LL.triu(1 + k.shape[2] - q.shape[2]), -torch.inf)
    return torch.matmul(scores_BNLL.softmax(-1).to(v.dtype), v)


class Block(nn.Module):
    """One pre-norm transformer block with its six modulation vectors."""

    def __init__(self, config: ModelConfig, features: int) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads, config.causal)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, config.feed_forward),
            nn.GELU(),
            nn.Linear(config.feed_forward, config.width),
        )
        self.adaln = AdaLN(features, config.width, 6, config.adaln_rank)

    def forward(self, x_BLH: Tensor, modulation_B6H: Tensor, past: list[Tensor] | None = None) -> Tensor:
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation_B6H.unsqueeze(2).unbind(1)  # each (B, 1, H)
        x_BLH = x_BLH + (1 + gate_a) * self.attention(modulate(x_BLH, shift_a, scale_a), past)
        x_BLH = x_BLH + (1 + gate_f) * self.feed_forward(modulate(x_BLH, shift_f, scale_f))
        return x_BLH


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm: `norm(x) * (1 + scale) + shift` (arXiv 2212.09748, section 3.2)."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Denoiser(nn.Module):
    """Token ids with masks and an embedding -> logits for every position.

    Args:
        vocab_size: rows V of the token table, [MASK] included.
        dimension: length D of an embedding.
        mask_id: the id of [MASK], which is never predicted.
        config: the network's shape.
        end_ids: the tokens that fill a canvas behind its text, EOS and PAD; no weights hang on them.
    """

    def __init__(
        self, vocab_size: int, dimension: int, mask_id: int, config: ModelConfig, end_ids: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.config = config
        self.mask_id = mask_id
        self.end_ids = end_ids
        self.precision = torch.float32  # in which a pass multiplies when decoding; weights stay as they are
        self.dimension = dimension
        self.table = nn.Embedding(vocab_size, config.width)
        self.output_bias = nn.Parameter(torch.empty(vocab_size))
        self.positions = nn.Parameter(torch.empty(config.max_tokens, config.width))
        self.embedding_norm = nn.LayerNorm(config.width)
        self.null_embedding = nn.Parameter(torch.empty(dimension))
        condition = config.condition_width or 2 * config.width
        self.projection = nn.Sequential(
            nn.Linear(dimension, 2 * condition), nn.GELU(), nn.Linear(2 * condition, condition)
        )
        self.feedback = nn.Linear(2 * dimension, 2 * condition + dimension, bias=False) if config.feedback else None
        features = condition + dimension
        self.blocks = nn.ModuleList(Block(config, features) for _ in range(config.blocks))
        self.final_adaln = AdaLN(features, config.width, 2, rank=0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal(0, 0.02) matrices, residual branches scaled by depth, AdaLN's last layers zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.positions, std=0.02)
        nn.init.zeros_(self.null_embedding)
        nn.init.zeros_(self.output_bias)
        for module in self.projection:
            if isinstance(module, nn.Linear):  # c of order one from the start: it is all that tells texts apart
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if self.feedback is not None:  # so that weights trained without it stay what they are
            nn.init.zeros_(self.feedback.weight)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(("attention.out.weight", "feed_forward.2.weight")):
                parameter.div_(math.sqrt(2 * self.config.blocks))
        for module in self.modules():
            if isinstance(module, AdaLN):
                if isinstance(module.down, nn.Linear):
                    nn.init.normal_(module.down.weight, std=module.down.in_features**-0.5)
                nn.init.zeros_(module.up.weight)
                nn.init.zeros_(module.up.bias)

    def condition(self, e_BD: Tensor, drop_B: Tensor | None = None, hypothesis_BD: Tensor | None = None) -> Modulation:
        """The modulation by embeddings e (B, D), to be computed once per inversion.

        Only the direction of an embedding is used, scaled to coordinates of order one. Rows where the
        boolean `drop_B` holds get the learned null embedding instead. A denoiser with feedback may be given the
        embeddings of hypotheses (B, D); a row of zeros stands for none.
        """
        scale, dtype = math.sqrt(self.dimension), self.output_bias.dtype
        x_BD = F.normalize(e_BD.float(), dim=-1) * scale
        if drop_B is not None:
            x_BD = torch.where(drop_B[:, None], self.null_embedding.float(), x_BD)
        x_BD = x_BD.to(dtype)
        inner_BK = self.projection[0](x_BD)
        if hypothesis_BD is not None and self.feedback is not None:
            known_B1 = hypothesis_BD.any(-1, keepdim=True)
            if drop_B is not None:  # what is missing would tell e
                known_B1 = known_B1 & ~drop_B[:, None]
            guess_BD = F.normalize(hypothesis_BD.float(), dim=-1)
            # Its direction, however little is missing, down to what training in bfloat16 can tell from nothing.
            missing_BD = F.normalize(F.normalize(e_BD.float(), dim=-1) - guess_BD, dim=-1, eps=LEAST_MISSING)
            told_BF = self.feedback((torch.cat([guess_BD, missing_BD], -1) * known_B1 * scale).to(dtype))
            inner_BK, x_BD = inner_BK + told_BF[:, : -self.dimension], x_BD + told_BF[:, -self.dimension :]
        c_BC = F.silu(self.projection[2](self.projection[1](inner_BK)))
        known_BF = torch.cat([c_BC, x_BD.to(c_BC.dtype)], -1)
        return Modulation(
            torch.stack([block.adaln(known_BF) for block in cast(list[Block], self.blocks)], 1),
            self.final_adaln(known_BF),
        )

    def unconditional(self, batch: int) -> Modulation:
        """The modulation by the null embedding, `batch` rows of it."""
        nothing_BD = self.null_embedding.new_zeros(batch, self.dimension)
        return self.condition(nothing_BD, nothing_BD.new_ones(batch, dtype=torch.bool))

    def hidden(self, ids_BL: Tensor, modulation: Modulation, past: list[list[Tensor]] | None = None) -> Tensor:
        """One pass without the vocabulary: canvas (B, L) -> (B, L, H). L is at most `config.max_tokens`.

        A causal network may be given its tokens bit by bit: `past` holds a list for each block, empty at first, which
        keeps the keys and values of the positions before `ids_BL` and takes in those of these.
        """
        before = past[0][0].shape[2] if past and past[0] else 0
        x_BLH = self.embedding_norm(self.table(ids_BL) + self.positions[before : before + ids_BL.shape[1]])
        pasts = past if past is not None else [None] * len(self.blocks)
        for block, modulation_B6H, of_block in zip(self.blocks, modulation.blocks.unbind(1), pasts, strict=True):
            x_BLH = block(x_BLH, modulation_B6H, of_block)
        shift, scale = modulation.final.unsqueeze(2).unbind(1)
        return modulate(x_BLH, shift, scale)

    def logits(self, hidden_RH: Tensor) -> Tensor:
        """Hidden vectors (..., H) of the positions that matter -> logits (..., V), [MASK] at -inf."""
        return F.linear(hidden_RH, self.table.weight, self.allowed_bias())

    def allowed_bias(self) -> Tensor:
        """The output bias (V,), [MASK]'s at -inf: in here that costs no pass over the logits."""
        forbidden_V = torch.zeros_like(self.output_bias, dtype=torch.bool)
        forbidden_V[self.mask_id] = True
        return self.output_bias.masked_fill(forbidden_V, -torch.inf)

    def forward(self, ids_BL: Tensor, e_BD: Tensor) -> Tensor:
        """Canvas (B, L) and embeddings (B, D) -> logits (B, L, V): a whole pass, every position projected."""
        return self.logits(self.hidden(ids_BL, self.condition(e_BD)))


def count_parameters(denoiser: Denoiser) -> int:
    """Parameters without the token table and its output bias, as the published 78 M is counted."""
    vocabulary = denoiser.table.weight.numel() + denoiser.output_bias.numel()
    return sum(p.numel() for p in denoiser.parameters()) - vocabulary
