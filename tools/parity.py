"""Compute the same losses in other libraries, and write docs/parity.json: python tools/parity.py [LOSS ...] [--check]

Every declaration lists its `peers`: a call of another library and the call here. Both are computed on the same numbers,
in float64 where the library can, with their gradients. `make parity` runs this in an environment with the libraries
(.parity/). What is not installed keeps the results that were measured before, and is named.

A difference is the largest one, divided by the largest number of both sides. It is compared with what the declaration
says, and written with one digit.

    --check   compute and compare, but write nothing
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import importlib
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import losskit  # noqa: E402
from losskit.declaration import Peer  # noqa: E402
from losskit.describe import call_here  # noqa: E402
from losskit.draw import Draw  # noqa: E402

RESULTS = ROOT / "docs" / "parity.json"
ROWS, CLASSES = 6, 5
SHORT = {"smp": "segmentation_models_pytorch", "np": "numpy", "F": "torch.nn.functional"}
NUMPY = ("scikit-learn", "scipy", "statsmodels", "scoringrules", "sktime")  # they have no gradients
JAX = ("optax",)
_KEPT: list[Any] = []  # what torch forgets with the object


def the_losses() -> list[type[losskit.Loss]]:
    """The built-in losses that have peers."""
    found = [cls for _, cls in sorted(losskit.list_losses().items()) if cls.__module__.startswith("losskit.")]
    return [cls for cls in found if cls.peers]


def installed(library: str) -> str | None:
    """The version that is here."""
    try:
        return importlib.metadata.version(library).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


# -- numbers ---------------------------------------------------------------------------------------------------


def operands(cls: Any, given: Any) -> dict[str, torch.Tensor]:
    """Numbers for every operand, in its domain; what is `given` as numbers or lists becomes tensors."""
    generator = torch.Generator().manual_seed(7)
    made = {}
    if issubclass(cls, losskit.RegionsLoss):  # samples, classes, height and width
        drawn = cls._example((2, 3, 4, 5), Draw(torch.float64))
        made = {"input": drawn[0], "target": drawn[1].double()}
    elif not set(given) >= set(cls._call_operands()):
        for name in [x for x in getattr(cls, "operands", {}) if x in given or not cls.operands[x].optional]:
            drawn = _operand(cls, name, generator)
            made[name] = _tensor(given[name]) if name in given else drawn
    return made | {name: _tensor(x) for name, x in given.items() if name not in made}


def _tensor(x: Any) -> torch.Tensor:
    found = torch.as_tensor(x)
    return found.double() if found.is_floating_point() else found


def _operand(cls: Any, name: str, generator: torch.Generator) -> torch.Tensor:
    declared = cls.operands[name]
    if declared.components:
        return _boxes(generator)
    if issubclass(cls, losskit.ClassScoresLoss | losskit.MarginsLoss) and name == "target":
        return torch.randint(0, CLASSES, (ROWS,), generator=generator)
    if declared.index:
        return torch.randint(0, CLASSES, (ROWS,), generator=generator)
    if declared.places is not None:
        return torch.randint(0, CLASSES + declared.places, (ROWS,), generator=generator)
    shape = (ROWS,) if declared.per_row and (not declared.broadcast or cls.rows) else (ROWS, CLASSES)
    drawn = declared.domain.sample(shape, generator)
    labels = declared.domain is losskit.probability and name in ("target", "event")
    return (drawn > 0.5).double() if labels else drawn


def _boxes(generator: torch.Generator) -> torch.Tensor:
    corner = torch.rand(ROWS, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corner, corner + 0.2 + torch.rand(ROWS, 2, generator=generator, dtype=torch.float64)], dim=1)


# -- calls -----------------------------------------------------------------------------------------------------


def modules(source: str, known: Any) -> dict[str, Any]:
    """The modules that a call names, imported as deep as its dots go."""
    found: dict[str, Any] = {}
    tree = ast.parse(source, mode="eval")
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        path = ast.unparse(node).split(".")
        if not all(part.isidentifier() for part in path) or path[0] in {*known, *bound, *dir(builtins)}:
            continue
        path[0] = SHORT.get(first := path[0], path[0])
        found[first] = importlib.import_module(path[0])
        for depth in range(2, len(path) + 1):
            try:
                importlib.import_module(".".join(path[:depth]))
            except ImportError:
                break
    return found


def trainer(**fields: Any) -> SimpleNamespace:
    """In place of a trainer with this configuration, for losses that are methods of one."""
    return SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), **fields)


def with_classes(loss: torch.nn.Module, classes: torch.Tensor) -> torch.nn.Module:
    """A loss with learned vectors of the classes, given them."""
    del loss.W
    loss.W = classes
    return loss


def evaluate(source: str, names: dict[str, Any], more: dict[str, Any]) -> Any:
    """The value of a call."""
    own = {"torch": torch, "F": F, "losskit": losskit, "trainer": trainer, "with_classes": with_classes} | more
    return eval(source, modules(source, names | own) | own | names)


def value_and_gradients(source: str, data: dict[str, torch.Tensor], wanted: list[str], more: dict[str, Any]) -> Any:
    """The value of a call of torch, and the gradients of its sum."""
    names = {name: x.clone().requires_grad_(name in wanted) for name, x in data.items()}
    value = evaluate(source, names, more)
    value = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    if not value.requires_grad:
        return value, {}
    gradients = torch.autograd.grad(value.sum(), [names[name] for name in wanted], allow_unused=True)
    return value.detach(), {name: g for name, g in zip(wanted, gradients) if g is not None}


def of_jax(source: str, data: dict[str, torch.Tensor], wanted: list[str]) -> Any:
    """The same of a call of JAX."""
    import jax

    jax.config.update("jax_enable_x64", True)
    arrays = {name: jax.numpy.asarray(x.numpy()) for name, x in data.items()}
    more = {"jax": jax, "jnp": jax.numpy}
    value = evaluate(source, arrays, more)
    slopes = jax.grad(lambda part: evaluate(source, arrays | part, more).sum())({name: arrays[name] for name in wanted})
    as_torch = {name: torch.tensor(np.asarray(g)) for name, g in slopes.items()}
    return torch.tensor(np.asarray(value)), as_torch


def there(cls: Any, peer: Peer, data: dict[str, torch.Tensor], wanted: list[str]) -> Any:
    """What the other library computes."""
    if peer.library in JAX:
        return of_jax(peer.there, data, wanted)
    if peer.library in NUMPY:
        value = evaluate(peer.there, {name: x.numpy() for name, x in data.items()}, {})
        return torch.as_tensor(np.asarray(value)), {}
    return value_and_gradients(peer.there, data, wanted, {})


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a part of the largest number."""
    if one.shape != other.shape:
        raise ValueError(f"shapes {tuple(one.shape)} there and {tuple(other.shape)} here")
    largest = torch.maximum(one.double().abs().max(), other.double().abs().max()).item()
    return (one.double() - other.double()).abs().max().item() / (largest or 1.0)


