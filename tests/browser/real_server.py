"""Run unembed's own server on a free port with two tiny inverters of random weights; its address goes to stdout.

Only the first has what a search takes.
"""

import torch
from serving import tiny_inverter

from fakes import tiny_surrogate
from unembed.server.models import Models, Served
from unembed.server.run import listen, run
from unembed.server.settings import Settings

if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = Settings(port=0, rate_limit=0, drain_seconds=1.0)
    tiny = tiny_inverter(0, tiny_surrogate(), validation={"token_accuracy": 0.0123, "cosine": 0.05})
    models = Models([Served("tiny", tiny, 1), Served("other", tiny_inverter(1), 2)])
    run(models, settings, listen(settings), ready=lambda address: print(address, flush=True))
