"""`losskit.audit`: what is wrong with a loss, whoever wrote it, with the smallest input that shows it.

The loss is called with copies of its operands, in known states of the generators of random numbers; what it raises is a
finding and never the end of the audit.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from losskit.audit import (  # noqa: F401  # they register checks
    batches,
    derivatives,
    execution,
    facts,
    inputs,
    jumps,
    learning,
    masks,
    numbers,
    precision,
    repetition,
)
from losskit.audit.counterexample import smallest
from losskit.audit.examples import subject as subject_of
from losskit.audit.findings import CHECKS, VERDICTS, Finding, Registered, Skipped, passed
from losskit.audit.subject import NoTensorError, Subject, line_of
from losskit.errors import error
from losskit_guide import verdicts


@dataclass
class Audit:
    """What `losskit.audit` has found; `print` it, or `save` it as a page.

    name: the loss. example: what it was called with, in words. findings: of all checks, the worst first. seconds: how
    long it took.
    """

    name: str
    example: str
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, *wanted: str) -> list[Finding]:
        """The findings with these verdicts: "fault", "warning", "note", "skipped", "pass"."""
        return [one for one in self.findings if one.verdict in wanted]

    @property
    def faults(self) -> list[Finding]:
        """Wrong results."""
        return self.of("fault")

    @property
    def warnings(self) -> list[Finding]:
        """What is right, and lost under conditions that do occur."""
        return self.of("warning")

    @property
    def sound(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    def __str__(self) -> str:
        return verdicts.text(self)

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return verdicts.data(self)

    def save(self, path: str | Path) -> Path:
        """Write one HTML page, which needs no network."""
        place = Path(path)
        place.write_text(verdicts.page(self), encoding="utf-8")
        return place


def audit(
    loss: Callable[..., Any],
    *example: Any,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    quick: bool = False,
    **operands: Any,
) -> Audit:
    """What is wrong with a loss: wrong gradients, NaN, lost digits, rows that mix, states, what does not compile.

    Choose it before a loss of your own, or one from elsewhere, goes into a training. Prefer `losskit.autopsy` to see
    what a sound loss does with a batch.

    Args:
        loss: A loss of losskit or torch, any `nn.Module` or function of tensors that returns a tensor, or its class.
        example: Operands of a call. Those that require a gradient are the predictions; if none does, the first one of
            floating point is. Without an example, losses of losskit and torch are called with what their declaration
            draws, others with usual shapes.
        only: The names of checks to run; all if there are none.
        skip: The names of checks to leave out.
        quick: Leave out the slow checks: compile, export, threads, cost.
        operands: More operands, by keyword.

    Returns:
        The findings: `faults` are wrong results, `warnings` are fragile ones. Each has a sentence and a line of code
        that shows it. `print` shows them, `save` writes a page.

    Raises:
        ValueError: The loss cannot be called with the example, or no usual operands fit, or a check does not exist.

    Example:
        >>> import losskit, torch
        >>> def focal(input, target):
        ...     p = torch.sigmoid(input)
        ...     return -(target * (1 - p) ** 2 * p.log() + (1 - target) * p**2 * (1 - p).log()).mean()
        >>> logits, labels = torch.tensor([0.3, -1.2, 2.0, 0.4]), torch.tensor([0.0, 1.0, 1.0, 0.0])
        >>> found = losskit.audit(focal, logits, labels, only=["scales"])
        >>> found.faults[0].call
        'focal(torch.tensor([24.0]), torch.tensor([1.0]))'
    """
    chosen = _chosen(only, skip, quick)
    start = time.perf_counter()
    with _untouched():
        try:
            about = subject_of(loss, example, operands)
        except NoTensorError as problem:
            only_one = Finding("fault", f"{problem}.", check="gradient")
            name = getattr(loss, "__name__", type(loss).__name__)
            return Audit(name, "the example", [only_one], time.perf_counter() - start)
        found = _run_all(chosen, about)
    order = {verdict: i for i, verdict in enumerate(VERDICTS)}
    found.sort(key=lambda one: order[one.verdict])
    return Audit(about.name, _told(about), found, time.perf_counter() - start)


STEADY = ("determinism", "shape", "dtypes", "in_place", "compile", "export", "empty")  # compare no two calls


def _run_all(chosen: list[Registered], about: Subject) -> list[Finding]:
    """What all checks find. Of a loss that is another one at each call, those that compare calls say nothing."""
    first = [one for one in chosen if one.name == "determinism"]
    found = [one for registered in first for one in run(registered, about)]
    unsteady = any("unsteady" in one.data for one in found)
    for registered in chosen:
        if unsteady and registered.name not in STEADY:
            found.append(Finding("skipped", "two calls with the same operands differ", check=registered.name))
        elif registered.name != "determinism":
            found += run(registered, about)
    return found


def run(registered: Registered, about: Subject) -> list[Finding]:
    """What one check finds; at least one finding."""
    found: list[Finding] = []
    try:
        found.extend(registered.run(about))
    except Skipped as reason:
        found.append(Finding("skipped", str(reason)))
    except ValueError as refused:  # of operands that a check has made
        found.append(Finding("skipped", f"the loss refuses such operands: {line_of(refused)}"))
    except Exception as problem:  # whatever a loss raises where no check expects it
        own = traceback.extract_tb(problem.__traceback__)[-1].filename.startswith(str(Path(__file__).parent))
        said = f"{'the check' if own else 'the loss'} raises {type(problem).__name__}: {line_of(problem)}"
        found.append(Finding("skipped", said, data={"raised": type(problem).__name__}))
    if not registered.shrinks:
        found = [smaller(registered, about, one) for one in found]
    return [replace(one, check=registered.name) for one in found or [passed(registered.question)]]


def smaller(registered: Registered, about: Subject, one: Finding) -> Finding:
    """The same finding on fewer rows and simpler numbers."""
    if one.verdict not in ("fault", "warning") or not one.call or about.first.numel() > 5000:
        return one

    def again(operands: list[Any]) -> Finding | None:
        other = about.given(operands)
        return next((x for x in registered.run(other) if x.verdict == one.verdict and _kind(x) == _kind(one)), None)

    small = smallest(about, about.example(), lambda operands: again(operands) is not None)
    return again(small) or one


def _kind(one: Finding) -> str:
    """What a finding says, without its numbers."""
    return re.sub(r"[-+.\de(), ]+", " ", one.sentence)[:30]


def _chosen(only: Collection[str], skip: Collection[str], quick: bool) -> list[Registered]:
    for argument, names in (("only", only), ("skip", skip)):
        if isinstance(names, str):
            raise error(
                "parameter_type",
                loss="audit",
                argument=argument,
                expected="a list of names",
                got=repr(names),
                hint=f" Write {argument}=[{names!r}].",
            )
        for name in names:
            if name not in CHECKS:
                raise error(
                    "parameter",
                    loss="audit",
                    argument=argument,
                    expected=f"names of {', '.join(CHECKS)}",
                    got=repr(name),
                )
    return [
        one for name, one in CHECKS.items() if (name in only if only else not (quick and one.slow)) and name not in skip
    ]


def _told(about: Subject) -> str:
    shapes = ", ".join(
        f"{name} {tuple(x.shape)} {kind.told}" if isinstance(x, torch.Tensor) else f"{name}={x!r}"
        for name, x, kind in zip(about.names, about.operands, about.kinds, strict=True)
    )
    return f"{shapes}{f' (taken: {about.taken})' if about.taken else ''}"


@contextmanager
def _untouched() -> Iterator[None]:
    """The generators of random numbers, threads and warnings as they were."""
    numpy = sys.modules.get("numpy")
    kept = torch.get_rng_state(), random.getstate(), numpy.random.get_state() if numpy else None
    dtype, threads, logged = torch.get_default_dtype(), torch.get_num_threads(), logging.root.manager.disable
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            torch.set_num_threads(1)  # for tensors so small, several cost more than they save
            logging.disable(logging.CRITICAL)
            yield
    finally:
        logging.disable(logged)
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        if numpy and kept[2] is not None:
            numpy.random.set_state(kept[2])
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
