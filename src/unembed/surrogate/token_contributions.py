"""What each token contributes to an embedding, learned from a hundred thousand texts.

The surrogate's ridge regression sees tokens by their directions alone, which the denoiser's table gives: it cannot know
that "the" says nothing and a name nearly all. Here every token has two things more, how loud it is and a code of its
own (`bag.Own`), fitted by Adam to the mean of 1 - cosine over texts with their embeddings. A token that no text
holds keeps loudness 1 and the code 0, so that it contributes what its direction says.

Shape suffixes: B texts of a step, L positions, V vocabulary, T different tokens of a step, H width, D dimension,
K size of a code.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from unembed.surrogate.bag import Fitted, Own
from unembed.surrogate.pairs import Texts

CODE = 128  # K
BATCH = 1024
RATE = 1e-2  # of codes and their basis, from which it falls to zero
LOUDER = 5.0  # times as fast for loudness, and a tenth for what ridge regression has found already
SLOWER = 0.1


def refine(
    fitted: Fitted, u_VH: Tensor, texts: Texts, epochs: int, size: int = CODE, seed: int = 0
) -> Iterator[Fitted]:
    """The surrogate with contributions that its tokens have of their own, after each epoch. Its student is left out.

    Args:
        u_VH: the tokens' directions.
    """
    generator = torch.Generator().manual_seed(seed)
    weight, bias = fitted.weight.clone().requires_grad_(True), fitted.bias.clone().requires_grad_(True)
    louder_V, code_VK = torch.zeros(len(u_VH), requires_grad=True), torch.zeros(len(u_VH), size, requires_grad=True)
    basis_KD = (0.05 * torch.randn(size, len(bias), generator=generator)).requires_grad_(True)
    rates = {SLOWER * RATE: [weight, bias], LOUDER * RATE: [louder_V], RATE: [code_VK, basis_KD]}
    optimizer = torch.optim.Adam(
        [{"params": tensors, "lr": rate} for rate, tensors in rates.items()], betas=(0.9, 0.98)
    )
    steps = epochs * -(-len(texts.e) // BATCH)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(texts.e), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            part = Texts(texts.ids[rows], texts.lengths[rows], texts.e[rows])
            tokens_T, shares_BT = shares(part.ids, part.lengths)
            x_TD = louder_V[tokens_T].exp()[:, None] * (u_VH[tokens_T] @ weight) + code_VK[tokens_T] @ basis_KD
            loss = (1 - F.cosine_similarity(shares_BT @ x_TD + bias, part.e, dim=1)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
        own = Own(louder_V.detach().exp(), code_VK.detach().clone(), basis_KD.detach().clone())
        yield Fitted(weight.detach().clone(), bias.detach().clone(), own)


def shares(ids_BL: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """The different tokens (T,) of some texts, and what share of each text is which, (B, T)."""
    inside_BL = torch.arange(ids_BL.shape[1]) < lengths_B[:, None]
    tokens_T, column_BL = torch.unique(ids_BL, return_inverse=True)
    each_BL = inside_BL.float() / lengths_B[:, None]
    return tokens_T, torch.zeros(len(ids_BL), len(tokens_T)).scatter_add_(1, column_BL, each_BL)
