"""Valid pixels as they are being drawn: figures, and what a brush has painted.

A `Drawing` is a value. Every stroke makes another one, so that undoing is going back. Figures stay
figures, which a config holds in a line each; what no figure has the form of is *painted*: an array
that goes into an image file, which the config names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stillstack.config.valid import Figure, ValidConfig
from stillstack.errors import InputError
from stillstack.valid import figures, valid_from_config

Kind = Literal["rectangle", "circle", "polygon"]
KINDS: Final[tuple[Kind, ...]] = ("rectangle", "circle", "polygon")
Points = Sequence[tuple[float, float]]
Shape = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Drawing:
    """Which pixels count, as far as figures and a brush say.

    Parameters
    ----------
    spec
        Section ``valid.frames``: its figures, and rules that are left as they are.
    shape
        Rows and columns of a frame.
    painted
        (y, x), False where a brush, or the image that the config names, has excluded pixels; None
        where neither has.
    """

    spec: ValidConfig
    shape: Shape
    painted: NDArray[np.bool_] | None = None

    def area(self) -> NDArray[np.bool_]:
        """Pixels that count, (y, x): what the config that is written gives, rules of values apart.

        Raises
        ------
        InputError
            A figure covers no pixel.
        """
        plain = ValidConfig(exclude=self.spec.exclude, include=self.spec.include)
        found = valid_from_config(plain, self.shape)
        return found if self.painted is None else found & self.painted

    def with_figure(self, figure: Figure, *, keep: bool = False) -> Drawing:
        """Exclude a figure more; or, with ``keep``, let pixels count inside of it.

        Parameters
        ----------
        figure
            To be added.
        keep
            Add it to ``include``: nothing outside of those counts.
        """
        if keep:
            return self._with(include=(*(self.spec.include or ()), figure))
        return self._with(exclude=(*self.spec.exclude, figure))

    def listed(self) -> list[tuple[str, Figure]]:
        """All figures with the name of their list, in the order of `without` and `with_other`."""
        included = [("include", figure) for figure in self.spec.include or ()]
        return [*(("exclude", figure) for figure in self.spec.exclude), *included]

    def without(self, place: int) -> Drawing:
        """Leave a figure out.

        Parameters
        ----------
        place
            In `listed`.
        """
        return self._from([pair for k, pair in enumerate(self.listed()) if k != place])

    def with_other(self, place: int, figure: Figure) -> Drawing:
        """Put another figure into the place of one.

        Parameters
        ----------
        place
            In `listed`.
        figure
            The other one.
        """
        pairs = self.listed()
        pairs[place] = (pairs[place][0], figure)
        return self._from(pairs)

    def with_rules(self, **rules: Any) -> Drawing:
        """Change rules of values: ``below``, ``above``.

        Parameters
        ----------
        rules
            Fields of ``ValidConfig``.
        """
        return self._with(**rules)

    def brushed(self, pixels: NDArray[np.bool_]) -> Drawing:
        """Exclude pixels one by one.

        Parameters
        ----------
        pixels
            (y, x), True for those.
        """
        before = np.ones(self.shape, bool) if self.painted is None else self.painted
        return replace(self, painted=before & ~pixels)

    def restored(self, pixels: NDArray[np.bool_]) -> Drawing:
        """Let pixels count again, whatever excluded them.

        No figure has a hole: one that excludes such a pixel becomes painted pixels, without it.

        Parameters
        ----------
        pixels
            (y, x), True for those.
        """
        painted = np.ones(self.shape, bool) if self.painted is None else self.painted.copy()
        exclude = []
        for figure in self.spec.exclude:
            inside = figures(self.shape, [figure])
            if (inside & pixels).any():
                painted &= ~inside
            else:
                exclude.append(figure)
        include = self.spec.include
        if include is not None and (pixels & ~figures(self.shape, include)).any():
            painted &= figures(self.shape, include)
            include = None
        painted |= pixels
        changed = self._with(exclude=tuple(exclude), include=include)
        return replace(changed, painted=None if painted.all() else painted)

    def _from(self, pairs: Sequence[tuple[str, Figure]]) -> Drawing:
        lists = {name: tuple(f for key, f in pairs if key == name) for name in _LISTS}
        return self._with(exclude=lists["exclude"], include=lists["include"] or None)

    def _with(self, **fields: Any) -> Drawing:
        settings = {name: getattr(self.spec, name) for name in type(self.spec).model_fields}
        return replace(self, spec=ValidConfig(**{**settings, **fields}))


_LISTS: Final = ("exclude", "include")


def figure_of(kind: Kind, points: Points, shape: Shape) -> Figure | None:
    """Figure that a gesture draws, or None where it covers no pixel.

    Parameters
    ----------
    kind
        What is drawn.
    points
        (y, x), px: two corners of a rectangle, the centre of a circle and a point of its rim, all
        corners of a polygon.
    shape
        Rows and columns of a frame.

    Returns
    -------
    Figure
        A rectangle in whole pixels: those whose centres the drawn one covers. Others to a tenth
        of a pixel.

    Examples
    --------
    >>> figure_of("rectangle", [(2.2, 8.4), (0.6, 3.9)], (10, 10)).rectangle
    (1.0, 3.0, 4.0, 9.0)
    >>> figure_of("rectangle", [(2.2, 3.1), (2.4, 3.2)], (10, 10)) is None
    True
    """
    figure = _drawn(kind, points, shape)
    if figure is None or not _covers(figure, shape):
        return None
    return figure


def moved_figure(figure: Figure, by: tuple[float, float], shape: Shape) -> Figure | None:
    """Figure somewhere else, or None where it would cover no pixel.

    Parameters
    ----------
    figure
        One whose lengths are pixels or percentages; the answer's are pixels.
    by
        (y, x), px.
    shape
        Rows and columns of a frame.

    Examples
    --------
    >>> moved_figure(Figure(circle=(3, 4, 2)), (1.0, -2.0), (10, 10)).circle
    (4.0, 2.0, 2.0)
    """
    outline = points_of(figure, shape)
    if figure.rectangle is not None:  # by whole pixels: its size stays
        by = (float(round(by[0])), float(round(by[1])))
    points = [(y + by[0], x + by[1]) for y, x in outline]
    return figure_of(kind_of(figure), points, shape)


def kind_of(figure: Figure) -> Kind:
    """Which of the three a figure is.

    Parameters
    ----------
    figure
        Of a config.
    """
    return next(kind for kind in KINDS if getattr(figure, kind) is not None)


def points_of(figure: Figure, shape: Shape) -> list[tuple[float, float]]:
    """Points (y, x) from which `figure_of` makes the same figure, in pixels.

    Parameters
    ----------
    figure
        Of a config, in pixels or percent.
    shape
        Rows and columns of a frame.

    Examples
    --------
    >>> points_of(Figure(rectangle=(0, "50%", 2, 4)), (10, 10))
    [(0.0, 2.0), (4.0, 3.0)]
    """
    if figure.rectangle is not None:
        y0, y1, x0, x1 = (
            np.ceil(_length(value, shape[k // 2])) for k, value in enumerate(figure.rectangle)
        )
        return [(float(y0), float(x0)), (float(y1) - 1, float(x1) - 1)]
    if figure.circle is not None:
        y, x = (_place(value, shape[k]) for k, value in enumerate(figure.circle[:2]))
        return [(y, x), (y, x + _length(figure.circle[2], min(shape)))]
    return [(_place(y, shape[0]), _place(x, shape[1])) for y, x in figure.polygon or ()]


def outline_of(figure: Figure, shape: Shape) -> NDArray[np.float64]:
    """Closed line (n, 2) of (y, x) round a figure, in pixels, to draw it.

    Parameters
    ----------
    figure
        Of a config.
    shape
        Rows and columns of a frame.
    """
    points = np.array(points_of(figure, shape))
    if figure.rectangle is not None:
        (y0, x0), (y1, x1) = points[0] - 0.5, points[1] + 0.5
        return np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0), (y0, x0)])
    if figure.circle is not None:
        angle = np.linspace(0, 2 * np.pi, 97)
        radius = points[1, 1] - points[0, 1]
        return np.asarray(points[0] + radius * np.stack([np.sin(angle), np.cos(angle)], axis=1))
    return np.concatenate([points, points[:1]])


def figure_at(drawing: Drawing, point: tuple[float, float]) -> int | None:
    """Place in ``drawing.listed()`` of the last figure that a point lies in; None in the open.

    Parameters
    ----------
    drawing
        With figures.
    point
        (y, x), px.
    """
    row, column = (round(value) for value in point)
    rows, columns = drawing.shape
    if not (0 <= row < rows and 0 <= column < columns):
        return None
    listed = drawing.listed()
    for place in reversed(range(len(listed))):
        if figures(drawing.shape, [listed[place][1]])[row, column]:
            return place
    return None


def brush_pixels(points: Points, radius: float, shape: Shape) -> NDArray[np.bool_]:
    """Pixels whose centres a round brush covers on its way.

    Parameters
    ----------
    points
        (y, x) of the way, px; one point is a dab.
    radius
        Of the brush, px.
    shape
        Rows and columns of a frame.

    Returns
    -------
    ndarray of shape (y, x): True within the radius of the way, or exactly at it.

    Examples
    --------
    >>> brush_pixels([(1, 1), (1, 4)], 0.5, (3, 6)).astype(int)
    array([[0, 0, 0, 0, 0, 0],
           [0, 1, 1, 1, 1, 0],
           [0, 0, 0, 0, 0, 0]])
    """
    inside = np.zeros(shape, bool)
    way = np.asarray(points, float).reshape(-1, 2)
    for start, end in zip(way, way[1:] if len(way) > 1 else way, strict=False):
        low = np.clip(np.floor(np.minimum(start, end) - radius), 0, shape).astype(int)
        high = np.clip(np.ceil(np.maximum(start, end) + radius) + 1, 0, shape).astype(int)
        rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
        along = end - start
        length = float(along @ along)
        part = (rows - start[0]) * along[0] + (columns - start[1]) * along[1]
        part = np.clip(part / length, 0, 1) if length else part * 0.0
        away = (rows - start[0] - part * along[0]) ** 2
        away = away + (columns - start[1] - part * along[1]) ** 2
        inside[low[0] : high[0], low[1] : high[1]] |= away <= radius**2
    return inside


def _drawn(kind: Kind, points: Points, shape: Shape) -> Figure | None:
    if kind == "rectangle":
        (y0, x0), (y1, x1) = points[0], points[-1]
        edges = []
        for first, last, length in ((y0, y1, shape[0]), (x0, x1, shape[1])):
            low, high = sorted((first, last))
            begin, end = max(0, int(np.ceil(low))), min(length, int(np.floor(high)) + 1)
            if begin >= end:
                return None
            edges += [begin, end]
        return Figure(rectangle=(edges[0], edges[1], edges[2], edges[3]))
    if kind == "circle":
        (y, x), (far_y, far_x) = points[0], points[-1]
        radius = round(float(np.hypot(far_y - y, far_x - x)), 1)
        return Figure(circle=(round(y, 1), round(x, 1), radius)) if radius > 0 else None
    corners = [(round(y, 1), round(x, 1)) for y, x in points]
    corners = [c for k, c in enumerate(corners) if k == 0 or c != corners[k - 1]]
    return Figure(polygon=tuple(corners)) if len(corners) > 2 else None


def _covers(figure: Figure, shape: Shape) -> bool:
    try:
        figures(shape, [figure])
    except InputError:
        return False
    return True


def _length(length: float | str, axis: int) -> float:
    return float(length.rstrip("% ")) * axis / 100 if isinstance(length, str) else float(length)


def _place(place: float | str, axis: int) -> float:
    return _length(place, axis) - (0.5 if isinstance(place, str) else 0.0)
