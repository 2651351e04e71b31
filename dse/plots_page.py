"""One HTML file of interactive plots that needs nothing else: plotly.js is inside, no network is asked."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plotly.offline import get_plotlyjs

from dse.plots_style import GROUND, INK, SOFT
from firmware_profiles.errors import UserError

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""The browser itself then refuses whatever would come from elsewhere."""

_STYLE = f"""
body {{ margin: 0; background: #eef4f5; color: {INK}; }}
body {{ font: 15px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 28px 20px 48px; }}
h1 {{ font-size: 1.5rem; margin: 0 0 4px; }}
h2 {{ font-size: 1.1rem; margin: 0 0 2px; }}
p {{ color: {SOFT}; margin: 0 0 8px; overflow-wrap: anywhere; }}
section {{ background: {GROUND}; border: 1px solid #d5e2e5; border-radius: 14px; }}
section {{ margin-top: 20px; padding: 20px; }}
"""

_SCRIPT = """
for (const data of document.querySelectorAll('script[type="application/json"]')) {
  const figure = JSON.parse(data.textContent);
  Plotly.newPlot(data.previousElementSibling, figure.data, figure.layout,
    {displaylogo: false, responsive: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]});
}
"""


class Section(NamedTuple):
    """One plot of a page.

    Attributes:
        title: what it shows.
        note: how it is read.
        figure: keys `data` and `layout` as plotly.js takes them, JSON-ready.
    """

    title: str
    note: str
    figure: dict[str, Any]


def write_page(path: Path, title: str, lead: Sequence[str], sections: Sequence[Section]) -> Path:
    """Write a page whole or not at all; returns the path.

    Args:
        path: the file.
        title: of the page.
        lead: paragraphs under the title.
        sections: the plots, from top to bottom.

    Raises:
        UserError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(make_page(title, lead, sections), "utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Give another --out.") from error
    return path


def make_page(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The page as text; the arguments are those of `write_page`."""
    paragraphs = "".join(f"<p>{html.escape(text)}</p>\n" for text in lead)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{html.escape(title)}</h1>\n{paragraphs}"
        f"{''.join(map(_section, sections))}</main>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    # In a script element "<" could end it; JSON has another way to write it.
    figure = json.dumps(section.figure, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f"<section>\n<h2>{html.escape(section.title)}</h2>\n<p>{html.escape(section.note)}</p>\n"
        f'<div></div><script type="application/json">{figure}</script>\n</section>\n'
    )
