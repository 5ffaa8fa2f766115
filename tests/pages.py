"""A check of HTML pages."""

from html.parser import HTMLParser


class Checker(HTMLParser):
    """Checks that every element is closed, and collects what would be loaded from elsewhere."""

    VOID = {"meta", "br", "hr", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.outside = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [value for name, value in attributes if name in ("src", "href", "xlink:href") and not value.startswith("#")]

    def handle_startendtag(self, tag, attributes):
        self.outside += [value for name, value in attributes if name in ("src", "href", "xlink:href") and not value.startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
