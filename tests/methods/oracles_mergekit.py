"""The formulas of mergekit's further methods, written naively in float64 over whole tensors."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def angle(a, b):
    cosine = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
    return np.arccos(np.clip(cosine, -1, 1))


def nuslerp_vectors(a, b, each):
    first, second = (k["weight"] for k in each)
    t, theta = second / (first + second), angle(a, b)
    return (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)


def nuslerp(base, sources, each, knobs, uniforms):
    return nuslerp_vectors(*sources, each)


def task_nuslerp(base, sources, each, knobs, uniforms):
    return base + knobs["lambda"] * nuslerp_vectors(*(x - base for x in sources), each)


def nuslerp_lines(a, b, each, knobs):
    axis = 0 if knobs["nuslerp_row_wise"] else -1
    a, b = (np.moveaxis(x, axis, -1) for x in (a, b))
    merged = np.empty_like(a)
    for where in np.ndindex(a.shape[:-1]):
        merged[where] = nuslerp_vectors(a[where], b[where], each)
    return np.moveaxis(merged, -1, axis)


def nuslerp_rows(base, sources, each, knobs, uniforms):
    return nuslerp_lines(*sources, each, knobs)


def task_nuslerp_rows(base, sources, each, knobs, uniforms):
    return base + knobs["lambda"] * nuslerp_lines(*(x - base for x in sources), each, knobs)


def multislerp_vectors(vectors, each, knobs):
    """mergekit's steps in its order: project on the tangent space at the mean, step, scale."""
    weights = np.array([k["weight"] for k in each])
    if knobs["normalize_weights"]:
        weights = weights / weights.sum()
    norms = [np.linalg.norm(v) for v in vectors]
    units = [v / (n + knobs["eps"]) for v, n in zip(vectors, norms, strict=True)]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    tangents = [u - (u * mean).sum() * mean for u in units]
    tangent = sum(w * v for w, v in zip(weights, tangents, strict=True))
    size = np.linalg.norm(tangent) + knobs["eps"]
    point = mean * np.cos(size) + tangent * np.sin(size) / size
    return point * sum(w * n for w, n in zip(weights, norms, strict=True))


def multislerp(base, sources, each, knobs, uniforms):
    return multislerp_vectors(sources, each, knobs)


def task_multislerp(base, sources, each, knobs, uniforms):
    return base + knobs["lambda"] * multislerp_vectors([x - base for x in sources], each, knobs)


def karcher(base, sources, each, knobs, uniforms):
    """The point on the sphere where the weighted logarithms of all directions cancel."""
    weights = np.array([k["weight"] for k in each])
    weights = weights / weights.sum()
    norms = [np.linalg.norm(x) for x in sources]
    units = [x / n for x, n in zip(sources, norms, strict=True)]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    for _ in range(100):
        step = 0
        for w, u in zip(weights, units, strict=True):
            theta = angle(u, mean)
            if theta > 0:
                step = step + w * theta / np.sin(theta) * (u - (u * mean).sum() * mean)
        size = np.linalg.norm(step)
        if size < 1e-14:
            break
        mean = np.cos(size) * mean + np.sin(size) * step / size
    return mean * sum(w * n for w, n in zip(weights, norms, strict=True))


def passthrough(base, sources, each, knobs, uniforms):
    return each[0]["scale"] * sources[0]


def consensus(vectors, weights, normalize, vote):
    """Per element: the sum of w v over the v whose sign is the vote's; divided by their w."""
    sign = np.where(vote >= 0, 1, -1)
    agree = [np.sign(w * v) == sign for w, v in zip(weights, vectors, strict=True)]
    total = sum(w * v * a for w, v, a in zip(weights, vectors, agree, strict=True))
    if not normalize:
        return total
    divisor = sum(w * a for w, a in zip(weights, agree, strict=True))
    return total / np.where(divisor == 0, 1, divisor)


def summed(vectors, weights, normalize):
    total = sum(w * v for w, v in zip(weights, vectors, strict=True))
    return total / sum(weights) if normalize else total


def magprune(base, sources, each, uniforms):
    """eq. 3 to 6: kept with probability p rising evenly with the rank in the row, over p."""
    pruned = []
    for k, x, u in zip(each, sources, uniforms, strict=True):
        vector, uniform = x - base, u.reshape(base.shape)
        half = min(k["epsilon"], k["density"], 1 - k["density"])
        out = np.zeros_like(vector)
        for where in np.ndindex(vector.shape[:-1]):
            order = np.argsort(np.abs(vector[where]), kind="stable")
            n = len(order)
            for rank, j in enumerate(order):
                p = k["density"] - half + 2 * half * rank / (n - 1)
                if uniform[where][j] < p:
                    out[where][j] = vector[where][j] / p
        pruned.append(out)
    return pruned


def della(base, sources, each, knobs, uniforms):
    vectors, weights = magprune(base, sources, each, uniforms), [k["weight"] for k in each]
    vote = sum(w * v for w, v in zip(weights, vectors, strict=True))
    return base + knobs["lambda"] * consensus(vectors, weights, knobs["normalize"], vote)