def compare(cls: Any, peer: Peer) -> dict[str, Any]:
    """How far the value and the gradients of both calls are apart; a gradient that a library does not have is None."""
    data = operands(cls, peer.given)
    wanted = [
        name for name, x in data.items()
        if x.is_floating_point() and (name not in cls.operands or cls.operands[name].differentiable)
        and name not in ("target", "kl", "event", "mask") and not name.startswith("ref_")
    ]  # fmt: skip
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        theirs, their_slopes = there(cls, peer, data, wanted)
        ours, our_slopes = value_and_gradients(call_here(cls, peer), data, wanted, vars(losskit.functional))
    common = [name for name in their_slopes if name in our_slopes]
    return {
        "value": difference(theirs, ours),
        "gradient": max((difference(their_slopes[k], our_slopes[k]) for k in common), default=None),
    }


@contextlib.contextmanager
def quiet() -> Any:
    """Libraries greet; nobody asked."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def problem(peer: Peer, found: dict[str, Any]) -> str:
    """What the declaration says wrongly; nothing where it fits."""
    for what, differs in (("value", peer.differs), ("gradient", peer.gradient_differs)):
        x = found[what]
        if x is None and not differs:
            continue
        if differs and (x is None or digit(x) != digit(differs)):
            return f"the {what} differs by {x}, declared is {differs:g}"
        if not differs and not (what == "gradient" and peer.differs) and x > peer.agrees:
            return f"the {what} differs by {x:.2g}, declared is that it agrees to {peer.agrees:g}"
    return ""


def digit(x: float | None) -> float | None:
    """A number with one digit."""
    return None if x is None else float(f"{x:.0e}")


# -- results ---------------------------------------------------------------------------------------------------


def key(cls: Any, peer: Peer) -> dict[str, str]:
    """What a result belongs to."""
    return {"loss": cls.name, "library": peer.library, "there": peer.there, "here": call_here(cls, peer)} | (
        {"given": peer.given} if peer.given else {}
    )


def _key(call: Mapping[str, Any]) -> str:
    return json.dumps({name: x for name, x in call.items() if name not in ("value", "gradient")}, sort_keys=True)


def prepared() -> None:
    """What some libraries need before they are imported."""
    if installed("torchvision"):
        # Beside a torch for the CPU, torchvision cannot load its operators, and misses the names of these two.
        _KEPT.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                _KEPT[0].define(f"{name}(Tensor boxes, Tensor scores, float least) -> Tensor")
    if installed("keras"):
        import keras

        keras.config.set_floatx("float64")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("losses", nargs="*", help="only these")
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args()
    with quiet():
        prepared()
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"versions": {}, "calls": []}
    kept = {_key(call): call for call in before["calls"]}
    versions, calls, wrong, absent = dict(before["versions"]), [], [], set()
    for cls in the_losses():
        for peer in cls.peers:
            one = key(cls, peer)
            version = installed(peer.library)
            if version is None or (asked.losses and cls.name not in asked.losses):
                if version is None:
                    absent.add(peer.library)
                if _key(one) in kept:
                    calls.append(kept[_key(one)])
                continue
            try:
                found = compare(cls, peer)
                bad = problem(peer, found)
            except Exception as failure:
                found, bad = {"value": None, "gradient": None}, f"{type(failure).__name__}: {failure}"
            print(f"{'no ' if bad else 'yes'} {peer.library}: {peer.there}  {found['value']}  {found['gradient']}")
            if bad:
                wrong.append(f"{cls.name}, {peer.library}: {peer.there}: {bad}")
            versions[peer.library] = version
            calls.append(one | {what: digit(x) for what, x in found.items()})
    used = {call["library"] for call in calls}
    versions = {name: versions[name] for name in sorted(used | {"torch"}) if name in versions or name == "torch"} | {
        "torch": installed("torch")
    }
    if not asked.check and not wrong:
        RESULTS.write_text(json.dumps({"versions": versions, "calls": calls}, indent=1) + "\n")
    print(f"{len(calls)} calls of {len(used)} libraries; not installed: {', '.join(sorted(absent)) or 'none'}")
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
