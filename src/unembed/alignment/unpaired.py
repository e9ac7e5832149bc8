"""A map between two encoders' spaces from vectors that share no text, after mini-vec2vec (arXiv 2510.02348).

Encoders of the same language put the same groups of texts at about the same angles to each other. So

1. **Anchors.** k-means centroids of each side, matched by quadratic assignment of their similarity matrices, many
   times. The repetitions whose matrices agree best give the anchors. The search starts from centroids whose cosines to
   all vectors have like quantiles, which the paper does not do; from random starts a few thousand do not suffice.
2. **Pseudo-pairs.** A vector is described by its cosines to the anchors of its side, in which both sides are
   comparable. Its partner is the mean of the nearest vectors of the other side. Orthogonal Procrustes on these gives W.
3. **Refinement by neighbours.** Partners are looked for in the mapped space, W moves towards their Procrustes map, by
   less and less, and is made orthogonal again; repeated with fresh samples.
4. **Refinement by centroids.** Centroids of the source, mapped, start the k-means of the target; Procrustes on the two.
   It counts where it brings mapped vectors nearer to the target's, which takes many vectors for each dimension.

Both sides are centred and brought to length 1 first. The whole is run until two runs from different random states give
the same map: a run that fails ends in a map of its own, and so agreement tells failure without pairs.

Shape suffixes: N source and M target vectors of S and D dimensions, K centroids, B and C samples of the two, P pairs,
A anchors, Q quantiles, F any description.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unembed.alignment.linear import Floats, Linear, normalised, procrustes
from unembed.errors import EmbeddingError

_CHUNK = 1000  # rows whose neighbours are looked for at a time
_LARGEST = 1e15  # its square is finite in float32
_KMEANS = 10  # iterations
_QUANTILES = [0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995]


@dataclass(frozen=True)
class UnpairedSettings:
    """Constants of the method.

    Attributes:
        vectors: most vectors of a side that are used, drawn at random; bounds memory.
        sample: most vectors that a clustering or a search for neighbours sees.
        repetitions: clusterings of each side.
        kept: of them, those whose matched centroids become anchors.
        clusters: centroids of a clustering. More of them make a wrong assignment less likely to look right.
        restarts: starting points of a quadratic assignment; the best result counts.
        neighbours: most vectors whose mean is a pseudo-pair's other half; never more than a fortieth of the sample.
        iterations: of the refinement by neighbours.
        batch: vectors that are paired in one iteration.
        decay: iterations after which a step is half of the first, which goes all the way.
        centroids: most centroids of the refinement by centroids; never more than an eighth of the sample.
        centroid_rounds: how often that is done at most.
        runs: most runs, at least two; two that agree end them.
        agree: `UnpairedFit.same` from which a map counts as found.
    """

    vectors: int = 60_000
    sample: int = 10_000
    repetitions: int = 30
    kept: int = 10
    clusters: int = 80
    restarts: int = 4
    neighbours: int = 50
    iterations: int = 50
    batch: int = 1000
    decay: int = 8
    centroids: int = 500
    centroid_rounds: int = 3
    runs: int = 4
    agree: float = 0.5


class UnpairedFit(NamedTuple):
    """Whether a map was found, told without pairs.

    Attributes:
        agreement: mean cosine between what two runs from different random states make of the same source vectors, both
            centred: of the two runs that agree most. About 1 where vectors are plenty, about 0 where maps are chance.
        same: share of 2,000 source vectors whose images by the two runs are nearest to each other: about 0 where maps
            are chance or agree on few dominant directions only. It predicts how often a mapped vector would find its
            own text.
        nearest: mean cosine of mapped source vectors to the nearest target vector, both centred.
        chance: the same for maps that know each side's principal axes and their order but not their signs, the mean of
            several: what the spread of the vectors alone gives.
        runs: how many runs were made.
        found: `same` is at least `UnpairedSettings.agree` and `nearest` above `chance`.
    """

    agreement: float
    same: float
    nearest: float
    chance: float
    runs: int
    found: bool


class Unpaired(NamedTuple):
    """A map and its diagnosis. Where `fit.found` is false the map is probably no better than a random one."""

    linear: Linear
    fit: UnpairedFit


def align_unpaired(
    source_NS: NDArray[Any],
    target_MD: NDArray[Any],
    *,
    seed: int = 0,
    settings: UnpairedSettings = UnpairedSettings(),
    show_progress_bar: bool = False,
) -> Unpaired:
    """The orthogonal map of the source's space into the target's, and whether it can be believed.

    Args:
        source_NS: vectors of the source's encoder, (N, S).
        target_MD: vectors of the target's encoder, (M, D), of other texts of the same kind. The paper takes 60,000 a
            side.
        seed: of all random choices.
        settings: constants of the method.
        show_progress_bar: on stderr.

    Returns:
        The map with its diagnosis; a failure is no exception but `fit.found` false.

    Raises:
        EmbeddingError: a side is no array (n, d) of finite numbers, has fewer vectors than `settings.clusters` times
            5, only equal ones, or numbers above 1e15.
    """
    from tqdm import tqdm

    rng = np.random.default_rng(seed)
    mean_S, scale_source, x_NS = _centred(source_NS, "source", settings, rng)
    mean_D, scale_target, y_MD = _centred(target_MD, "target", settings, rng)
    x_BS = _sample(x_NS, 2 * settings.batch, rng)
    maps: list[Floats] = []
    agreement, same, best = -1.0, -1.0, (0, 0)
    with tqdm(total=settings.runs, unit="run", desc="aligning", disable=not show_progress_bar) as bar:
        while len(maps) < settings.runs and same < settings.agree:
            maps.append(_run(x_NS, y_MD, settings, rng))
            last = len(maps) - 1
            pairs = [(*_agreement(x_BS, maps[other], maps[last]), (other, last)) for other in range(last)]
            agreement, same, best = max([(agreement, same, best), *pairs], key=lambda pair: (pair[1], pair[0]))
            bar.update()
    scores = [_nearest_cosine(x_NS, maps[run], y_MD, settings) for run in best]
    weight_SD, nearest = maps[best[int(np.argmax(scores))]], max(scores)
    chance = _chance(x_NS, y_MD, settings, rng)
    found = same >= settings.agree and nearest > chance
    linear = Linear.of(mean_S, mean_D, weight_SD * (scale_target / scale_source))
    return Unpaired(linear, UnpairedFit(agreement, same, nearest, chance, len(maps), found))


def _centred(
    vectors: NDArray[Any], side: str, settings: UnpairedSettings, rng: np.random.Generator
) -> tuple[Floats, float, Floats]:
    """The mean, the root mean square distance from it, and the directions from it."""
    least = 5 * settings.clusters
    if vectors.ndim != 2 or len(vectors) < least or vectors.shape[1] < 2 or vectors.dtype.kind not in "fiu":
        shape = f"array of {vectors.dtype} and shape {vectors.shape}"
        raise EmbeddingError(f"{side}: {shape}, expected (n, d) numbers with n at least {least}")
    kept: Floats = _sample(vectors, settings.vectors, rng).astype(np.float32)
    if not np.abs(kept).max() < _LARGEST:
        raise EmbeddingError(
            f"{side}: NaN, infinity or numbers above {_LARGEST:g}, expected embeddings; leave those rows out"
        )
    mean = kept.mean(0)
    kept -= mean
    scale = float(np.sqrt((kept**2).sum(1).mean()))
    if scale <= 1e-6 * max(1e-12, float(np.linalg.norm(mean))):
        raise EmbeddingError(f"{side}: all {len(vectors)} vectors are equal, expected those of different texts")
    return mean, scale, normalised(kept)


def _run(x_NS: Floats, y_MD: Floats, settings: UnpairedSettings, rng: np.random.Generator) -> Floats:
    """One map (S, D), by the steps of the module's description."""
    weight_SD = _first_map(x_NS, y_MD, settings, rng)
    for iteration in range(settings.iterations):
        x_BS, y_CD = _sample(x_NS, settings.batch, rng), _sample(y_MD, settings.sample, rng)
        new_SD = _orthogonal(x_BS, _partners(x_BS @ weight_SD, y_CD, y_CD, settings))
        step = settings.decay / (settings.decay + iteration)
        u_SK, _, v_KD = np.linalg.svd((1 - step) * weight_SD + step * new_SD, full_matrices=False)
        weight_SD = u_SK @ v_KD
    near = _nearest_cosine(x_NS, weight_SD, y_MD, settings)
    for _ in range(settings.centroid_rounds):
        x_BS, y_CD = _sample(x_NS, settings.sample, rng), _sample(y_MD, settings.sample, rng)
        x_KS = _kmeans(x_BS, _sample(x_BS, min(settings.centroids, len(x_BS) // 8, len(y_CD) // 8), rng))
        new_SD = _orthogonal(x_KS, _kmeans(y_CD, normalised(x_KS @ weight_SD)))
        before, near = near, _nearest_cosine(x_NS, new_SD, y_MD, settings)
        if near <= before:
            break
        weight_SD = new_SD
    return weight_SD


def _first_map(x_NS: Floats, y_MD: Floats, settings: UnpairedSettings, rng: np.random.Generator) -> Floats:
    """From anchors: matched centroids."""
    from scipy.spatial.distance import cdist

    matched = []
    for _ in range(settings.repetitions):
        x_BS, y_CD = _sample(x_NS, settings.sample, rng), _sample(y_MD, settings.sample, rng)
        x_KS, y_KD = _centroids(x_BS, settings.clusters, rng), _centroids(y_CD, settings.clusters, rng)
        d_KK = cdist(_profiles(x_KS, x_BS), _profiles(y_KD, y_CD), "sqeuclidean")
        order, alike = _match(x_KS, y_KD, d_KK, settings.restarts, rng)
        matched.append((alike, x_KS, y_KD[order]))
    matched = sorted(matched, key=lambda one: -one[0])[: settings.kept]
    anchors_x, anchors_y = [one[1] for one in matched], [one[2] for one in matched]
    x_BS, y_CD = _sample(x_NS, settings.sample, rng), _sample(y_MD, settings.sample, rng)
    like_x_BA, like_y_CA = x_BS @ np.concatenate(anchors_x).T, y_CD @ np.concatenate(anchors_y).T
    like_x_BA, like_y_CA = normalised(like_x_BA - like_x_BA.mean(0)), normalised(like_y_CA - like_y_CA.mean(0))
    return _orthogonal(x_BS, _partners(like_x_BA, like_y_CA, y_CD, settings))


def _match(
    x_KS: Floats, y_KD: Floats, d_KK: NDArray[np.float64], restarts: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], float]:
    """For each centroid of the source the target's, and how alike the similarity matrices are then, at most 1.

    The search starts from assignments that prefer centroids of like profile: with a few thousand vectors the right one
    is rarely found from random starts.
    """
    from scipy.optimize import quadratic_assignment

    like_x_KK, like_y_KK = _similarities(x_KS), _similarities(y_KD)
    like_KK = np.exp(-4 * d_KK / d_KK.mean().clip(min=1e-9))
    found = []
    for _ in range(restarts):
        start_KK = _doubly_stochastic(like_KK * rng.uniform(0.2, 1, like_KK.shape) + 0.02)
        options = {"maximize": True, "P0": start_KK, "rng": rng}
        result = quadratic_assignment(like_x_KK, like_y_KK, method="faq", options=options)
        found.append((float(result.fun), result.col_ind))
    score, order = max(found, key=lambda one: one[0])
    return order, score / (len(order) * (len(order) - 1))


def _profiles(centroid_KS: Floats, x_BS: Floats) -> NDArray[np.float64]:
    """Quantiles of the cosines between each centroid and the vectors: what is known of it in any space."""
    profile_KQ: NDArray[np.float64] = np.quantile(centroid_KS @ x_BS.T, _QUANTILES, axis=1).T
    profile_KQ -= profile_KQ.mean(0)
    profile_KQ /= profile_KQ.std().clip(min=1e-9)
    return profile_KQ


def _doubly_stochastic(positive_KK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows and columns scaled to sum to 1 (Sinkhorn and Knopp 1967): exact to 1e-9 for numbers from 0.02 to 1.02."""
    for _ in range(300):
        positive_KK = positive_KK / positive_KK.sum(0)
        positive_KK = positive_KK / positive_KK.sum(1, keepdims=True)
    return positive_KK


def _similarities(centroids_KD: Floats) -> NDArray[np.float64]:
    """Cosines without the diagonal, which every assignment keeps, of mean 0 and variance 1 elsewhere."""
    like_KK: NDArray[np.float64] = (centroids_KD @ centroids_KD.T).astype(np.float64)
    off = ~np.eye(len(like_KK), dtype=bool)
    like_KK = (like_KK - like_KK[off].mean()) / max(float(like_KK[off].std()), 1e-9)
    np.fill_diagonal(like_KK, 0.0)
    return like_KK


def _centroids(x_BS: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Of spherical k-means from k-means++ starting points (Arthur and Vassilvitskii 2007), (K, S), of length 1."""
    start_KS = x_BS[rng.integers(len(x_BS), size=1)]
    distance_B = np.full(len(x_BS), np.inf, np.float32)
    while len(start_KS) < count:
        distance_B = np.minimum(distance_B, (1 - x_BS @ start_KS[-1]).clip(min=1e-9))
        start_KS = np.vstack([start_KS, x_BS[rng.choice(len(x_BS), p=distance_B / distance_B.sum())]])
    return _kmeans(x_BS, start_KS)


def _kmeans(x_BS: Floats, centroid_KS: Floats) -> Floats:
    """Spherical k-means from given centroids; an empty cluster keeps its own."""
    from scipy.sparse import csr_array

    ones_B, rows_B = np.ones(len(x_BS), np.float32), np.arange(len(x_BS) + 1)
    for _ in range(_KMEANS):
        nearest_B = np.concatenate([(part @ centroid_KS.T).argmax(1) for part in _chunks(x_BS)])
        member_BK = csr_array((ones_B, nearest_B, rows_B), (len(x_BS), len(centroid_KS)))
        total_KS = member_BK.T @ x_BS
        held_K1 = (np.bincount(nearest_B, minlength=len(centroid_KS)) > 0)[:, None]
        centroid_KS = np.where(held_K1, normalised(total_KS), centroid_KS)
    return centroid_KS


def _partners(x_BF: Floats, y_CF: Floats, y_CD: Floats, settings: UnpairedSettings) -> Floats:
    """For each row the mean of `y_CD` over the rows of `y_CF` of highest cosine, (B, D), of length 1."""
    from scipy.sparse import csr_array

    k = max(1, min(settings.neighbours, len(y_CF) // 40))
    found = []
    for part in _chunks(x_BF):
        near_BK = np.argpartition(part @ y_CF.T, -k, axis=1)[:, -k:]
        rows = np.arange(0, near_BK.size + 1, k)
        found.append(
            csr_array((np.ones(near_BK.size, np.float32), near_BK.ravel(), rows), (len(part), len(y_CF))) @ y_CD
        )
    return normalised(np.concatenate(found))


def _chunks(x_BF: Floats) -> Iterator[Floats]:
    return (x_BF[start : start + _CHUNK] for start in range(0, len(x_BF), _CHUNK))


def _orthogonal(x_PS: Floats, y_PD: Floats) -> Floats:
    """The Procrustes map through the origin: both sides are centred."""
    zero_S, zero_D = np.zeros(x_PS.shape[1], np.float32), np.zeros(y_PD.shape[1], np.float32)
    return procrustes(x_PS, y_PD, zero_S, zero_D).weight


def _agreement(x_BS: Floats, one_SD: Floats, other_SD: Floats) -> tuple[float, float]:
    """`UnpairedFit.agreement` and `same`."""
    like_BB = normalised(x_BS @ one_SD) @ normalised(x_BS @ other_SD).T
    own_B = np.diag(like_BB)
    same_B = own_B + 1e-5 >= np.maximum(
        like_BB.max(0), like_BB.max(1)
    )  # as near as any: a vector may stand there twice
    return float(own_B.mean()), float(same_B.mean())


def _nearest_cosine(x_NS: Floats, weight_SD: Floats, y_MD: Floats, settings: UnpairedSettings) -> float:
    """Mean cosine of mapped vectors to the nearest of the target's, of the same samples at each call."""
    rng = np.random.default_rng(0)
    x_BS, y_CD = _sample(x_NS, 2 * settings.batch, rng), _sample(y_MD, settings.sample, rng)
    return float(np.concatenate([(part @ y_CD.T).max(1) for part in _chunks(normalised(x_BS @ weight_SD))]).mean())


def _chance(x_NS: Floats, y_MD: Floats, settings: UnpairedSettings, rng: np.random.Generator) -> float:
    """`nearest` of maps that bring principal axes, by their variance, onto each other with random signs."""
    axes_SS, axes_DD = (np.linalg.eigh(side.T @ side)[1][:, ::-1] for side in (x_NS, y_MD))
    k, found = min(len(axes_SS), len(axes_DD)), []
    for _ in range(3):
        signs_K = rng.choice(np.array([-1, 1], np.float32), k)
        found.append(_nearest_cosine(x_NS, (axes_SS[:, :k] * signs_K) @ axes_DD[:, :k].T, y_MD, settings))
    return float(np.mean(found))


def _sample(x_ND: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[Any]:
    """At most so many rows, each at most once, in their order."""
    if len(x_ND) <= count:
        return x_ND[:]
    rows: NDArray[Any] = x_ND[np.sort(rng.choice(len(x_ND), count, replace=False))]
    return rows
