"""The model card that fills itself in."""

from typing import Any

from torch import Tensor

from unembed.config import Config


def model_card(config: Config, state: dict[str, Tensor], results: dict[str, Any]) -> str:
    """Markdown with YAML metadata, as the Hub shows it."""
    return f"# {config.encoder.encoder}\n"
