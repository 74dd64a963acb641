"""The code blocks of the documentation, and what they print.

A fenced block of `python` in README and docs/ is run, those of a page one after another in one namespace. A block of
`text` that follows directly shows what it prints, and is compared. A last line like "ValueError: ..." is the error
that ends the block. A block fenced as `{.python .no-run}` is not run (it needs several processes, or
other libraries).

    python tools/site/blocks.py            compares all pages, names the blocks that differ
    python tools/site/blocks.py --write    writes what blocks print into the pages
"""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?P<shown>\n```text\n(?P<output>.*?)^```\n)?", re.M | re.S)


def execute(code: str, scope: dict[str, object], name: str, fails: bool = False) -> str:
    """What a block prints; of one that fails, the last line is its error, as Python's prompt tells it."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # tracebacks show the code
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, name, "exec"), scope)
    except Exception as problem:
        if not fails:
            raise
        print(f"{type(problem).__name__}: {problem}", file=printed)
    return printed.getvalue()


def checked(path: Path) -> str:
    """The text of a page with the outputs that its blocks really have."""
    text = path.read_text(encoding="utf-8")
    scope: dict[str, object] = {"__name__": f"docs_{path.stem}"}

    def replaced(match: re.Match[str]) -> str:
        line = text[: match.start()].count("\n") + 1
        shown = match["output"] or ""
        fails = re.search(r"^\w*Error\b", shown.strip().split("\n")[-1]) is not None
        printed = execute("\n" * line + match["code"], scope, f"<{path.name}>", fails)
        whole = match[0][: -len(match["shown"])] if match["shown"] else match[0]
        return whole + (f"\n```text\n{printed}```\n" if printed else "")

    return BLOCK.sub(replaced, text)


def pages() -> list[Path]:
    """The pages that have code blocks."""
    files = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [path for path in files if "```python\n" in path.read_text(encoding="utf-8")]


def main() -> int:
    stale = []
    for path in pages():
        new = checked(path)
        if new != path.read_text(encoding="utf-8"):
            stale.append(path)
            if "--write" in sys.argv[1:]:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path}: blocks print something else")
    return int(bool(stale) and "--write" not in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
