"""No option within its bounds makes anything but tokens and finite numbers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import fake_encoder, perturbed, tiny_config, tiny_surrogate, tiny_texts
from unembed.decoding.options import STRATEGIES, Decoding
from unembed.inverter import Inverter
from unembed.storage.checkpoint import Parts, build_denoiser

LEAST, MOST = 5e-324, 1e6


def numbers(low: float, high: float) -> Any:
    """Numbers of every size, the ends and what is next to nothing above all."""
    ends = st.sampled_from([low, 0.0, LEAST, 1e-300, 1e-45, 1e-20, 1e-6, 1.0, high])
    return ends | st.floats(low, high, allow_subnormal=True)


DECODINGS = st.builds(
    Decoding,
    steps=st.integers(1, 16),
    strategy=st.sampled_from(STRATEGIES),
    candidates=st.integers(1, 3),
    temperature=st.none() | numbers(0, MOST),
    guidance=numbers(-1, MOST),
    balance=numbers(0, MOST),
    steering=numbers(0, MOST),
    seed=st.integers(0, 2**53),
)


@pytest.fixture(scope="module")
def sharp() -> Inverter:
    """Random weights whose logits are as far apart as a trained denoiser's, and farther."""
    encoder = fake_encoder()
    denoiser = perturbed(build_denoiser(tiny_config(), encoder.tokenizer), 0.2).eval().requires_grad_(False)
    denoiser.output_bias.copy_(30 * torch.randn(len(denoiser.output_bias), generator=torch.Generator().manual_seed(0)))
    return Inverter(Parts(denoiser, encoder.tokenizer, tiny_config(), {}, surrogate=tiny_surrogate()), encoder)


@given(decoding=DECODINGS)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_option_at_every_size_gives_tokens(sharp: Inverter, decoding: Decoding) -> None:
    e_BD = sharp.encode(tiny_texts(2, 1))
    for one in sharp.invert(e_BD, decoding):
        for inversion in [one, *one.candidates]:
            assert all(0 <= i < sharp.tokenizer.vocab_size and i != sharp.tokenizer.mask_id for i in inversion.ids)
            assert np.isfinite([inversion.score, inversion.cosine, *inversion.confidence]).all()
            assert all(0 <= p <= 1 + 1e-6 for p in inversion.confidence)


def test_the_least_temperature_takes_the_likeliest_token(sharp: Inverter) -> None:
    e_BD = sharp.encode(tiny_texts(3, 2))
    greedy = [one.ids for one in sharp.invert(e_BD, temperature=0.0)]
    for temperature in (LEAST, 1e-45, 1e-5):
        assert [one.ids for one in sharp.invert(e_BD, replace(Decoding(), temperature=temperature))] == greedy
