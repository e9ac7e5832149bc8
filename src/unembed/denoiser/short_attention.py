"""Attention over short texts on a GPU: one small program for each text and head, which keeps everything in registers.

A text has 32 positions where the kernels behind torch's `scaled_dot_product_attention` work in tiles of 64 and 128: at
these lengths they spend most of their time on padding, a quarter of a training step (experiments/LOG.md). Here a head's
queries, keys and values are one tile each, read from where the projection wrote them; the backward pass computes the
weights anew instead of reading them.

Shape suffixes as in model.py; P: L rounded up to a power of two, the side of a tile; K: the width of a head.

Triton comes with this module, so only what trains on a GPU imports it (`training/step.py`).
"""

import time
from typing import Any

import torch
import triton  # type: ignore
import triton.language as tl  # type: ignore
from torch import Tensor
from torch.nn import functional as F

LEAST_TILE = 16  # the smallest side of a product that the GPU's matrix units take
LONGEST = 64  # positions; beyond, torch's kernels fill their tiles
WIDTHS = (16, 32, 64, 128)  # of a head, K
WARPS = 1, 2  # of a program, in the forward and the backward pass, where a tile's side is at most 32
TOLERANCE = 0.02  # of the largest number: what bfloat16 leaves


@triton.jit  # type: ignore
def _tile(start, row_stride, length: tl.constexpr, P: tl.constexpr, K: tl.constexpr):  # type: ignore
    """Pointers (P, K) to a head's part of a text, and which of them lie inside the text (P, 1)."""
    rows = tl.arange(0, P)
    return start + rows[:, None] * row_stride + tl.arange(0, K)[None, :], (rows < length)[:, None]


@triton.jit  # type: ignore
def _weights(q, k, scale, length: tl.constexpr, P: tl.constexpr):  # type: ignore
    """softmax(q k^T) (P, P) in float32; no weight on what lies behind the text."""
    scores = tl.dot(q, tl.trans(k)) * scale
    scores = tl.where((tl.arange(0, P) < length)[None, :], scores, -float("inf"))
    scores = tl.exp(scores - tl.max(scores, 1)[:, None])
    return scores / tl.sum(scores, 1)[:, None]


@triton.jit  # type: ignore
def _forward(  # type: ignore
    qkv, mixed, scale, heads: tl.constexpr, length: tl.constexpr, P: tl.constexpr, K: tl.constexpr
):
    text, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    width = heads * K
    first = qkv + text.to(tl.int64) * length * 3 * width + head * K
    at, inside = _tile(first, 3 * width, length, P, K)
    q = tl.load(at, mask=inside, other=0.0)
    k = tl.load(at + width, mask=inside, other=0.0)
    v = tl.load(at + 2 * width, mask=inside, other=0.0)
    to, _ = _tile(mixed + text.to(tl.int64) * length * width + head * K, width, length, P, K)
    result = tl.dot(_weights(q, k, scale, length, P).to(v.dtype), v)
    tl.store(to, result.to(v.dtype), mask=inside)


@triton.jit  # type: ignore
def _backward(  # type: ignore
    qkv, grad_mixed, grad_qkv, scale, heads: tl.constexpr, length: tl.constexpr, P: tl.constexpr, K: tl.constexpr
):
    text, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    width = heads * K
    here = text.to(tl.int64) * length * 3 * width + head * K
    at, inside = _tile(qkv + here, 3 * width, length, P, K)
    q = tl.load(at, mask=inside, other=0.0)
    k = tl.load(at + width, mask=inside, other=0.0)
    v = tl.load(at + 2 * width, mask=inside, other=0.0)
    from_, _ = _tile(grad_mixed + text.to(tl.int64) * length * width + head * K, width, length, P, K)
    grad = tl.load(from_, mask=inside, other=0.0)
    weights = _weights(q, k, scale, length, P)
    grad_weights = tl.dot(grad, tl.trans(v))
    # The softmax's derivative; a row's mean is over all positions, weighted.
    grad_scores = weights * (grad_weights - tl.sum(weights * grad_weights, 1)[:, None]) * scale
    grad_scores = grad_scores.to(q.dtype)
    to, _ = _tile(grad_qkv + here, 3 * width, length, P, K)
    tl.store(to, tl.dot(grad_scores, k).to(q.dtype), mask=inside)
    tl.store(to + width, tl.dot(tl.trans(grad_scores), q).to(q.dtype), mask=inside)
    tl.store(to + 2 * width, tl.dot(tl.trans(weights.to(grad.dtype)), grad).to(q.dtype), mask=inside)


