"""Attention over short texts against torch's own: on a GPU as it runs there, elsewhere in Triton's interpreter."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, and where a kernel is defined
pytest.importorskip("triton", reason="Triton is not installed; it comes with torch's CUDA builds")

from unembed.denoiser.model import Attention
from unembed.denoiser.short_attention import LONGEST, short_attention, speedup, torchs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("length", "heads", "width"), [(32, 3, 32), (12, 2, 16), (5, 1, 64), (33, 2, 16), (1, 1, 16)])
def test_values_and_gradients_are_torchs(length: int, heads: int, width: int) -> None:
    generator = torch.Generator(DEVICE).manual_seed(length)
    qkv = torch.randn(2, length, 3 * heads * width, generator=generator, device=DEVICE).requires_grad_()
    weight = torch.randn(2, length, heads * width, generator=generator, device=DEVICE)
    tolerance = {"atol": 1e-5, "rtol": 1e-4} if DEVICE == "cpu" else {"atol": 2e-2, "rtol": 2e-2}  # TF32 there
    found, expected = short_attention(qkv, heads), torchs(qkv, heads)
    torch.testing.assert_close(found, expected, **tolerance)
    gradients = [torch.autograd.grad((one * weight).sum(), qkv)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, **tolerance)


def test_torch_knows_its_shapes_and_derivative() -> None:
    qkv = torch.randn(1, 16, 3 * 16, device=DEVICE)
    torch.library.opcheck(short_attention, (qkv.requires_grad_(), 1), atol=2e-2, rtol=2e-2)


def test_a_layer_gives_the_same_with_it() -> None:
    torch.manual_seed(0)
    layer = Attention(32, 2).to(DEVICE)
    x = torch.randn(3, 9, 32, device=DEVICE)
    expected = layer(x)
    layer.packed = short_attention
    torch.testing.assert_close(layer(x), expected, atol=1e-2 if DEVICE == "cuda" else 1e-5, rtol=1e-3)


def test_what_it_does_not_suit_is_refused() -> None:
    device = torch.device(DEVICE)
    assert speedup(2, LONGEST + 1, 64, 2, device) == 0
    assert speedup(2, 32, 60, 3, device) == 0
