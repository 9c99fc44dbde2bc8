"""What loading cost the trainer, as a plot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.catalog.figures import COLOURS, Plot, add_legend, add_note, count_axis, label_axes, new_plot, share_axis
from mixlake.loaders.stats import Stats


def plot_waiting(stats: Sequence[Stats]) -> Plot:
    """Plot how much of its time the trainer waited for batches, and the rate at which it got them.

    Args:
        stats: of one loader, in order of time: ``loader.stats()`` every hundred steps, say. What is shown is what
            happened from each to the next.

    Raises:
        ConfigError: there are none with batches.
    """
    found = [one for one in stats if one.num_batches]
    if not found:
        raise ConfigError("there are no statistics with batches; keep loader.stats() now and then while training")
    batches, seconds, waited, items, tokens = (
        np.array([0.0, *(getattr(one, name) for one in found)])
        for name in ("num_batches", "seconds", "waiting_seconds", "num_items", "num_tokens")
    )
    took = np.maximum(np.diff(seconds), 1e-9)
    counted, unit = (tokens, "tokens") if tokens[-1] else (items, "samples")
    plot, (above, below) = new_plot(rows=2, height=4.6)
    above.stairs(np.diff(waited) / took, batches, fill=True, color=COLOURS[1], label="waiting for a batch")
    above.stairs(
        np.ones(len(took)), batches, baseline=np.diff(waited) / took, fill=True, color=COLOURS[0], label="training"
    )
    add_note(
        above,
        f"waited {waited[-1]:,.1f} s of {seconds[-1]:,.1f} s ({waited[-1] / max(seconds[-1], 1e-9):.1%})",
        (1, 1.04),
        within="axes fraction",
        ha="right",
    )
    label_axes(above, title="what the trainer did", x="", y="share of its time", grid="")
    below.stairs(np.diff(counted) / took, batches, fill=True, color=COLOURS[0])
    label_axes(below, title="what it got", x="batch", y=f"{unit} per second")
    above.set_ylim(0, 1)
    above.sharex(below)
    below.set_xlim(0, batches[-1])
    share_axis(above, "y")
    count_axis(below, "y")
    add_legend(above)
    return plot
