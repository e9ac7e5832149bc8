"""The aligner: a map from another encoder's space into an inverter's, and one back, in a folder of its own.

    aligner.json          the other encoder's recipe, the inverter it is for, how it was fitted and what it reached
    aligner.safetensors   both maps, the pairs by which the first is mended near each vector, and what words add to the
                          second

The way forth is for the denoiser, which knows its own encoder's vectors alone. The way back takes the bag of tokens
into the other space (`words`), where it steers passes and serves a guided inversion. The pairs' vectors are kept in
half precision: whoever has the folder has them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unembed.alignment.linear import Linear, normalised
from unembed.alignment.residuals import Residuals
from unembed.alignment.words import Added
from unembed.config import Recipe, config_to_dict, recipe_from_dict
from unembed.denoiser.threads import one_numpy_thread
from unembed.errors import CheckpointError
from unembed.files.atomic import atomic_folder
from unembed.files.json_files import read_json
from unembed.files.quantised import in_8_bits, restored
from unembed.files.tensors import load_tensors, save_tensors
from unembed.surrogate.bag import Fitted, Own

FILE, TENSORS = "aligner.json", "aligner.safetensors"
HALF = 0.01  # by which a vector of length 1 may be longer in half precision
PAIRS = "pairs.vectors", "pairs.residuals"  # of the latter file, where there were pairs
CODE, BASIS = "words.code", "words.basis"  # the same, where words were asked about

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Aligner:
    """Maps between another encoder's space (S dimensions) and an inverter's (D).

    Attributes:
        source: the other encoder's recipe, as far as it is known.
        target: the recipe of the inverter's encoder.
        forth: (n, S) -> (n, D) of length 1.
        back: of bags of tokens, (n, D) -> (n, S).
        about: how it was fitted, and what it reached on held-out pairs; JSON-ready.
        residuals: what `forth` leaves of the pairs; of none where there were no pairs.
        words: what they add to bags of tokens in the source's space.
    """

    source: Recipe
    target: Recipe
    forth: Linear
    back: Linear
    about: Mapping[str, Any] = field(default_factory=dict)
    residuals: Residuals | None = None
    words: Added | None = None

    def __call__(self, vectors: NDArray[Any]) -> Floats:
        """Vectors (n, S) as the inverter takes them, (n, D) of length 1."""
        if self.residuals is None:
            return self.forth(vectors)
        with one_numpy_thread():
            near = [self.residuals.near(c_S).at(c_S[None]) for c_S in self.forth.centred(vectors)]
        return normalised(self.forth.before_length(vectors) + np.concatenate(near))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides what it maps."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + tensor.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def surrogate(self, fitted: Fitted) -> Fitted:
        """An inverter's bag of tokens in the other encoder's space, without a student."""
        weight = torch.from_numpy(self.back.weight)
        bias = torch.from_numpy(
            (fitted.bias.numpy() - self.back.mean_source) @ self.back.weight + self.back.mean_target
        )
        own = fitted.own
        if own is not None:
            own = own._replace(basis=own.basis @ weight)
        if own is not None and self.words is not None:
            code, basis = (torch.from_numpy(part) for part in self.words)
            own = Own(own.loudness, torch.cat([own.code, code], 1), torch.cat([own.basis, basis]))
        return Fitted(fitted.weight @ weight, bias, own)

    def save(self, folder: str | Path) -> None:
        """Write the aligner's folder, whole or not at all. Raises OutputError."""
        tree = {
            "format": 1,
            "source": config_to_dict(self.source),
            "target": config_to_dict(self.target),
            "about": dict(self.about),
        }
        with atomic_folder(folder) as temporary:
            (temporary / FILE).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
            save_tensors(self._tensors(), temporary / TENSORS)

    def _tensors(self) -> dict[str, Tensor]:
        maps = {"forth": self.forth, "back": self.back}
        found = {
            f"{name}.{part}": torch.tensor(value)  # a copy: both maps may share their means
            for name, one in maps.items()
            for part, value in one._asdict().items()
        }
        if self.residuals is not None:
            of_pairs = zip(PAIRS, self.residuals, strict=True)
            found |= {name: torch.from_numpy(value).half().contiguous() for name, value in of_pairs}
        if self.words is not None:
            found |= in_8_bits(CODE, torch.from_numpy(self.words.code)) | {BASIS: torch.tensor(self.words.basis)}
        return found

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read an aligner's folder. Raises CheckpointError: it is none, damaged, or its parts do not fit."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise CheckpointError(f"{folder}: is no aligner, such as `unembed align` writes: it has no {FILE}")
        tree = read_json(path, CheckpointError)
        try:
            source, target = (recipe_from_dict(tree[name]) for name in ("source", "target"))
            about = dict(tree["about"])
        except (ValueError, KeyError, TypeError) as error:  # a ConfigError is a ValueError
            raise CheckpointError(f"{path}: is no aligner's ({type(error).__name__}: {error})") from error
        tensors = restored(load_tensors(Path(folder) / TENSORS), Path(folder) / TENSORS)
        ends = {"forth": (source.dimension, target.dimension), "back": (target.dimension, source.dimension)}
        shapes = {
            f"{name}.{part}": shape
            for name, (s, d) in ends.items()
            for part, shape in (("mean_source", (s,)), ("mean_target", (d,)), ("weight", (s, d)))
        }
        if pairs := tensors.keys() & PAIRS:
            n = len(tensors[min(pairs)]) if tensors[min(pairs)].dim() else 0
            shapes |= {PAIRS[0]: (n, source.dimension), PAIRS[1]: (n, target.dimension)}
        if words := tensors.keys() & {CODE, BASIS}:
            v, k = tensors[CODE].shape if CODE in tensors and tensors[CODE].dim() == 2 else (0, 0)
            shapes |= {CODE: (v, k), BASIS: (k, source.dimension)}
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
            raise CheckpointError(f"{Path(folder) / TENSORS}: holds other tensors than {FILE} says")
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise CheckpointError(f"{Path(folder) / TENSORS}: holds numbers that are not finite")
        forth, back = (
            Linear.of(*(tensors[f"{name}.{part}"].float().numpy() for part in Linear._fields)) for name in ends
        )
        residuals = Residuals(*(tensors[name].float().numpy() for name in PAIRS)) if pairs else None
        if residuals is not None and (np.linalg.norm(residuals.vectors, axis=1) > 1 + HALF).any():
            raise CheckpointError(f"{Path(folder) / TENSORS}: holds pairs whose vectors are longer than 1")
        added = Added(*(tensors[name].float().numpy() for name in (CODE, BASIS))) if words else None
        return cls(source, target, forth, back, about, residuals, added)
