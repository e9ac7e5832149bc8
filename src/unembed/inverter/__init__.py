"""The inverter: embeddings in, texts out.

inverter.py   a denoiser with its tokenizer and the recipe of its encoder
aligned.py    the same for another encoder's vectors, through an aligner
"""

from unembed.inverter.inverter import Inverter

__all__ = ["Inverter"]