def _options(qkv_BLI: Tensor, heads: int, warps: int) -> tuple[tuple[int], dict[str, Any]]:
    """The grid, and what the kernels are compiled for."""
    batch, length, inner = qkv_BLI.shape
    width = inner // (3 * heads)
    tile = max(LEAST_TILE, triton.next_power_of_2(length))
    fixed = {"scale": width**-0.5, "heads": heads, "length": length, "P": tile, "K": width}
    return (batch * heads,), fixed | {"num_warps": warps if tile <= 32 else 4}


@torch.library.custom_op("unembed::short_attention", mutates_args=())
def short_attention(qkv_BLI: Tensor, heads: int) -> Tensor:
    """Self-attention in both directions, (B, L, 3 H) -> (B, L, H).

    Args:
        qkv_BLI: queries, keys and values beside each other, each with its heads side by side.
        heads: their number, N; H / N is one of `WIDTHS`, L at most `LONGEST`.
    """
    qkv_BLI = qkv_BLI.contiguous()
    mixed_BLH = qkv_BLI.new_empty(*qkv_BLI.shape[:2], qkv_BLI.shape[2] // 3)
    grid, options = _options(qkv_BLI, heads, WARPS[0])
    _forward[grid](qkv_BLI, mixed_BLH, **options)
    return mixed_BLH


@torch.library.custom_op("unembed::short_attention_backward", mutates_args=())
def short_attention_backward(qkv_BLI: Tensor, grad_BLH: Tensor, heads: int) -> Tensor:
    """The gradient (B, L, 3 H) of `short_attention` from that of its result (B, L, H)."""
    qkv_BLI, grad_BLH = qkv_BLI.contiguous(), grad_BLH.contiguous()
    grad_BLI = torch.empty_like(qkv_BLI)
    grid, options = _options(qkv_BLI, heads, WARPS[1])
    _backward[grid](qkv_BLI, grad_BLH, grad_BLI, **options)
    return grad_BLI


@short_attention.register_fake
def _(qkv_BLI: Tensor, heads: int) -> Tensor:
    return qkv_BLI.new_empty(*qkv_BLI.shape[:2], qkv_BLI.shape[2] // 3)


@short_attention_backward.register_fake
def _(qkv_BLI: Tensor, grad_BLH: Tensor, heads: int) -> Tensor:
    return qkv_BLI.new_empty(qkv_BLI.shape)


def _remember(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    qkv_BLI, ctx.heads = inputs
    ctx.save_for_backward(qkv_BLI)


def _gradient(ctx: Any, grad_BLH: Tensor) -> tuple[Tensor, None]:
    (qkv_BLI,) = ctx.saved_tensors
    return short_attention_backward(qkv_BLI, grad_BLH.to(qkv_BLI.dtype), ctx.heads), None


short_attention.register_autograd(_gradient, setup_context=_remember)


def torchs(qkv_BLI: Tensor, heads: int) -> Tensor:
    """The same by torch's own attention."""
    q, k, v = qkv_BLI.view(*qkv_BLI.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def speedup(batch: int, length: int, width: int, heads: int, device: torch.device) -> float:
    """How many times as fast as torch's attention this is in training, in bfloat16; 0 where it is wrong or unfit.

    Takes a second or two, most of it to compile. Measured each time, since it depends on the device and on torch.
    """
    if length > LONGEST or width // heads not in WIDTHS:
        return 0.0
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, length, 3 * width)
    qkv_BLI = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16).requires_grad_()
    grad_BLH = torch.randn((batch, length, width), generator=generator, device=device, dtype=torch.bfloat16)
    results, seconds = [], []
    for attention in (torchs, short_attention):
        for attempt in range(4):  # the first sets up
            if attempt == 1:
                torch.cuda.synchronize(device)
                begun = time.perf_counter()
            mixed_BLH = attention(qkv_BLI, heads)
            (grad_BLI,) = torch.autograd.grad(mixed_BLH, qkv_BLI, grad_BLH)
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
        results.append((mixed_BLH.detach().float(), grad_BLI.float()))
    for expected, found in zip(*results, strict=True):
        if not (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
            return 0.0
    return seconds[0] / seconds[1]
