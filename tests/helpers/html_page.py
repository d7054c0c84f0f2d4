"""What a reader sees of an HTML page without JavaScript, and the charts that others see."""

import base64
import gzip
import html.parser
import json
import re

__all__ = []


def charts_of(text):
    """{name: chart} of a page: title, description, spec, data, log."""
    block = re.search(r'<script type="text/plain" id="charts">([^<]*)</script>', text)
    return json.loads(gzip.decompress(base64.b64decode(block[1])))["charts"] if block else {}


class Page(html.parser.HTMLParser):
    """What a page opens, closes, links to and says; the pictures by their words."""

    void = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.pictures, self.text = [], [], {}, []
        self.charts = charts_of(text)
        self.feed(text)
        self.close()
        self.words = " ".join(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.pictures[dict(attrs)["alt"]] = dict(attrs)["src"]
        assert not {"href", "srcset", "data", "onload", "onerror"} & {name for name, _ in attrs}
        self.open += [] if tag in self.void else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)
