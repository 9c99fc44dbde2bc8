"""How adaptive weights and a curriculum go together: what a policy makes of its prior, the curriculum's shares take on.

A policy starts from the prior π⁰: what each component is declared to get when it first gets anything. Where it would
give π_k instead of π⁰_k, every share s_k that the curriculum says from then on becomes s_k · π_k / π⁰_k, normalised.
Without stages that is π itself. With them it is what the rule of ADO (arXiv 2410.11820), which is proportional to its
prior, would give had the stage's shares been the prior; and a component that a stage leaves out stays out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixlake.mixing.inference import FloatArray
from mixlake.mixing.mixture import Unit
from mixlake.mixing.policies import Setting
from mixlake.mixing.program import Program
from mixlake.mixing.quotas import SCALE, integer_shares


def prior(program: Program) -> FloatArray:
    """Return each component's share in the first segment that gives it any, normalised; shape (K,)."""
    first = np.zeros(len(program.components))
    for segment in program.segments:
        first = np.where(first > 0, first, np.array(segment.shares) / SCALE)
    shares: FloatArray = first / first.sum()
    return shares


def setting(program: Program) -> Setting:
    """Return what a policy of the run mixes.

    Where the mixture counts bytes, a token counts as one: a pass has at most so many tokens. Of samples that is not
    known.
    """
    units, names = program.units_per_pass, program.components
    sizes = None
    if units is not None and program.unit is not Unit.SAMPLES:
        sizes = np.array([units.get(name, np.inf) for name in names])
    return Setting(components=names, prior=prior(program), tokens_per_pass=sizes)


def tilted(shares: Sequence[int], adapted: Sequence[float], prior_K: FloatArray) -> tuple[int, ...]:
    """Return a segment's integer shares, tilted by what a policy makes of the prior; as they are where it is empty."""
    if not adapted:
        return tuple(shares)
    factor = np.divide(adapted, prior_K, out=np.zeros(len(shares)), where=prior_K > 0)
    weights = np.array(shares) / SCALE * factor
    return tuple(integer_shares(weights.tolist()) if weights.sum() > 0 else shares)
