"""Surrogate: a cheap model of the encoder, which takes a text for a bag of tokens.

Each token contributes a vector of its own,

    e(text) ~ mean over its tokens t of x_t + b,        x_t = W u_t,

where u_t (H) is the direction of t's row in the denoiser's token table, less the table's mean. W and b are fitted by
ridge regression to a few thousand texts with their embeddings when training ends, 0.6 MB in an inverter's folder.
Such a bag's embedding has a cosine of .65 to the encoder's. Of a hundred thousand texts more can be learned
(`contributions`), how loud each token is and in what it differs from what its direction says,

    x_t = a_t W u_t + B' z_t,

with z_t (K) in 8 bits: .81. What it is for:

- The passes of a blind inversion are steered by the bag (`decoding.steering`), where its tokens have contributions of
  their own.
- Of a hypothesis a search has the embedding from the encoder, e_hat, and asks only where an exchange of token s for t
  moves it, among T tokens (`search.changes`):

    e(after) ~ |mean x + b| e_hat + (x_t - x_s) / T

  How wrong that is for the text at hand, `search.gaussian_process` learns from the encoder's answers.
- Several blind candidates are ranked by the cosine that bag and student say together (`cosines`). A student (`student`)
  corrects the bag by the tokens' order, a tenth as dear as the encoder; not every surrogate has one.

Shape suffixes as in denoiser/model.py; T: tokens of a text; N, P: texts.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from unembed.errors import CheckpointError
from unembed.files.quantised import in_8_bits, large, restored
from unembed.files.tensors import load_tensors, save_tensors
from unembed.surrogate.student import Student

FILE = "surrogate.safetensors"  # beside config.json
STUDENT = "student."  # before the names of its tensors
ASKED = 256  # texts that it is asked about at once
RIDGE = 1e-3  # penalty, as a share of the features' mean square

Floats = NDArray[np.float32]


class Own(NamedTuple):
    """What tokens contribute beside what their directions say, float32 on the CPU."""

    loudness: Tensor  # (V,): a
    code: Tensor  # (V, K): z
    basis: Tensor  # (K, D): B


class Fitted(NamedTuple):
    """The weights of a surrogate, float32 on the CPU."""

    weight: Tensor  # (H, D): W
    bias: Tensor  # (D,): b
    own: Own | None = None
    student: Student | None = None

    def save(self, path: Path) -> None:
        """Write them as safetensors."""
        save_tensors(self.tensors(), path)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored: codes and a student's large matrices in 8 bits (`quantised`), its rest in half precision."""
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        if self.own is not None:
            tensors |= in_8_bits("code", self.own.code)
            tensors |= {"loudness": self.own.loudness.half(), "basis": self.own.basis.contiguous()}
        if self.student is not None:
            for name, tensor in self.student.state_dict().items():
                tensors |= in_8_bits(STUDENT + name, tensor) if large(tensor) else {STUDENT + name: tensor.half()}
        return tensors

    @classmethod
    def load(cls, folder: Path, vocab_size: int, width: int, dimension: int) -> Self | None:
        """Read the folder's surrogate; None where it has none.

        Raises:
            CheckpointError: the file is damaged, or of another shape than (V, width H, dimension D) asks for.
        """
        path = folder / FILE
        if not path.exists():
            return None
        found = {name: tensor.float() for name, tensor in restored(load_tensors(path), path).items()}
        student = {name.removeprefix(STUDENT): found.pop(name) for name in list(found) if name.startswith(STUDENT)}
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        expected: dict[str, tuple[int, ...]] = {"weight": (width, dimension), "bias": (dimension,)}
        if "code" in found:
            size = found["code"].shape[-1]
            expected |= {"code": (vocab_size, size), "loudness": (vocab_size,), "basis": (size, dimension)}
        if shapes != expected:
            raise CheckpointError(f"{path}: holds {shapes}, expected {expected}")
        own = Own(found["loudness"], found["code"], found["basis"]) if "code" in found else None
        linear = cls(found["weight"], found["bias"], own)
        if not student:
            return linear
        try:
            return linear._replace(student=Student.of(student, width, dimension))
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: its student cannot be read ({reason})") from error


