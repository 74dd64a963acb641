"""What this machine does with a loss: which kernel runs and why, how fast, with what it was built. Needs torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import losskit
from losskit import tables
from losskit.advice import Advised
from losskit.audit import Audit
from losskit.audit.script import example_of, loss_of
from losskit.autopsy import Autopsy
from losskit.draw import Draw
from losskit.kernels import cache, compiler, library, node
from losskit.kernels.dispatch import Choice
from losskit.microscope import look
from losskit_guide.lines import line
from losskit_guide.microscope import DTYPES as MAGNIFIED
from losskit_guide.microscope import Sighting

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPES |= {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}


def dtype_of(name: str) -> torch.dtype:
    """A dtype by its name."""
    if name not in DTYPES:
        raise ValueError(f"the dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def device_of(name: str) -> torch.device:
    """A device by its name, if torch can use it here."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):
        raise ValueError(f"torch can use no device called {name!r} on this machine") from None
    return torch.device(name)


def shape_of(text: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """A shape from "32,10" or "32x10"."""
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").split(",") if part.strip()) if text else default
    except ValueError:
        raise ValueError(f"a shape is numbers such as 32,10, got {text!r}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"a shape has no negative numbers, got {text!r}")
    return sizes


def arguments(name: str, dtype: torch.dtype, device: str, shape: tuple[int, ...]) -> list[Tensor]:
    """Random tensors that a loss takes; the first has this shape."""
    cls: Any = losskit.get(name)
    found: list[Tensor] = cls._example(shape, Draw(dtype, device_of(device)))
    return found


def usual_shape(name: str) -> tuple[int, ...]:
    """A shape that a loss takes."""
    cls: Any = losskit.get(name)
    shape: tuple[int, ...] = cls._usual_shape
    return shape


def reason(name: str, dtype: str, device: str, shape: str) -> Choice:
    """What `losskit why` says."""
    tensors = arguments(name, dtype_of(dtype), device, shape_of(shape, usual_shape(name)))
    tensors[0].requires_grad_()
    cls: Any = losskit.get(name)
    if not issubclass(cls, losskit.Loss):
        return losskit.why(losskit.linear(losskit.CrossEntropyLoss()), *tensors)
    classes = tensors[0].shape[1] if tensors[0].dim() > 1 else 0
    return losskit.why(cls(**cls._needed(classes)), *tensors)


def facts() -> dict[str, str]:
    """What `losskit doctor` says."""
    return {
        "losskit": losskit.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "kernels": str(library.LIBRARY) if library.loaded() else "none: eager formulas run",
        "autograd": str(node.PATH) if node.used() else f"in Python, which takes longer for small calls: {node.why_not}",
        "compiler": compiler.compiler() or "none: users' own losses and rare switches run as eager formulas",
        "cache": cached(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use",
        "triton": triton(),
    }


def cached() -> str:
    """Where kernels that were compiled here are kept, how many there are, or why they are not kept."""
    folder = cache.wanted()
    if folder is None:
        return "none: without a home folder kernels are kept for one process only"
    try:
        kernels = [file.stat().st_size for file in cache.trusted(folder).glob("losskit_*.so")]
    except FileNotFoundError:
        kernels = []
    except cache.UntrustedError as problem:
        return f"{folder}, not used: {problem}"
    except OSError as problem:
        return f"{folder}, not used: {problem.strerror}"
    return f"{folder} ({len(kernels)} kernels, {sum(kernels) / 1e6:.1f} MB)"


def clean() -> dict[str, Any]:
    """Empty the folder of compiled kernels: what was removed, and how many bytes that were."""
    folder = cache.wanted()
    found: dict[str, Any] = {"cache": str(folder), "removed": [], "bytes": 0}
    try:
        if folder is not None:
            found["removed"], found["bytes"] = cache.clear(cache.trusted(folder))
    except FileNotFoundError:
        pass
    except (cache.UntrustedError, OSError) as problem:
        raise ValueError(f"nothing is removed from {folder}: {problem}") from None
    return found


def triton() -> str:
    """The version of Triton, which makes the kernels of a GPU."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none: on a GPU eager formulas run (pip install triton)"


def processor() -> str:
    """The processor's name, from Linux where it says."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())
    return name or platform.machine()


def duel(name: str, dtype: str, shape: str, threads: int, rounds: int = 21) -> dict[str, Any]:
    """Forward and backward of losskit's and torch's function in turns; the median of the ratios of the rounds."""
    sizes = shape_of(shape, usual_shape(name))
    tensors = arguments(name, dtype_of(dtype), "cpu", sizes)
    tensors = [x.requires_grad_() if x.is_floating_point() and i == 0 else x for i, x in enumerate(tensors)]
    if not hasattr(torch.nn.functional, name):
        raise ValueError(f"torch has no {name} to compare with")
    losses = {"torch": getattr(torch.nn.functional, name), "losskit": getattr(losskit.functional, name)}

    def seconds(which: str) -> float:
        start = time.perf_counter()
        tensors[0].grad = None
        losses[which](*tensors).backward()
        return time.perf_counter() - start

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        once = max(sorted(seconds(which) for _ in range(3))[1] for which in losses)
        repeats = max(1, round(0.004 / once))
        found: dict[str, list[float]] = {which: [] for which in losses}
        for number in range(rounds):
            for which in sorted(losses, reverse=bool(number % 2)):
                found[which].append(sum(seconds(which) for _ in range(repeats)) / repeats)
    finally:
        torch.set_num_threads(before)
    ratios = [a / b for a, b in zip(found["torch"], found["losskit"], strict=True)]
    medians = {f"{which}_us": statistics.median(times) * 1e6 for which, times in found.items()}
    return {"loss": name, "shape": sizes, "dtype": dtype, "threads": threads, **medians,
            "ratio": statistics.median(ratios), "rounds": rounds}  # fmt: skip


def advised(file: Path, target: str, event: str) -> Advised:
    """What `losskit advise` shows."""
    table = tables.read(file)
    return losskit.advise(tables.target(table, target), tables.numbers(table, event) if event else None)


def pulls_of(file: Path, target: str, predictions: Sequence[str], loss: str, others: Sequence[str]) -> Autopsy:
    """The autopsy of a table's rows: what `losskit autopsy` shows."""
    table = tables.read(file)
    criteria = [_criterion(text) for text in (loss, *others)]
    columns = [tables.numbers(table, name) for name in predictions]
    by_class = isinstance(criteria[0], losskit.ClassScoresLoss | losskit.MarginsLoss)
    scores = torch.stack(columns, 1) if by_class or len(columns) > 1 else columns[0]
    if by_class and len(columns) < 2:
        raise ValueError(
            f"{type(criteria[0]).name} needs a column of scores for each class: give --prediction for each"
        )
    truth = tables.classes(table, target, predictions) if by_class else tables.numbers(table, target)
    shown = {name: table[name].to_list() for name in (target, *predictions)}
    return losskit.autopsy(criteria[0], scores, truth, others=criteria[1:], columns=shown)


def audited(loss: str, example: str, only: Sequence[str], skip: Sequence[str], quick: bool) -> Audit:
    """What `losskit audit` shows: of a loss by its name, or of "module:name" or "file.py:name"."""
    found = loss_of(loss) if ":" in loss and "=" not in loss else _criterion(loss)
    return losskit.audit(found, *example_of(example), only=only, skip=skip, quick=quick)


def magnified(loss: str, dtype: str = "all") -> Sighting:
    """What `losskit microscope` shows."""
    names = {**MAGNIFIED, **{name: name for name in MAGNIFIED.values()}}
    if dtype != "all" and dtype not in names:
        raise ValueError(f"the dtype must be one of {', '.join([*MAGNIFIED, 'all'])}, got {dtype!r}")
    dtypes = list(MAGNIFIED.values()) if dtype == "all" else [names[dtype]]
    return look(line(loss), dtypes, {"torch": torch, "losskit": losskit})


def _criterion(text: str) -> Any:
    """A loss from "huber_loss:delta=2"."""
    found = line(text)
    cls: Any = losskit.get(found.card.name)
    return cls(**{name: x for name, x in found.settings.items() if name in cls.params})
