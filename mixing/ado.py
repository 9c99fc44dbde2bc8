"""The rules of Adaptive Data Optimization (Jiang et al. 2024, arXiv 2410.11820), as functions over arrays.

Of K components, with prior μ: law L_k(n) = ε_k + β_k n^-α_k, learning speed -dL_k/dn = α_k β_k n^-α_k / n, credit h_k
(how much of the progress is its own data's), preference ρ_k ∝ μ_k h_k^s (-dL_k/dn), and weights π = γ₂ ρ + (1 - γ₂) π̄,
where π̄ is the mean of the preferences so far, begun at the prior. All arrays have shape (K,).
"""

from __future__ import annotations

import numpy as np

from mixlake.mixing.inference import FloatArray


def preference(prior: FloatArray, credit: FloatArray, speed: FloatArray, power: float = 0.5) -> FloatArray:
    """Return ρ ∝ μ h^s (-dL/dn); the prior where nothing is learned at all.

    >>> preference(np.array([0.5, 0.5]), np.array([0.5, 0.5]), np.array([3.0, 1.0])).tolist()
    [0.75, 0.25]
    """
    rho = np.maximum(prior * credit**power * speed, 0.0)
    total = rho.sum()
    result: FloatArray = rho / total if total > 0 else prior / prior.sum()
    return result


def moved(average: FloatArray, towards: FloatArray, part: float) -> FloatArray:
    """Return (1 - part) average + part towards: how h, π and π̄ move.

    >>> moved(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 0.25).tolist()
    [0.75, 0.25]
    """
    result: FloatArray = (1 - part) * average + part * towards
    return result


def clipped(shares: FloatArray, floor: float, is_floored: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> FloatArray:
    """Return shares raised to a floor and normalised, as the authors' code and Mixtera do: they can end below it.

    >>> clipped(np.array([0.0, 1.0]), 0.25, np.array([True, True])).tolist()
    [0.2, 0.8]
    """
    raised = np.where(is_floored, np.maximum(shares, floor), shares)
    result: FloatArray = raised / raised.sum()
    return result


def pooled(speed: FloatArray, error: FloatArray) -> FloatArray:
    """Return speeds drawn towards their common mean, the more the less is known of them (DerSimonian and Laird 1986).

    The variance between components is estimated by moments; a speed with none of the errors stays as it is.

    Args:
        speed: estimates.
        error: their standard errors, positive.

    >>> pooled(np.array([1.0, 3.0, 2.0]), np.array([1e-9, 1e-9, 1e9])).round(3).tolist()
    [1.0, 3.0, 2.0]
    """
    weight = 1 / error**2
    mean = (weight * speed).sum() / weight.sum()
    spread = (weight * (speed - mean) ** 2).sum() - (len(speed) - 1)
    scale = weight.sum() - (weight**2).sum() / weight.sum()
    between = max(spread / scale, 0.0) if scale > 0 else 0.0
    around = 1 / (between + error**2)
    centre = (around * speed).sum() / around.sum()
    result: FloatArray = centre + between * around * (speed - centre)
    return result


def repeat_discount(passes: FloatArray, lifetime: float) -> FloatArray:
    """Return what a token is still worth after some passes: exp(-(passes - 1) / R*), and 1 in the first one.

    The marginal value in the data-constrained law of Muennighoff et al. 2023 (arXiv 2305.16264, equation 5), whose fit
    has R* = 15.4.

    >>> repeat_discount(np.array([0.3, 1.0, 16.4]), 15.4).round(3).tolist()
    [1.0, 1.0, 0.368]
    """
    result: FloatArray = np.exp(-np.maximum(passes - 1, 0.0) / lifetime)
    return result
