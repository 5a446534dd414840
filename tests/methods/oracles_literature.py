"""Formulas of papers on data-free merging, naively in float64, matrix by matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Knobs = Mapping[str, float | bool]


def task_vectors(base, sources, each):
    return [k["weight"] * (x - base) for k, x in zip(each, sources, strict=True)]


def matrices(function):
    """Apply a formula of matrices to each matrix of a stack, and the mean to all else."""

    def merged(base, sources, each, knobs, uniforms):
        if base.ndim not in (2, 3):
            vectors = task_vectors(base, sources, each)
            return base + knobs["lambda"] * sum(vectors) / len(vectors)
        if base.ndim == 2:
            return function(base, sources, each, knobs)
        layers = [function(b, [s[i] for s in sources], each, knobs) for i, b in enumerate(base)]
        return np.stack(layers)

    merged.__name__ = function.__name__
    return merged


def consensus(base, sources, each, knobs, uniforms):
    vectors = task_vectors(base, sources, each)
    total = sum(vectors)
    users = np.zeros(base.shape)
    for k, vector in zip(each, vectors, strict=True):
        users += np.where(np.abs(vector) > k["mask_lambda"] * np.abs(total - vector), 1, 0)
    return base + knobs["lambda"] * np.where(users >= knobs["k"], total, 0.0)


def magmax(base, sources, each, knobs, uniforms):
    vectors = np.stack(task_vectors(base, sources, each))
    largest = np.argmax(np.abs(vectors), axis=0)
    return base + knobs["lambda"] * np.take_along_axis(vectors, largest[None], axis=0)[0]


def emr_uni(base, sources, each, knobs, uniforms):
    vectors = np.stack(task_vectors(base, sources, each))
    sign = np.where(vectors.sum(0) >= 0, 1.0, -1.0)
    largest = np.where(vectors * sign > 0, np.abs(vectors), 0).max(0)
    return base + knobs["lambda"] * sign * largest


def squared_shares(base, sources, each, knobs, uniforms):
    """VaRM; MetaGPT too, where the model is one tensor."""
    squares = [float(((x - base) ** 2).sum()) for x in sources]
    total = sum(abs(k["weight"]) * s for k, s in zip(each, squares, strict=True))
    merged = base.copy()
    for k, x, s in zip(each, sources, squares, strict=True):
        merged = merged + knobs["lambda"] * k["weight"] * s / total * (x - base)
    return merged


def geometric_median(base, sources, each, knobs, uniforms):
    """Weiszfeld on the vectors themselves, a fixed number of times."""
    counts = [abs(k["weight"]) for k in each]
    points = [np.sign(k["weight"]) * (x - base) for k, x in zip(each, sources, strict=True)]
    point = sum(n * p for n, p in zip(counts, points, strict=True)) / sum(counts)
    for _ in range(2000):
        pulls = [
            n / max(np.linalg.norm(p - point), 1e-9) for n, p in zip(counts, points, strict=True)
        ]
        point = sum(w * p for w, p in zip(pulls, points, strict=True)) / sum(pulls)
    return base + knobs["lambda"] * point


def pcb(base, sources, each, knobs, uniforms):
    vectors = [(x - base).reshape(-1) for x in sources]
    n, size = len(vectors), vectors[0].size
    total = sum(vectors)
    numerator, divisor = np.zeros(size), np.zeros(size)
    for k, vector in zip(each, vectors, strict=True):
        magnitudes = np.sort(np.abs(vector))
        low, high = magnitudes[int(size * 1e-4)], magnitudes[int(size * (1 - 1e-4) - 1)]
        clipped = np.clip(np.abs(vector), low, high)
        normal = (clipped - low) / (high - low)
        score = np.exp(n * normal**2) * np.tanh(vector * total)
        least = np.sort(score)[min(size - 1, int(size * (1 - knobs["ratio"])))]
        kept = (np.maximum(score, least) - least) / (score.max() - least)
        numerator += k["weight"] * np.sign(vector) * clipped * kept
        divisor += kept
    merged = numerator / np.maximum(divisor, 1e-12)
    return base + knobs["lambda"] * merged.reshape(base.shape)


def ranked(values):
    """Rank / n of each value."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values)) / len(values)
    return ranks