def fit(table_VH: Tensor, texts: Sequence[Sequence[int]], e_ND: Tensor) -> Fitted:
    """Ridge regression of embeddings e (N, D) on the mean direction of each text's content tokens (one at least)."""
    u_VH = directions(table_VH).double()
    x_NF = torch.stack([F.pad(u_VH[list(ids)].mean(0), (0, 1), value=1.0) for ids in texts])
    gram_FF = x_NF.T @ x_NF
    penalty = RIDGE * gram_FF.diagonal().mean()
    solved_FD = torch.linalg.solve(
        gram_FF + penalty * torch.eye(len(gram_FF), dtype=gram_FF.dtype), x_NF.T @ e_ND.double().cpu()
    )
    return Fitted(solved_FD[:-1].float(), solved_FD[-1].float())


def directions(table_VH: Tensor) -> Tensor:
    """The token table's rows less their mean, of length 1, (V, H) float32 on the CPU."""
    table_VH = table_VH.detach().float().cpu()
    return F.normalize(table_VH - table_VH.mean(0), dim=-1)


class Surrogate:
    """A surrogate beside the token table that it was fitted to."""

    def __init__(self, table_VH: Tensor, fitted: Fitted) -> None:
        self.table_VH = table_VH
        self.fitted = fitted
        self._bags: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def steers(self) -> bool:
        """Whether it knows enough to steer passes; by directions alone they lead a good denoiser astray."""
        return self.fitted.own is not None

    @cached_property
    def x_VD(self) -> Floats:  # noqa: N802 - a tensor's shape
        """What each token contributes, (V, D). Computed when first asked for."""
        x_VD, own = self.u_VH @ self.fitted.weight, self.fitted.own
        if own is not None:
            x_VD = own.loudness[:, None] * x_VD + own.code @ own.basis
        found: Floats = x_VD.numpy()
        return found

    @cached_property
    def squares(self) -> Floats:
        """The squared length of what each token contributes, (V,)."""
        found: Floats = (self.x_VD**2).sum(1)
        return found

    def bag(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`x_VD` and b (D,) as tensors on a device, where they are kept."""
        if device not in self._bags:
            self._bags[device] = torch.from_numpy(self.x_VD).to(device), self.fitted.bias.to(device)
        return self._bags[device]

    @cached_property
    def u_VH(self) -> Tensor:  # noqa: N802
        """The tokens' directions."""
        return directions(self.table_VH)

    @torch.inference_mode()
    def embed(self, texts: Sequence[Sequence[int]]) -> Floats:
        """What the encoder is taken to answer for texts of one token at least each, (P, D), of length 1."""
        found = []
        for start in range(0, len(texts), ASKED):
            part = [list(ids) for ids in texts[start : start + ASKED]]
            lengths_P = torch.tensor([len(ids) for ids in part])
            bag_PD = torch.from_numpy(np.stack([self.x_VD[ids].mean(0) for ids in part])) + self.fitted.bias
            if self.fitted.student is not None:
                u_PTH = pad_sequence([self.u_VH[ids] for ids in part], batch_first=True)
                bag_PD = self.fitted.student(u_PTH, lengths_P, bag_PD)
            found.append(F.normalize(bag_PD, dim=-1))
        embeddings: Floats = torch.cat(found).numpy()
        return embeddings

    def cosines(self, texts: Sequence[Sequence[int]], e_D: Floats) -> Floats:
        """Cosines (P,) that texts are foreseen to have to an embedding (D,); -1 for a text of no token."""
        found = np.full(len(texts), -1, dtype=np.float32)
        if told := [row for row, ids in enumerate(texts) if len(ids)]:
            found[told] = self.embed([texts[row] for row in told]) @ (e_D / np.linalg.norm(e_D))
        return found

    def unnormalised(self, ids: Sequence[int], e_hat: Floats) -> Floats:
        """The embedding e_hat (D,) of a text of the tokens `ids`, of the length that its bag has.

        That is about the length before normalisation, where embeddings are normalised; where they are not, their own
        lengths differ from those of the unit embeddings that a surrogate is fitted to.
        """
        return self.as_long(self.x_VD[list(ids)].mean(0), e_hat)

    def as_long(self, bag: Floats, e_hat: Floats) -> Floats:
        """Embeddings (..., D) with the lengths of their texts' bags, which are given without the bias."""
        size = np.linalg.norm(bag + self.fitted.bias.numpy(), axis=-1, keepdims=True)
        scaled: Floats = (size / np.linalg.norm(e_hat, axis=-1, keepdims=True) * e_hat).astype(np.float32)
        return scaled
