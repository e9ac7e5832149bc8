"""What every endpoint needs: the settings, the models and the batcher."""

from dataclasses import dataclass

from unembed.server.batching import Batcher
from unembed.server.models import Models
from unembed.server.settings import Settings


@dataclass(frozen=True)
class Context:
    """One server's parts."""

    settings: Settings
    models: Models
    batcher: Batcher
