"""What a reader sees of an HTML page."""

import html.parser

__all__ = []


class Page(html.parser.HTMLParser):
    """What a page opens, closes, links to and says; the pictures by their words."""

    void = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.pictures, self.text = [], [], {}, []
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
        self.text.append(data)