def widen(base, sources, each, knobs, uniforms):
    def scored(significance):
        scores = np.exp(significance) / np.exp(significance).sum(0)
        average = significance.mean(1, keepdims=True)
        high = significance - knobs["above_average"] * average > 1e-12
        return np.where(high, knobs["calibration"], scores)

    def of_matrix(base, sources):
        lengths = np.linalg.norm(base, axis=0)
        by_length = [np.abs(np.linalg.norm(x, axis=0) - lengths) for x in sources]
        by_direction = [
            1 - (x * base).sum(0) / (np.linalg.norm(x, axis=0) * lengths) for x in sources
        ]
        by_rank = [np.stack([ranked(d) for d in kind]) for kind in (by_length, by_direction)]
        scores = sum(scored(ranks) for ranks in by_rank) / 2
        vectors = task_vectors(base, sources, each)
        return base + knobs["lambda"] * sum(s * v for s, v in zip(scores, vectors, strict=True))

    if base.ndim == 2:
        return of_matrix(base, sources)
    if base.ndim == 3:
        return np.stack([of_matrix(b, [x[i] for x in sources]) for i, b in enumerate(base)])
    scores = scored(np.stack([np.abs(x - base).reshape(-1) for x in sources]))
    vectors = task_vectors(base, sources, each)
    pairs = zip(scores, vectors, strict=True)
    return base + knobs["lambda"] * sum(s.reshape(base.shape) * v for s, v in pairs)


@matrices
def iso_c(base, sources, each, knobs):
    u, s, vt = np.linalg.svd(sum(task_vectors(base, sources, each)), full_matrices=False)
    return base + knobs["lambda"] * s.mean() * u @ vt


