"""What to train on: mixtures, exact quotas, and runs whose chunks are drawn, recorded and read again."""

from mixlake.mixing.explain import ComponentSummary, Explanation, explain
from mixlake.mixing.mixture import Component, Mixture, OnExhausted, Unit
from mixlake.mixing.run import Run, RunConfig, list_runs

__all__ = [
    "Component",
    "ComponentSummary",
    "Explanation",
    "Mixture",
    "OnExhausted",
    "Run",
    "RunConfig",
    "Unit",
    "explain",
    "list_runs",
]
