"""HTML that results return, parsed."""

import html.parser


class Page(html.parser.HTMLParser):
    """The tags of a page, which must be closed in order, its attributes and its text.

    Attributes:
        tags: The names of all elements.
        attributes: (name, value) pairs of all elements.
        text: What is written outside of styles.
    """

    _EMPTY = ("img", "meta")

    def __init__(self, content):
        super().__init__()
        self._open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(content)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self._EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text += data
