"""Colours that all plots share.

References:
    Okabe and Ito, "Color Universal Design", 2008: colours that people with any colour vision tell apart.
    Nunez, Anderton and Renslow, "Optimizing colormaps with consideration for color vision deficiency to
    enable accurate interpretation of scientific data", PLOS ONE 13(7), 2018: cividis.
"""

from __future__ import annotations

INK, SOFT, FAINT, GRID, GROUND = "#0b2a35", "#47646f", "#9bb0b8", "#e3ebed", "#ffffff"
BLUE, ORANGE, VERMILLION, GREEN, SKY, PURPLE = (
    "#0072B2",
    "#E69F00",
    "#D55E00",
    "#009E73",
    "#56B4E9",
    "#CC79A7",
)
SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, INK)
"""For lines that have no meaning of their own, in this order."""

HEAT = "cividis"
"""Of shares from 0 (dark) to 1 (bright); Matplotlib's and Plotly's name for it."""

HEAT_TURNS_BRIGHT = 0.55
"""Above this share text on the colour is dark."""
