"""Run unembed's own server on a free port with two tiny inverters of random weights; its address goes to stdout."""

import torch

from fakes import fake_encoder, tiny_config
from unembed.checkpoint import Parts, build_denoiser
from unembed.inverter import Inverter
from unembed.server.models import Models, Served
from unembed.server.run import listen, run
from unembed.server.settings import Settings


def tiny_inverter(seed: int) -> Inverter:
    """Random weights, AdaLN's included, so that the embedding matters."""
    torch.manual_seed(seed)
    encoder = fake_encoder()
    denoiser = build_denoiser(tiny_config(), encoder.tokenizer).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    results = {"validation": {"token_accuracy": 0.0123, "cosine": 0.05}} if seed == 0 else {}
    return Inverter(Parts(denoiser, encoder.tokenizer, tiny_config(), results), encoder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = Settings(port=0, rate_limit=0, drain_seconds=1.0)
    models = Models([Served("tiny", tiny_inverter(0), 1), Served("other", tiny_inverter(1), 2)])
    run(models, settings, listen(settings), ready=lambda address: print(address, flush=True))
