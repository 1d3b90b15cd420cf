"""A canvas of shapes and text, in the colours of a light or a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours; `ours` are those of eventbus, `series` those of lines that are compared."""

    page: str
    text: str
    faint: str
    grid: str
    ours: str
    ours_faint: str
    others: str
    series: tuple[str, ...]


LIGHT: Final = Theme(
    "#ffffff",
    "#1f2328",
    "#59636e",
    "#d9dee3",
    "#0969da",
    "#6ea8ec",
    "#8c6d46",
    ("#0969da", "#bc4c00", "#8250df", "#57606a"),
)
DARK: Final = Theme(
    "#0d1117",
    "#e6edf3",
    "#9198a1",
    "#30363d",
    "#4493f8",
    "#2b5f9e",
    "#c9a26d",
    ("#4493f8", "#f0883e", "#ab7df8", "#9198a1"),
)
THEMES: Final = {"light": LIGHT, "dark": DARK}


@dataclass(slots=True)
class Canvas:
    """Shapes in the order in which they were put; sizes are pixels, the origin is the upper left corner."""

    width: float
    height: float
    theme: Theme
    title: str
    _shapes: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 12,
        anchor: str = "start",
        color: str = "",
        bold: bool = False,
    ) -> None:
        """`y` is the base line."""
        weight = ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"{weight} '
            f'fill="{color or self.theme.text}">{escape(text)}</text>'
        )

    def line(
        self, start: tuple[float, float], end: tuple[float, float], *, color: str = "", width: float = 1, dash: str = ""
    ) -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._shapes.append(
            f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
            f'stroke="{color or self.theme.grid}" stroke-width="{width:g}" stroke-linecap="round"{dashed}/>'
        )

    def path(self, points: Sequence[tuple[float, float]], *, color: str, dash: str = "") -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2"{dashed}/>')

    def dot(self, x: float, y: float, *, color: str, radius: float = 4) -> None:
        self._shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{color}"/>')

    def box(self, x: float, y: float, width: float, height: float, *, color: str) -> None:
        self._shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" fill="{color}"/>'
        )

    def __str__(self) -> str:
        size = f'width="{self.width:g}" height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}">'
        page = f'<rect width="100%" height="100%" fill="{self.theme.page}"/>'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", page, *self._shapes, "</svg>", ""])
