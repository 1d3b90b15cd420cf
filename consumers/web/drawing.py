"""Small plots, drawn as SVG on the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from markupsafe import Markup

_WIDTH: Final = 600
_HEIGHT: Final = 60


def bars(values: Sequence[float], label: str, whole: Sequence[float] = ()) -> Markup:
    """A bar for each value, the highest as high as the picture. `whole` are paler bars behind, as many or none."""
    top = max([*values, *whole, 1])
    shapes = [*_shapes(whole, top, "whole"), *_shapes(values, top, "")]
    return Markup(
        '<svg class="bars" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        "{shapes}</svg>"
    ).format(width=_WIDTH, height=_HEIGHT, label=label, shapes=Markup("").join(shapes))


def _shapes(values: Sequence[float], top: float, kind: str) -> Iterator[Markup]:
    step = _WIDTH / max(len(values), 1)
    for index, value in enumerate(values):
        if value:
            yield Markup('<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"/>').format(
                kind=kind,
                x=index * step,
                y=_HEIGHT - _HEIGHT * value / top,
                w=max(step - 1, 1),
                h=_HEIGHT * value / top,
            )
