"""Markdown without emphasis by underscores, which formulas such as ∇_z f and Σ_c have."""

import markdown
from markdown.inlinepatterns import DelimiterProcessor


class PlainUnderscores(markdown.Extension):
    """Leaves underscores as they are; asterisks still emphasise."""

    def extendMarkdown(self, md: markdown.Markdown) -> None:
        """Replace the processor of both by one of asterisks alone."""
        asterisks = DelimiterProcessor("*", "strong,em", md)
        md.inlinePatterns.register(asterisks, "em_strong", 60)


def makeExtension(**_: object) -> PlainUnderscores:
    """The extension, by the name that Markdown looks for."""
    return PlainUnderscores()
