"""A Griffe extension: examples in docstrings become code blocks, wherever they stand."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# Lines from a prompt to an empty line; in a section they are indented, and Griffe knows them itself.
_EXAMPLE = re.compile(r"^>>> .*\n(?:(?=\S).*\n)*", re.M)


class Doctests(Extension):
    """Fences around examples, and the name of their section that Griffe knows."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for each object that is loaded."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = _EXAMPLE.sub(r"```pycon\n\g<0>```\n", text + "\n").rstrip("\n")
