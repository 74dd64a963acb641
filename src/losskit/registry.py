"""Losses by name: what exists, a class for a name, a loss for a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from losskit.errors import error
from losskit.loss import Loss, registered, suggestion


def list_losses() -> dict[str, type[Loss]]:
    """All losses that exist, built-in and the user's own, by their function name."""
    return dict(registered)


def get(name: str) -> type[Loss]:
    """The class of a loss, by function name or class name.

    >>> import losskit
    >>> losskit.get("huber_loss")
    <class 'losskit.losses.huber.HuberLoss'>
    """
    found = registered.get(name) or next((cls for cls in registered.values() if cls.__name__ == name), None)
    if found is None:
        names = [*registered, *(cls.__name__ for cls in registered.values())]
        raise error("unknown_loss", got=repr(name), hint=suggestion(f"'{name}'", names))
    return found


def create(config: Mapping[str, Any]) -> Loss:
    """A loss from a dict: its name and its fields.

    >>> import losskit
    >>> losskit.create({"name": "huber_loss", "delta": 2})
    HuberLoss(reduction='mean', delta=2.0)
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
        raise error("config", got=repr(config))
    fields = {key: value for key, value in config.items() if key != "name"}
    return get(config["name"])(**fields)