@matrices
def iso_cts(base, sources, each, knobs):
    vectors = task_vectors(base, sources, each)
    n, rank = len(vectors), min(base.shape)
    own = min(round((rank - int(rank * knobs["common"])) / n), rank // n)
    shared = rank - own * n
    u, s, vt = np.linalg.svd(sum(vectors), full_matrices=False)
    us, ss, vs = [u[:, :shared]], [s[:shared]], [vt[:shared].T]
    for vector in vectors:
        rest = (np.eye(len(u)) - us[0] @ us[0].T) @ vector
        u, s, vt = np.linalg.svd(rest)
        us, ss, vs = [*us, u[:, :own]], [*ss, s[:own]], [*vs, vt[:own].T]
    u, v = orthogonalised(np.hstack(us)), orthogonalised(np.hstack(vs))
    return base + knobs["lambda"] * np.concatenate(ss).mean() * u @ v.T


def orthogonalised(matrix):
    """The matrix times (MᵀM)^−½: its polar factor, for independent columns."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    return matrix @ (vectors / np.sqrt(values)) @ vectors.T


@matrices
def tsv_m(base, sources, each, knobs):
    us, ss, vs = [], [], []
    kept = min(base.shape) // len(sources)
    for k, x in zip(each, sources, strict=True):
        u, s, vt = np.linalg.svd(x - base)
        us, vs = [*us, u[:, :kept]], [*vs, vt[:kept].T]
        ss.append(k["weight"] * s[:kept])
    u, v = orthogonalised(np.hstack(us)), orthogonalised(np.hstack(vs))
    return base + knobs["lambda"] * u @ np.diag(np.concatenate(ss)) @ v.T


def elected(parts, weights, normalize):
    """TIES's election over weighted parts, element by element."""
    total = sum(parts)
    merged = np.zeros_like(total)
    for at in np.ndindex(total.shape):
        sign = 1 if total[at] >= 0 else -1
        agreeing = [(p[at], w) for p, w in zip(parts, weights, strict=True) if p[at] * sign > 0]
        merged[at] = sum(p for p, _ in agreeing)
        if normalize:
            merged[at] /= sum(w for _, w in agreeing) or 1.0
    return merged


def knots(trim):
    """Merge Σ Vᵢᵀ of [Δ₁ | …] = U Σ Vᵀ, trimmed; tensors that are no matrices as they are."""

    def oracle(base, sources, each, knobs, uniforms):
        vectors = [x - base for x in sources]
        matrices = base.ndim == 3 and list(range(len(base)))
        weights = [k["weight"] for k in each]
        if base.ndim == 2:
            matrices = [slice(None)]
        if not matrices:
            trimmed = trim(vectors, each, uniforms)
            weighted = [w * x for w, x in zip(weights, trimmed, strict=True)]
            return base + knobs["lambda"] * elected(weighted, weights, knobs["normalize"])
        us, parts = [], [[] for _ in sources]
        for at in matrices:
            u, s, vt = np.linalg.svd(np.hstack([v[at] for v in vectors]), full_matrices=False)
            us.append(u)
            for part, piece in zip(parts, np.split(s[:, None] * vt, len(sources), 1), strict=True):
                part.append(piece)
        rows = len(parts[0][0])
        drawn = [u.reshape(len(us), -1, base.shape[-1])[:, :rows] for u in uniforms]
        trimmed = trim([np.stack(part) for part in parts], each, drawn)
        weighted = [w * x for w, x in zip(weights, trimmed, strict=True)]
        merged = elected(weighted, weights, knobs["normalize"])
        update = np.stack([u @ m for u, m in zip(us, merged, strict=True)])
        return base + knobs["lambda"] * update.reshape(base.shape)

    return oracle


def by_magnitude(parts, each, uniforms):
    trimmed = []
    for part, k in zip(parts, each, strict=True):
        kept = max(1, int(k["density"] * part.size))
        least = np.sort(np.abs(part), axis=None)[-kept]
        trimmed.append(np.where(np.abs(part) >= least, part, 0.0))
    return trimmed


def by_chance(parts, each, uniforms):
    return [
        np.where(u < k["density"], part / k["density"], 0.0)
        for part, k, u in zip(parts, each, uniforms, strict=True)
    ]


def low_rank(matrix, kept):
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return sum((s[i] * np.outer(u[:, i], vt[i]) for i in range(kept)), np.zeros(matrix.shape))


def cart(base, sources, each, knobs, uniforms):
    centre = sum(sources) / len(sources)
    if centre.ndim not in (2, 3):
        return centre
    if centre.ndim == 3:
        layers = range(len(centre))
        return np.stack(
            [cart(None, [x[i] for x in sources], each, knobs, uniforms) for i in layers]
        )
    kept = max(1, int(knobs["rank"] * min(centre.shape)))
    merged = centre
    for k, x in zip(each, sources, strict=True):
        merged = merged + knobs["lambda"] * k["weight"] * low_rank(x - centre, kept)
    return merged


@matrices
def star(base, sources, each, knobs):
    merged = base.copy()
    for k, x in zip(each, sources, strict=True):
        s = np.linalg.svd(x - base, compute_uv=False)
        kept = 1
        while s[:kept].sum() < k["eta"] * s.sum():
            kept += 1
        restored = low_rank(x - base, kept) * s.sum() / s[:kept].sum()
        merged = merged + knobs["lambda"] * k["weight"] * restored / len(sources)
    return merged


def opcm(base, sources, each, knobs, uniforms):
    """Model after model, scaled to the mean norm after each, as in the paper."""
    if base.ndim == 3:
        return opcm_of_a_stack(base, sources, each, knobs)
    vectors = task_vectors(base, sources, each)
    merged, before, norms = np.zeros(base.shape), 1.0, []
    for vector in vectors:
        norms.append(np.linalg.norm(vector))
        grown = before * merged + (
            off_subspace(merged, vector, knobs["alpha"]) if base.ndim == 2 else vector
        )
        before = np.linalg.norm(grown) / np.mean(norms)
        merged = grown / before
    return base + knobs["lambda"] * merged


def opcm_of_a_stack(base, sources, each, knobs):
    vectors = task_vectors(base, sources, each)
    merged = vectors[0]
    for vector in vectors[1:]:
        pairs = zip(merged, vector, strict=True)
        merged = merged + np.stack([off_subspace(m, v, knobs["alpha"]) for m, v in pairs])
    norm = np.mean([np.linalg.norm(v) for v in vectors])
    return base + knobs["lambda"] * merged * norm / np.linalg.norm(merged)


def ext_sub(base, sources, each, knobs, uniforms):
    """Row by row; a row that only one of two sources changed has nothing in common with it."""
    expert, *others = (x - base for x in sources)
    merged = each[0]["weight"] * expert
    for k, other in zip(each[1:], others, strict=True):
        rows = other.reshape(-1, other.shape[-1] if other.ndim else 1)
        extracted = []
        for plus, minus in zip(expert.reshape(rows.shape), rows, strict=True):
            lengths = np.linalg.norm(plus), np.linalg.norm(minus)
            if 0 in lengths:
                extracted.append(minus)
                continue
            common = plus / lengths[0] + minus / lengths[1]
            common = common / max(np.linalg.norm(common), 1e-300)
            extracted.append(minus - np.dot(minus, common) * common)
        merged = merged - k["weight"] * np.reshape(extracted, other.shape)
    return base + knobs["lambda"] * merged


def off_subspace(merged, vector, alpha):
    if not merged.any():
        return vector
    u, s, vt = np.linalg.svd(merged)
    n_leading = int(np.argmax(np.cumsum(s) / s.sum() > alpha))
    coordinates = u.T @ vector @ vt.T
    np.fill_diagonal(coordinates, 0)
    coordinates[:n_leading, :n_leading] = 0
    return u @ coordinates @ vt


Oracle = Callable[[Array, Sequence[Array], Sequence[Knobs], Knobs, Sequence[Array]], Array]
LITERATURE: Mapping[str, Oracle] = {
    f.__name__: f
    for f in (
        *(consensus, magmax, emr_uni, geometric_median, pcb, widen, iso_c, iso_cts, tsv_m, cart),
        *(star, opcm, ext_sub),
    )
} | {
    "varm": squared_shares,
    "metagpt": squared_shares,
    "knots_ties": knots(by_magnitude),
    "knots_dare_ties": knots(by_chance),
}


def tailored(base, vector, gram, density, salience, block=128):
    """Model Tailor's patch, by inverses of what is left of the Gram matrix, column by column."""
    if base.ndim != 2:
        flat = vector.reshape(-1).copy()
        order = np.argsort(-np.abs(flat), kind="stable")
        flat[order[max(1, int(density * flat.size)) :]] = 0
        return flat.reshape(vector.shape)
    hessian = (gram + gram.T) / 2 + 0.01 * np.mean(np.diag(gram)) * np.eye(len(gram))
    inverses = [np.linalg.inv(hessian[i:, i:]) for i in range(len(hessian))]
    left = np.array([inverse[0, 0] for inverse in inverses])
    moved, patch = vector.copy(), np.zeros_like(vector)

    def z(values):
        return (values - values.mean(1, keepdims=True)) / values.std(1, ddof=1, keepdims=True)

    for start in range(0, base.shape[1], block):
        here = slice(start, start + block)
        sensitivity = (base[:, here] + moved[:, here]) ** 2 / left[here]
        score = salience * z(np.abs(vector[:, here])) + (1 - salience) * z(sensitivity)
        n_kept = max(1, int(density * score.size))
        chosen = score >= np.sort(score.reshape(-1))[-n_kept]
        for i, row in np.ndindex(score.shape[1], len(score)):
            j = start + i
            if chosen[row, i]:
                patch[row, j] = moved[row, j]
            else:
                moved[row, j + 1 :] -= moved[row, j] * inverses[j][0, 1:] / left[j]
    return patch
