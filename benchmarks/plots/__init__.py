"""The plots of docs and README, drawn from results.json: SVG, each once for a light and once for a dark page."""

from benchmarks.plots.pictures import FOLDER, drawn, render

__all__ = ["FOLDER", "drawn", "render"]
