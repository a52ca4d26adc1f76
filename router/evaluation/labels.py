"""Names in a picture: as far as the font can draw them, and where they hide least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patheffects import withStroke

MISSING = "□"
DISTANCES = (9, 18, 30, 44)  # points between a name and its marker
DIRECTIONS = ((0, -1), (0, 1), (1, 0), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1))
MARKER = 9  # width of what should stay free around a point, in points


def drawable(name: str, width: int = 40) -> str:
    """The name on one line of at most `width` characters, cut in the middle, with a box for each
    character that the font lacks."""
    known = get_font(findfont(FontProperties())).get_charmap()
    text = "".join(c if ord(c) in known else MISSING for c in " ".join(name.split()))
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


def place_labels(axes: Axes, names: Sequence[str], points: np.ndarray, free: np.ndarray) -> None:
    """Write each name next to its point, where it covers least of other names, of the points and
    of what lies outside the axes; a thin line leads to a name that stands further off.

    points: (k, 2) in data coordinates. free: (f, 2) what else should not be covered.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles the layout: pixels are final from here on
    pixels_per_point = figure.dpi / 72
    at = axes.transData.transform(points)
    marks = np.vstack([at, axes.transData.transform(free)])
    reach = MARKER * pixels_per_point / 2
    taken = np.hstack([marks - reach, marks + reach])
    frame = np.array(axes.get_window_extent().extents)
    for name, point, pixel in zip(names, points, at, strict=True):
        half = _size(axes, name) / 2
        best, least, leads = pixel, np.inf, False
        for distance in DISTANCES:
            for direction in DIRECTIONS:
                centre = pixel + direction * (half + distance * pixels_per_point - reach)
                box = np.concatenate([centre - half, centre + half])
                cost = _overlap(box, taken) + 2 * _outside(box, frame) + distance
                if cost < least:
                    best, least, leads = centre, cost, distance > DISTANCES[0]
        taken = np.vstack([taken, [*(best - half), *(best + half)]])
        axes.annotate(
            name,
            (float(point[0]), float(point[1])),
            tuple((best - pixel) / pixels_per_point),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            parse_math=False,
            zorder=7,
            in_layout=False,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.3"} if leads else None,
        )


def _size(axes: Axes, name: str) -> np.ndarray:
    """(width, height) of the drawn name in pixels."""
    text = axes.text(0.5, 0.5, name, transform=axes.transAxes, fontsize=8, parse_math=False)
    extent = text.get_window_extent()
    text.remove()
    return np.array([extent.width, extent.height])


def _overlap(box: np.ndarray, taken: np.ndarray) -> float:
    sides = np.minimum(box[2:], taken[:, 2:]) - np.maximum(box[:2], taken[:, :2])
    return float(np.prod(np.clip(sides, 0, None), axis=1).sum())


def _outside(box: np.ndarray, frame: np.ndarray) -> float:
    inside = np.minimum(box[2:], frame[2:]) - np.maximum(box[:2], frame[:2])
    return float(np.prod(box[2:] - box[:2]) - np.prod(np.clip(inside, 0, None)))
