"""LaTeX to MathML when the site is built: every browser draws it, without scripts, fonts or network.

`$...$` is inline, `$$...$$` a formula of its own line. What latex2mathml makes is mended in three places: names of
functions get the space that separates them from what follows; a minus after another operator is a sign, not a
difference; and the brace of cases is drawn by style.css, as a font without mathematical tables cannot stretch one.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

_NAMES = r"<m[io]>(?:log|exp|cos|sin|tanh|max|min|softplus|sign|clamp|erf)</m[io]>"
_BRACE = '<mo stretchy="true" fence="true" form="prefix">&#x0007B;</mo>'
_FENCES = r'<mo stretchy="true" fence="true" form="postfix">'


@cache
def mathml(latex: str, display: bool = False) -> str:
    """A formula as MathML."""
    text = convert(latex, display="block" if display else "inline")
    text = re.sub(r"<mo>(log|exp|cos|sin|tanh|max|min|softplus|sign|clamp|erf)</mo>", r"<mi>\1</mi>", text)
    text = re.sub(rf"({_NAMES})(?=<mi>|<mn>)", r'\1<mspace width="0.167em" />', text)
    text = text.replace(_BRACE + "<mtable>", '<mtable class="cases">')
    # After <, =, a comma or at the start of a group, a minus binds to what follows it.
    text = re.sub(r"(</mo>|<mtd[^>]*>|<mspace[^>]*/>)<mo>&#x02212;</mo>", r'\1<mo form="prefix">&#x02212;</mo>', text)
    return re.sub(rf'({_FENCES}[^<]*</mo>(?:</mrow>)?)<mo form="prefix">', r"\1<mo>", text)


class _Formula(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str | Element, int, int]:  # noqa: N802
        display = m[1] is not None
        return self.md.htmlStash.store(mathml(m[1] or m[2], display)), m.start(0), m.end(0)


class Formulas(Extension):
    """Formulas in Markdown; after code, so that a dollar in backticks is a dollar."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        pattern = r"\$\$(.+?)\$\$|\$([^\s$](?:[^$]*[^\s$])?)\$"
        md.inlinePatterns.register(_Formula(pattern, md), "formulas", 185)


def makeExtension(**options: Any) -> Formulas:  # noqa: N802
    """For `markdown_extensions`, by the name of this module."""
    return Formulas(**options)
