"""Histograms over time of weights, gradients and activations: a small picture a layer, by pages."""

import html
from typing import NamedTuple

import numpy as np

from nnfunc.reports import inline_images
from nnfunc.runs import metrics_log
from nnfunc.runs.metrics_log import Histograms, Row

__all__ = ["render_histograms"]

KINDS = (
    ("parameters", "weight_histogram", "weights", inline_images.fading_palette(47, 111, 208)),
    ("parameters", "gradient_histogram", "gradients", inline_images.fading_palette(217, 120, 45)),
    ("activations", "histogram", "activations", inline_images.fading_palette(58, 154, 91)),
)
BINS = 40
PAGES = 20


class Card(NamedTuple):
    """One histogram over time: of which layer, in which group, and its HTML."""

    group: str
    path: str
    text: str


def render_histograms(rows: list[Row]) -> str:
    """The HTML: cards by the layers' groups, in pages that open; "" when there are no histograms."""
    found = [
        (path, title, palette, own)
        for part, name, title, palette in KINDS
        for path, own in metrics_log.histograms(rows, part, name).items()
    ]
    if not found:
        return ""
    columns = int(np.clip(24000 // len(found), 32, 100))  # so that the file stays small
    cards = [Card(_group(path), path, _card(path, title, palette, own, columns)) for path, title, palette, own in found]
    place = {path: i for i, path in enumerate(dict.fromkeys(path for path, *_ in found))}
    groups: dict[str, list[str]] = {}
    for card in sorted(cards, key=lambda card: (metrics_log.natural(card.group), place[card.path])):
        groups.setdefault(card.group, []).append(card.text)
    merged: list[tuple[list[str], list[str]]] = []
    for name, own in groups.items():
        fits = merged and len(merged[-1][1]) + len(own) <= max(24, len(cards) // PAGES)
        if not fits:
            merged.append(([], []))
        merged[-1][0].append(name)
        merged[-1][1].extend(own)
    return "\n".join(_page(*page, first=i == 0) for i, page in enumerate(merged))


def _page(names: list[str], cards: list[str], *, first: bool) -> str:
    """Some groups that open together."""
    words = ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
    count = f"{len(cards)} histogram{'s' if len(cards) > 1 else ''}"
    head = f"<summary>{html.escape(words)} <i>{count}</i></summary>"
    shown = " open" if first else ""
    return f'<details{shown}>{head}<div class="grid">{"".join(cards)}</div></details>'


def _group(path: str) -> str:
    """What a layer belongs to: its first name, with the number of a repeated block."""
    first, *more = path.split("/")
    return f"{first}/{more[0]}" if more and more[0].isdecimal() else first


def _card(path: str, title: str, palette: np.ndarray, own: Histograms, columns: int) -> str:
    """The picture of one layer: time to the right, values upwards."""
    chosen = inline_images.spaced_indices(len(own.steps), columns)
    own = Histograms(*(column[chosen] for column in own))
    low, high = _range(own)
    share = _rebinned(own, np.linspace(low, high, BINS + 1))
    share = np.sqrt(share / np.maximum(share.max(axis=1, keepdims=True), 1e-12))
    address = inline_images.palette_png_url(np.round(15 * share.T[::-1]), palette)
    name, what = html.escape(path), f"{title} of {html.escape(path)} over time"
    ends = f"<i>{high:.2g}</i><i>{low:.2g}</i>"
    steps = f"<i>{own.steps[0]:,}</i><i>{own.steps[-1]:,}</i>"
    return (
        f'<div class="hist"><b title="{name}">{name}</b><span>{title}</span>'
        f'<div class="plot"><div>{ends}</div><img alt="{what}" src="{address}"></div>'
        f'<div class="ends">{steps}</div></div>'
    )


def _rebinned(own: Histograms, edges: np.ndarray) -> np.ndarray:
    """The share of each step's values between common edges [steps, bins]."""
    bins = own.counts.shape[1]
    low = own.low[:, None]
    least = 1e-6 * np.maximum(np.abs(low), 1e-30)  # of a constant, a narrow one
    wide = np.maximum(own.high[:, None] - low, least)
    share = own.counts / own.counts.sum(axis=1, keepdims=True)
    below = np.cumsum(np.pad(share, ((0, 0), (1, 0))), axis=1)  # [steps, bins + 1]
    place = np.clip((edges - low) / wide, 0, 1) * bins  # [steps, edges]
    left = np.minimum(place.astype(int), bins - 1)
    part = np.take_along_axis(share, left, axis=1) * (place - left)
    return np.diff(np.take_along_axis(below, left, axis=1) + part, axis=1)


def _range(own: Histograms) -> tuple[float, float]:
    """Between which values nearly all lie, over all steps: a few far ones do not flatten the rest."""
    low, high = float(own.low.min()), float(own.high.max())
    high = high if high > low else low + 1e-6 * max(abs(low), 1e-30)
    edges = np.linspace(low, high, 513)
    below = np.cumsum(_rebinned(own, edges).mean(axis=0))
    inside = np.flatnonzero((below > 0.002) & (below < 0.998))
    first, last = (inside[0], inside[-1] + 2) if len(inside) else (0, 512)
    return float(edges[first]), float(edges[min(max(last, first + 1), 512)])
