"""The colours of the reports: those of the page, of its charts and pictures, and their names in the text."""

from typing import Any

# Each colour has a contrast of at least 3 with the page, light or dark.
TRAIN: str = "#7f8a95"
VALIDATION: str = "#2f7de1"
ALERT: str = "#d04a58"
ACCENTS = ("#d9782d", "#a95fc4", "#1f9a9a", "#9a8a2a", ALERT)
COLOURS: tuple[str, ...] = (VALIDATION, "#d9782d", "#3a9a5b", "#a95fc4", TRAIN, ALERT, "#1f9a9a", "#9a8a2a")
"""The colours of curves of equal rank, such as those of several models."""
BETTER, WORSE, BEST = VALIDATION, "#b08d3c", "#2a9d5c"
BETTER_NAME, WORSE_NAME, BEST_NAME = "blue", "ochre", "green"


def _theme(ink: str, grey: str, line: str) -> dict[str, Any]:
    """A config of Vega. ink, grey, line: of titles, of labels and of the grid."""
    font = "system-ui, sans-serif"
    text = {"labelColor": grey, "titleColor": grey, "labelFont": font, "titleFont": font, "titleFontWeight": "normal"}
    axis = {"gridColor": line, "domainColor": line, "tickColor": line, "gridOpacity": 0.6, "labelOverlap": True}
    axis["labelSeparation"] = 6
    return {
        "background": "transparent",
        "font": font,
        "axis": text | axis,
        "legend": text | {"symbolOpacity": 1, "labelLimit": 320},
        "header": text,
        "title": {"color": ink, "font": font, "fontSize": 13, "anchor": "start", "fontWeight": 500},
        "view": {"stroke": None},
        "text": {"fill": ink, "font": font},
        "rule": {"color": grey},
    }


THEMES = {
    "light": _theme("#1b2024", "#56616b", "#c9d0d6"),
    "dark": _theme("#dde2e6", "#a3aeb7", "#4a535b"),
    "picture": _theme("#737d87", "#737d87", "#a0a8b0"),  # on a transparent ground, legible on both pages
}