def della_linear(base, sources, each, knobs, uniforms):
    vectors, weights = magprune(base, sources, each, uniforms), [k["weight"] for k in each]
    return base + knobs["lambda"] * summed(vectors, weights, knobs["normalize"])


def crumbs(base, sources, each):
    """The elements between the largest gamma N and what is left beyond density N."""
    masked = []
    for k, x in zip(each, sources, strict=True):
        vector = (x - base).reshape(-1)
        order = np.argsort(-np.abs(vector), kind="stable")
        keep, outliers = int(k["density"] * len(order)), int(k["gamma"] * len(order))
        outliers = min(outliers, len(order) - keep)
        mask = np.zeros_like(vector)
        mask[order[outliers : outliers + keep]] = 1
        masked.append((vector * mask).reshape(base.shape))
    return masked


def breadcrumbs(base, sources, each, knobs, uniforms):
    vectors, weights = crumbs(base, sources, each), [k["weight"] for k in each]
    return base + knobs["lambda"] * summed(vectors, weights, knobs["normalize"])


def breadcrumbs_ties(base, sources, each, knobs, uniforms):
    vectors, weights = crumbs(base, sources, each), [k["weight"] for k in each]
    vote = sum(w * v for w, v in zip(weights, vectors, strict=True))
    return base + knobs["lambda"] * consensus(vectors, weights, knobs["normalize"], vote)


def sce(base, sources, each, knobs, uniforms):
    vectors = np.stack([x - base for x in sources])
    variance = vectors.var(axis=0)
    k = int(knobs["select_topk"] * np.count_nonzero(variance))
    selected = np.zeros(base.size)
    selected[np.argsort(-variance.reshape(-1))[:k]] = 1
    vectors = vectors * selected.reshape(base.shape)
    energies = np.array([(v**2).sum() for v in vectors])
    shares = energies / energies.sum()
    return base + knobs["lambda"] * consensus(vectors, shares, True, vectors.sum(axis=0))


def model_stock_ratio(vectors):
    n = len(vectors)
    cosine = np.mean([np.cos(angle(a, b)) for a, b in combinations(vectors, 2)])
    return max(0.0, n * cosine / (1 + (n - 1) * cosine)) if cosine > 0 else 0.0


def model_stock(base, sources, each, knobs, uniforms):
    vectors = [x - base for x in sources]
    return base + knobs["lambda"] * model_stock_ratio(vectors) * np.mean(vectors, axis=0)


def model_stock_rows(base, sources, each, knobs, uniforms):
    merged = np.empty_like(base)
    for where in np.ndindex(base.shape[:-1]):
        rows = [x[where] for x in sources]
        merged[where] = model_stock(base[where], rows, each, knobs, uniforms)
    return merged


def ram(base, sources, each, knobs, uniforms, gains=None):
    """Element by element: unique changes whole (times a gain), shared ones averaged."""
    vectors = np.stack([x - base for x in sources])
    active = np.abs(vectors) > knobs["epsilon"]
    count = active.sum(axis=0)
    gains = gains or [1.0] * len(sources)
    unique = sum(g * v * (a & (count == 1)) for g, v, a in zip(gains, vectors, active, strict=True))
    shared = (vectors * (active & (count > 1))).sum(axis=0) / np.maximum(count, 1)
    return base + knobs["lambda"] * (unique + shared)


def ramplus_tl(base, sources, each, knobs, uniforms):
    active = np.abs(np.stack([x - base for x in sources])) > knobs["epsilon"]
    count = active.sum(axis=0)
    overlaps = [(a & (count > 1)).sum() / max((a & (count == 1)).sum(), 1e-5) for a in active]
    gains = [1 + knobs["r"] * min(overlap, knobs["alpha"]) for overlap in overlaps]
    return ram(base, sources, each, knobs, uniforms, gains)


def nearswap(base, sources, each, knobs, uniforms):
    (source,) = sources
    share = np.clip(knobs["t"] / np.maximum(np.abs(source - base), 1e-300), 0, 1)
    return base + knobs["lambda"] * ((share * source + (1 - share) * base) - base)


def arcee_fusion(base, sources, each, knobs, uniforms):
    (source,) = sources

    def softmax(x):
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True) + 1e-8

    p, q = softmax(source), softmax(base)
    importance = np.abs(source - base) * (p * np.log(p / q)).sum(axis=-1, keepdims=True)
    ordered = np.sort(importance.reshape(-1))
    low, median, high = (ordered[int((ordered.size - 1) * share)] for share in (0.25, 0.5, 0.75))
    kept = importance >= median + 1.5 * (high - low)
    return base + knobs["lambda"] * (source - base) * kept


ORACLES_MERGEKIT = {
    f.__name__: f
    for f in (
        *(nuslerp, task_nuslerp, nuslerp_rows, task_nuslerp_rows, multislerp, task_multislerp),
        *(karcher, passthrough, della, della_linear, breadcrumbs, breadcrumbs_ties, sce),
        *(model_stock, model_stock_rows, ram, ramplus_tl, nearswap, arcee_fusion),
    )
}
