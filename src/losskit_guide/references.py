"""Who published a loss, and when: from the reference of its declaration, which begins "Huber, P. J. (1964). ..."."""

from __future__ import annotations

import re

_PERSON = r"(?:^|, | and )(?!and )([^,()]+?), (?=\w[\w.\-]*\.)"


def authors(reference: str) -> str:
    """The family names before the first year: one, two joined by "and", or the first and "et al."."""
    head = _head(reference)
    people = re.findall(_PERSON, head)
    if not people:
        return head.partition(",")[0]
    if len(people) > 2 or "et al." in head:
        return f"{people[0]} et al."
    return " and ".join(people)


def year(reference: str) -> str:
    """The first year, or nothing."""
    found = re.search(r"\((\d{4})\)", reference)
    return found[1] if found else ""


def origin(reference: str) -> str:
    """Authors and year in a few words."""
    return ", ".join(filter(None, (authors(reference), year(reference))))


def _head(reference: str) -> str:
    return re.split(r"\(\d{4}\)", reference)[0]
