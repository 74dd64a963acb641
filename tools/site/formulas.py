"""LaTeX to MathML when the site is built: every browser draws it, without scripts, fonts or network.

`$...$` is inline, `$$...$$` a formula of its own line. Temml sets them, as in the explorer: one process of node for the
whole build (temml.mjs), and each formula once.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

HERE = Path(__file__).resolve().parent
TEMML = HERE.parent.parent / "explorer" / "node_modules" / "temml"


@cache
def _temml() -> subprocess.Popen[str]:
    """The process that sets formulas; it ends with this one, which closes its input."""
    command = ["node", str(HERE / "temml.mjs")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")


@cache
def mathml(latex: str, display: bool = False) -> str:
    """A formula as MathML."""
    process = _temml()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([latex, display]) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    if "problem" in answer:
        raise ValueError(f"Temml cannot set {latex!r}: {answer['problem']}")
    text: str = answer["mathml"]
    return text


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
