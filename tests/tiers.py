"""Which tests `make test` leaves to `make test-all`: those with the mark `full`, each for a reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def full(reason: str) -> pytest.MarkDecorator:
    """The mark of a test that only `make test-all` runs. The reason says what it sees that no other test does."""
    return pytest.mark.full(reason)


def rest(values: Iterable[Any], few: Any, reason: str) -> list[Any]:
    """Parameters of a test, all but a few of them full; `few` says which these are, by value or as a function."""
    chosen = few if callable(few) else few.__contains__
    return [value if chosen(value) else pytest.param(value, marks=full(reason)) for value in values]
