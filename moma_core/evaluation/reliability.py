"""The gate's reliability diagram: of the queries it gave a chance of p, how many were right?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moma_core.errors import ArtifactError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["calibration_error", "draw_reliability", "reliability"]

_BINS = 10


def reliability(
    chances: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return mean chance, share right and count of each non-empty tenth, shape (bins, 3).

    Args:
        chances: The gate's probabilities, shape (n,).
        right: Whether the best agent was a wanted one, shape (n,).

    Example:
        >>> reliability(np.array([0.1, 0.12, 0.9]), np.array([False, False, True])).shape
        (2, 3)
    """
    bins = np.minimum((chances * _BINS).astype(int), _BINS - 1)
    rows = [
        (chances[bins == b].mean(), right[bins == b].mean(), (bins == b).sum())
        for b in np.unique(bins)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def calibration_error(table: npt.NDArray[np.float64]) -> float:
    """Return the expected calibration error: mean distance of chance and share, by count."""
    return float(np.average(np.abs(table[:, 0] - table[:, 1]), weights=table[:, 2]))


def draw_reliability(table: npt.NDArray[np.float64], threshold: float, path: Path) -> None:
    """Draw the diagram as PNG or SVG, by the path's ending; legible in black and white.

    Raises:
        ArtifactError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], linestyle=":", color="0.5", label="perfect")
    axes.axvline(threshold, linestyle="--", color="0.3", label=f"threshold {threshold:.2f}")
    axes.plot(table[:, 0], table[:, 1], marker="o", color="black", label="measured")
    for chance, share, count in table:
        axes.annotate(f"{count:.0f}", (chance, share), (4, -11), textcoords="offset points")
    axes.set(
        xlabel="the gate's probability", ylabel="share that was right", xlim=(0, 1), ylim=(0, 1)
    )
    axes.set_title(f"Reliability of the gate (error {calibration_error(table):.3f})")
    axes.legend(loc="upper left")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot draw {path} ({error}). Give a .png or .svg path.") from error
