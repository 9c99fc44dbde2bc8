"""What to train on: mixtures, exact quotas, and runs whose chunks are drawn, recorded and read again."""

from mixlake.mixing.adapt import Adapt
from mixlake.mixing.adapter import Adapter
from mixlake.mixing.components import Component, OnExhausted, Rules
from mixlake.mixing.curriculum import Curriculum, Stage
from mixlake.mixing.explain import ComponentSummary, Explanation, explain
from mixlake.mixing.mixture import Mixture, Unit
from mixlake.mixing.run import Run
from mixlake.mixing.run_config import RunConfig
from mixlake.mixing.run_table import list_runs

__all__ = [
    "Adapt",
    "Adapter",
    "Component",
    "ComponentSummary",
    "Curriculum",
    "Explanation",
    "Mixture",
    "OnExhausted",
    "Rules",
    "Run",
    "RunConfig",
    "Stage",
    "Unit",
    "explain",
    "list_runs",
]
