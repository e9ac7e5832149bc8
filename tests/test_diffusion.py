"""Corruption and loss against every mask pattern of a tiny canvas, and against the distributions they claim."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fakes import small_denoiser
from unembed.config import DiffusionConfig
from unembed.denoiser.model import Denoiser
from unembed.objective.diffusion import (
    LEAST_SHARE,
    bound_weights,
    corrupt,
    cross_entropy,
    most_targets,
    noisy,
    sample_times,
    training_loss,
    whole_cross_entropy,
)

V, L, D, MASK = 6, 4, 3, 5
ROWS = 2048  # a batch; canvases and embeddings repeat in it
CANVASES = torch.tensor([[0, 1, 2, 3], [3, 3, 4, 4], [1, 0, 1, 2], [2, 4, 4, 4]])


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    """All weights of order one, so that losses differ widely between masks, positions and embeddings."""
    return small_denoiser(V, D, L, noise=0.4).requires_grad_(False)


def embeddings(rows: int) -> Tensor:
    return torch.randn(len(CANVASES), D, generator=torch.Generator().manual_seed(1)).repeat(rows // len(CANVASES), 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def losses_by_mask(denoiser: Denoiser) -> dict[tuple[bool, ...], Tensor]:
    """For every mask: -log p of each canvas at each position (canvases, L), 0 where visible."""
    found = {}
    for mask in itertools.product([False, True], repeat=L):
        where = torch.tensor(mask)
        logits = denoiser(CANVASES.masked_fill(where, MASK), embeddings(len(CANVASES)))
        losses = -logits.log_softmax(-1).gather(2, CANVASES[..., None]).squeeze(2)
        found[mask] = torch.where(where, losses, 0.0).double()
    return found


def integrate(function: Callable[[Tensor], Tensor]) -> float:
    """Over t from 0 to 1; exact to many digits, since the integrands are almost polynomials."""
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(16))
    return (weights / 2 * function((nodes + 1) / 2)).sum().item()


def expected_loss(by_mask: dict[tuple[bool, ...], Tensor], t: Tensor) -> Tensor:
    """Summed over masked positions, at mask probability t (n,), averaged over canvases (n,)."""
    return sum(
        t ** sum(mask) * (1 - t) ** (L - sum(mask)) * losses.sum(1).mean().item() for mask, losses in by_mask.items()
    )


def draws(denoiser: Denoiser, config: DiffusionConfig, batches: int) -> Tensor:
    """(batches,) losses."""
    canvas, e = CANVASES.repeat(ROWS // len(CANVASES), 1), embeddings(ROWS)
    return torch.stack([training_loss(denoiser, canvas, e, config, seeded(i)).loss for i in range(batches)]).double()


def assert_mean(found: Tensor, expected: float, precision: float) -> None:
    """The mean of independent draws is `expected`, and they are enough to see a relative error of `precision`."""
    error = found.std().item() / math.sqrt(len(found))
    assert 4 * error < precision * expected
    assert found.mean().item() == pytest.approx(expected, abs=4 * error)


@pytest.fixture(scope="module")
def bound(denoiser: Denoiser) -> float:
    """The continuous-time bound per position, averaged over the canvases."""
    by_mask = losses_by_mask(denoiser)
    return integrate(lambda t: expected_loss(by_mask, t) / t) / L


def test_the_bound_is_the_mean_over_all_orders_of_the_chain_rule(denoiser: Denoiser, bound: float) -> None:
    """Another road to the same number (arXiv 2406.03736, theorem 2): the reference below stands on two legs."""
    by_mask = losses_by_mask(denoiser)
    orders = list(itertools.permutations(range(L)))
    chains = 0.0
    for order in orders:
        for place, position in enumerate(order):
            mask = tuple(i in order[place:] for i in range(L))
            chains += by_mask[mask][:, position].mean().item()
    assert bound == pytest.approx(chains / len(orders) / L, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("skew", "precision"), [(1.0, 0.02), (2.0, 0.035)])
def test_elbo_equals_brute_force(denoiser: Denoiser, bound: float, skew: float, precision: float) -> None:
    config = DiffusionConfig(weighting="elbo", time_skew=skew, condition_dropout=0.0)
    assert_mean(draws(denoiser, config, 120), bound, precision)


@pytest.mark.parametrize(("skew", "precision"), [(0.5, 1e-3), (1.0, 1e-3), (2.0, 1e-3), (3.0, 5e-3)])
def test_every_distribution_of_times_has_the_same_bound(
    denoiser: Denoiser, bound: float, skew: float, precision: float
) -> None:
    """With masks summed over instead of drawn, and a million strata of t, almost nothing is left to chance."""
    by_mask = losses_by_mask(denoiser)
    t = sample_times(1_000_000, skew, seeded())
    integrand = bound_weights(t, skew).double() * expected_loss(by_mask, t.double()) / L
    assert integrand.mean().item() == pytest.approx(bound, rel=precision)


@pytest.mark.parametrize("skew", [1.0, 2.5])
def test_plain_loss_equals_brute_force(denoiser: Denoiser, skew: float) -> None:
    by_mask = losses_by_mask(denoiser)
    # density k t^(k-1), as the integral over its quantile
    loss = integrate(lambda t: expected_loss(by_mask, t) * skew * t ** (skew - 1))
    masked = L * skew / (skew + 1)
    config = DiffusionConfig(time_skew=skew, condition_dropout=0.0)
    assert_mean(draws(denoiser, config, 40), loss / masked, precision=0.01)


def test_elbo_with_a_sampled_vocabulary_that_is_whole_is_the_same(denoiser: Denoiser) -> None:
    config = DiffusionConfig(weighting="elbo", condition_dropout=0.0)
    sampled = DiffusionConfig(weighting="elbo", condition_dropout=0.0, vocabulary_sample=V)
    torch.testing.assert_close(draws(denoiser, sampled, 2), draws(denoiser, config, 2))


def test_a_step_can_be_repeated(denoiser: Denoiser) -> None:
    config = DiffusionConfig(condition_dropout=0.3, corrupt_visible=0.2, vocabulary_sample=2)
    one, again, other = draws(denoiser, config, 2), draws(denoiser, config, 2), draws(denoiser, config, 3)[1:]
    assert torch.equal(one, again)
    assert one[0] != one[1] != other[1]


def test_a_batch_without_any_mask_has_no_loss(denoiser: Denoiser) -> None:
    canvas, e = CANVASES[:1], embeddings(4)[:1]
    found = [training_loss(denoiser, canvas, e, DiffusionConfig(time_skew=0.3), seeded(i)) for i in range(50)]
    assert min(loss.trained for loss in found) == 0
    for loss in found:
        assert loss.loss.isfinite()
        assert loss.accuracy.isfinite()
        if not loss.trained:
            assert loss.loss == 0


def test_loss_counts_what_it_trained_on(denoiser: Denoiser) -> None:
    config = DiffusionConfig(condition_dropout=0.0)
    canvas = CANVASES.repeat(50, 1)
    found = training_loss(denoiser, canvas, embeddings(200), config, seeded(3))
    generator = seeded(3)
    t = sample_times(200, 1.0, generator)
    torch.rand(200, generator=generator)  # which conditions are dropped
    corrupted = corrupt(canvas, t, MASK, 0.0, generator)
    best = denoiser(corrupted.ids, embeddings(200)).argmax(-1)
    assert found.trained == int(corrupted.targets.sum())
    torch.testing.assert_close(found.accuracy, (best == canvas)[corrupted.targets].float().mean())


# --- times


@pytest.mark.parametrize("skew", [1.0, 2.0, 0.5])
def test_times_have_their_density(skew: float) -> None:
    generator = seeded()
    quantile = torch.cat([sample_times(1, skew, generator) for _ in range(4000)]).pow(skew).sort().values
    steps = torch.arange(1, 4001) / 4000
    assert (quantile - steps).abs().max() < 1.95 / math.sqrt(4000)  # Kolmogorov-Smirnov at 0.1 %
    assert quantile[0] >= LEAST_SHARE * (1 - 1e-5)
    assert quantile[-1] <= 1


@pytest.mark.parametrize("skew", [1.0, 2.0])
def test_a_batch_of_times_has_one_in_each_stratum(skew: float) -> None:
    for seed in range(20):
        t = sample_times(32, skew, seeded(seed))
        assert t.shape == (32,)
        gaps = t.double().pow(skew).sort().values.diff()
        torch.testing.assert_close(gaps[1:], torch.full_like(gaps[1:], 1 / 32), atol=1e-5, rtol=0)


# --- corruption


@pytest.mark.parametrize("keep", [0.0, 0.2])
@pytest.mark.parametrize("visible", [0.0, 0.3])
def test_corruption_has_its_rates(visible: float, keep: float) -> None:
    n = 40_000
    canvas = torch.arange(n).repeat(3, 1) % 4
    t = torch.tensor([0.1, 0.5, 0.9])
    corrupted = corrupt(canvas, t, MASK, visible, seeded())
    masked = corrupted.ids == MASK
    replaced = corrupted.targets & ~masked
    if keep:  # the same tokens are replaced, and others trained on as they are
        without, corrupted = corrupted, corrupt(canvas, t, MASK, visible, seeded(), keep)
        assert torch.equal(corrupted.ids, without.ids)
        kept = corrupted.targets & ~without.targets
        torch.testing.assert_close(kept.float().mean(1), keep * (1 - t), atol=4 * math.sqrt(0.25 / n), rtol=0)
        assert torch.equal(corrupted.targets & ~kept, without.targets)
        assert torch.equal(corrupted.ids[kept], canvas[kept])
        corrupted = without
    error = 4 * math.sqrt(0.25 / n)
    torch.testing.assert_close(masked.float().mean(1), t, atol=error, rtol=0)
    torch.testing.assert_close(replaced.float().mean(1), visible * (1 - t), atol=error, rtol=0)
    assert torch.equal(corrupted.ids[~corrupted.targets], canvas[~corrupted.targets])
    if not visible:
        assert torch.equal(corrupted.targets, masked)
        return
    # What stands in place of a token comes from anywhere in the batch, whatever stood there.
    for true in range(4):
        drawn = corrupted.ids[replaced & (canvas == true)].bincount(minlength=4).double()
        expected = drawn.sum() / 4
        assert ((drawn - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, 0.1 %


def test_positions_are_masked_independently() -> None:
    masked = (
        corrupt(torch.zeros(50_000, 3, dtype=torch.int64), torch.full((50_000,), 0.5), MASK, 0.0, seeded())
    ).targets
    patterns = (masked * torch.tensor([1, 2, 4])).sum(1).bincount(minlength=8).double()
    expected = 50_000 / 8
    assert ((patterns - expected) ** 2 / expected).sum() < 24.3  # chi-square, 7 degrees of freedom, 0.1 %


def test_replaced_tokens_are_trained_on_where_they_are_seen(denoiser: Denoiser) -> None:
    canvas = CANVASES.repeat(500, 1)
    config = DiffusionConfig(corrupt_visible=0.5, condition_dropout=0.0)
    found = training_loss(denoiser, canvas, embeddings(2000), config, seeded())
    assert found.trained / canvas.numel() == pytest.approx(0.5 + 0.5 * 0.5, abs=0.02)


def test_dropped_conditions_touch_their_own_rows_only(denoiser: Denoiser) -> None:
    rows = 1000
    e = embeddings(rows).requires_grad_(True)
    canvas = CANVASES.repeat(rows // 4, 1)
    config = DiffusionConfig(condition_dropout=0.3)
    training_loss(denoiser, canvas, e, config, seeded()).loss.backward()
    generator = seeded()
    t = sample_times(rows, 1.0, generator)
    dropped = torch.rand(rows, generator=generator) < 0.3
    has_mask = corrupt(canvas, t, MASK, 0.0, generator).targets.any(1)
    assert torch.equal(e.grad.abs().sum(1) == 0, dropped | ~has_mask)
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.06)


# --- noise on embeddings


def test_noise_on_embeddings_has_a_deviation_for_each_text() -> None:
    rows, width = 1000, 1024
    e = 3 * torch.randn(rows, width, generator=seeded(1))  # of any length: the noise is on unit vectors
    noise = noisy(e, 0.1, seeded()) - e / e.norm(dim=1, keepdim=True)
    deviations = noise.std(1).sort().values
    # Uniform from 0 to .1, but for the estimate from 1,024 numbers, whose relative error is 1 / 45.
    uniform = torch.linspace(0, 0.1, rows)
    assert (deviations - uniform).abs().max() < 0.012
    assert deviations.mean().item() == pytest.approx(0.05, abs=0.003)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert torch.equal(noisy(e, 0.1, seeded()), noisy(e, 0.1, seeded()))


def test_no_noise_leaves_embeddings_and_random_numbers_alone() -> None:
    e, generator = embeddings(8), seeded()
    assert noisy(e, 0.0, generator) is e
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=seeded()))


# --- the vocabulary's sample


@pytest.fixture(scope="module")
def wide() -> Denoiser:
    """A denoiser with 60 tokens, the last of which is the mask."""
    denoiser = small_denoiser(60, D, L, noise=0.0)
    with torch.no_grad():
        denoiser.table.weight.copy_(torch.randn(60, 8))
        denoiser.output_bias.copy_(torch.randn(60))
    return denoiser


HIDDEN = torch.randn(30, 8, generator=torch.Generator().manual_seed(2))
TARGETS = torch.randint(10, (30,), generator=torch.Generator().manual_seed(3))


def test_the_whole_vocabulary_as_its_sample_is_the_full_softmax(wide: Denoiser) -> None:
    gradients = []
    expected = F.cross_entropy((HIDDEN @ wide.table.weight.T + wide.output_bias)[:, :59], TARGETS, reduction="none")
    for losses in (
        expected,
        cross_entropy(wide, HIDDEN, TARGETS, 0, seeded())[0],
        cross_entropy(wide, HIDDEN, TARGETS, 59, seeded())[0],
        cross_entropy(wide, HIDDEN, TARGETS, 10_000, seeded())[0],
    ):
        torch.testing.assert_close(losses, expected)
        wide.zero_grad()
        losses.mean().backward()
        gradients.append((wide.table.weight.grad.clone(), wide.output_bias.grad.clone()))
    for table, bias in gradients[1:]:
        torch.testing.assert_close(table, gradients[0][0])
        torch.testing.assert_close(bias, gradients[0][1])


@torch.no_grad()
@pytest.mark.parametrize("sample", [1, 8, 30])
def test_the_sampled_normaliser_is_unbiased(wide: Denoiser, sample: int) -> None:
    logits = (HIDDEN @ wide.table.weight.T + wide.output_bias).double()
    true = logits[:, :59].exp().sum(1)
    target = logits.gather(1, TARGETS[:, None]).squeeze(1)
    generator = seeded()
    found = torch.stack(
        [(cross_entropy(wide, HIDDEN, TARGETS, sample, generator)[0] + target).exp() for _ in range(1500)]
    )
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - true).abs() < 5 * error).all()  # 30 rows, so 5 standard errors


@torch.no_grad()
def test_a_sample_can_only_lose_wrong_tokens(wide: Denoiser) -> None:
    right = cross_entropy(wide, HIDDEN, TARGETS, 0, seeded())[1]
    assert torch.equal(right, (HIDDEN @ wide.table.weight.T + wide.output_bias)[:, :59].argmax(1) == TARGETS)
    for seed in range(20):
        sampled = cross_entropy(wide, HIDDEN, TARGETS, 5, seeded(seed))[1]
        assert (sampled | ~right).all()  # a target that beats all beats the few


@pytest.mark.parametrize("weighting", ["plain", "elbo"])
def test_a_compiled_loss_has_fixed_shapes_and_the_same_value(denoiser: Denoiser, weighting: str) -> None:
    canvas, e = CANVASES.repeat(100, 1), embeddings(400)
    extra = {} if weighting == "elbo" else {"corrupt_visible": 0.2, "keep_visible": 0.1}
    config = DiffusionConfig(weighting=weighting, time_skew=2.0, **extra)
    shapes = set()

    def compiled(hidden: Tensor, targets: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        shapes.add((hidden.shape, targets.shape))
        return whole_cross_entropy(hidden, targets, *others)

    for seed in range(20):
        expected = training_loss(denoiser, canvas, e, config, seeded(seed))
        found = training_loss(denoiser, canvas, e, config, seeded(seed), compiled=compiled)
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.accuracy, expected.accuracy)
        assert found.trained == expected.trained
    assert len(shapes) == 1


def test_more_targets_than_the_most_do_not_occur() -> None:
    config = DiffusionConfig(time_skew=2.0, corrupt_visible=0.08, keep_visible=0.08)
    for rows, length in ((2048, 32), (64, 12), (3, 5)):
        most = most_targets(rows, length, config)
        assert most <= rows * length
        for seed in range(50):
            generator, canvas = seeded(seed), torch.zeros(rows, length, dtype=torch.int64)
            t = sample_times(rows, 2.0, generator)
            assert corrupt(canvas, t, MASK, 0.08, generator, 0.08).targets.sum() <= most
    assert most_targets(2048, 32, config) < 0.75 * 2048 * 32  # which spares a quarter of the logits
