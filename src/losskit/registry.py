"""Losses by name: what exists, a class for a name, a loss for a config."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from losskit.errors import error
from losskit.loss import Loss, heads, registered
from losskit_guide.names import Names, choices, close_name, find_name


def list_losses() -> dict[str, type[Loss]]:
    """All losses that exist, built-in and the user's own, by their function name."""
    return dict(registered)


def get(name: str) -> type[Loss]:
    """The class of a loss, by the name of its function or class, or an alias.

    >>> import losskit
    >>> losskit.get("huber_loss")
    <class 'losskit.losses.huber.HuberLoss'>
    >>> losskit.get("mae")
    <class 'losskit.losses.l1.L1Loss'>
    """
    found = find_name(name, names())
    if found is None:
        head = find_name(name, [(made, *aliases) for made, (_, *aliases) in heads.items()])
        if head is not None:
            cls: type[Loss] = heads[head][0]
            return cls
        several = choices(name, names())
        if several:
            raise error("several_losses", got=repr(name), choices=several)
        close = close_name(name, names())
        raise error("unknown_loss", got=repr(name), hint=f" Did you mean {close}?" if close else "")
    return registered[found]


def names() -> list[Names]:
    """What each loss is called: function, class, aliases."""
    return [(cls.name, cls.__name__, *cls.aliases.split()) for cls in registered.values()]


def missing(module: str, name: str) -> AttributeError:
    """The error of an attribute that a module of losskit does not have, with what was probably meant."""
    sentence = f"module {module!r} has no attribute {name!r}"
    own = [known for known in names() if registered[known[0]].__module__.startswith("losskit.")]
    several = choices(name, own)
    meant = find_name(name, own) or (None if several else find_name(close_name(name, own) or "", own))
    if several and not meant:
        sentence += f"; it may mean {several}."
    if meant and not name.startswith("_"):
        sentence += f". Did you mean losskit.{registered[meant].__name__}, or losskit.functional.{meant}?"
    return AttributeError(sentence)


def create(config: Mapping[str, Any]) -> Any:
    """A loss from a dict: its name and its fields. Fields that are losses ("linear", "weighted_sum") are dicts, too.

    >>> import losskit
    >>> losskit.create({"name": "huber_loss", "delta": 2})
    HuberLoss(reduction='mean', delta=2.0)
    >>> head = losskit.create({"name": "linear", "criterion": {"name": "cross_entropy"}, "soft_cap": 30})
    >>> head.soft_cap
    30.0
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
        raise error("config", got=repr(config))
    fields = {key: value for key, value in config.items() if key != "name"}
    if config["name"] in heads:
        fields = {key: _made(value) for key, value in fields.items()}
        return heads[config["name"]][0](**fields)
    return get(config["name"])(**fields)


def _made(value: Any) -> Any:
    """The losses that a config contains."""
    if isinstance(value, Mapping) and "name" in value:
        return create(value)
    return [_made(x) for x in value] if isinstance(value, list | tuple) else value


class CallablePackage(ModuleType):
    """`losskit.losses()`, as earlier versions spelt `losskit.list_losses()`."""

    def __call__(self) -> dict[str, type[Loss]]:
        return list_losses()
