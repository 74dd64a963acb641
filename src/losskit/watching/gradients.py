"""What is wrong with the gradient by the predictions: a few rows make all of it, none gets there, halves lose it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losskit.kernels.torch_internals import hidden
from losskit.watching import probes
from losskit.watching.calls import Call
from losskit.watching.findings import Told
from losskit.watching.site import Site

ROWS = 16  # fewer rows than these have no few
FEW = 0.03  # of the rows
MOST = 1 << 16  # rows that are sorted; of more some are, evenly
LARGE = 1 << 24  # numbers whose gradient is not computed again


@dataclass
class Backward:
    """Hooks on one call: the gradient that comes to the loss, then the one that leaves by the predictions."""

    site: Site
    call: Call
    number: int
    inside: Any
    tell: Callable[[Site, Told, int], None]
    trouble: Callable[[Site, Exception], None]
    upstream: Tensor | None = None
    handle: Any = None

    def attach(self) -> None:
        call, result = self.call, self.call.result
        if call.live is None or not isinstance(result, Tensor) or not result.requires_grad or hidden(result):
            return
        if call.input.dtype == torch.float16:
            result.register_hook(self._came)
        self.handle = call.live.register_hook(self._left)
        call.live = call.result = None  # the graph keeps the hooks: they must not keep the graph

    def _came(self, gradient: Tensor) -> None:
        self.upstream = gradient.detach()

    def _left(self, gradient: Tensor) -> None:
        self.handle.remove()
        found: list[Told] = []
        self.inside.within = True
        try:
            if not hidden(gradient):
                with torch.no_grad():
                    found = list(self._seen(gradient.detach()))
        except Exception as problem:  # a training goes on whatever a watch does
            self.trouble(self.site, problem)
        finally:
            self.inside.within = False
        for one in found:
            self.tell(self.site, one, self.number)

    def _seen(self, gradient: Tensor) -> Iterator[Told]:
        norms = _norms(self.call, gradient).cpu()
        if not len(norms):
            return
        now = dict(zip(NAMES, _numbers(norms), strict=True)) | {"call": self.number, "flat": 0.0}
        if now["tiny"] >= 0.5 and _minimum_is_zero(self.call):
            now["flat"] = _share_of_flat(norms, probes.of_rows(self.call))
        self.site.pulls.append(now)
        if now["bad"]:
            half = gradient.dtype == torch.float16
            if not half:
                yield from _not_a_number(self.call, norms, now)
            elif [x["bad"] > 0 for x in list(self.site.pulls)[-5:]] == [True] * 5:
                yield (
                    "halves", "the gradient by the predictions was not finite in float16 in the last five looks.",
                    "Give a smaller loss scale, or let torch.amp.GradScaler choose it.",
                )  # fmt: skip
            return
        lost = list(self._lost(gradient)) if gradient.dtype == torch.float16 else []
        yield from lost
        if not lost:
            yield from _few(self.site, self.call, now)
            yield from _flat(self.site)

    def _lost(self, gradient: Tensor) -> Iterator[Told]:
        """How much of a gradient float16 rounds to nothing."""
        scale = 1.0 if self.upstream is None else self.upstream.double()
        exact = _exact(self.call)
        if exact is None or (isinstance(scale, Tensor) and scale.numel() > 1):
            return
        exact = (exact.double() * scale).abs()
        whole = exact.sum()
        if not float(whole):
            if isinstance(scale, Tensor) and not float(scale):
                yield (
                    "halves", "the gradient that comes to the loss is 0 in float16 already.",
                    "Multiply the loss after .float(), or use torch.amp.GradScaler.",
                )  # fmt: skip
            return
        lost = torch.stack([exact[gradient == 0].sum(), exact[exact < 2.0**-14].sum()]) / whole
        none, coarse = lost.tolist()
        if none > 0.02 or coarse > 0.5:
            yield (
                "halves",
                f"float16 rounds {none:.0%} of the gradient by the predictions to 0, and {coarse:.0%} of it is below "
                "its smallest normal number.",
                "Use torch.amp.GradScaler, or bfloat16.",
            )


NAMES = ("bad", "first", "half", "median", "total", "tiny", "rows")


def _numbers(norms: Tensor) -> list[float]:
    """Of rows: how many are bad and the first of them, how many make half of all, ...: see `NAMES`."""
    bad = (~norms.isfinite()).double()
    step = -(-len(norms) // MOST)
    sorted = norms[::step].double().sort(descending=True).values
    sums = sorted.cumsum(0)
    half = (sums < 0.5 * sums[-1]).double().sum() + 1
    tiny = (sorted <= 1e-6 * sorted[0]).double().mean()
    numbers = torch.stack([bad.sum(), bad.argmax().double(), half, sorted[len(sorted) // 2], sums[-1], tiny]).tolist()
    return [*numbers, float(len(sorted))]


def _share_of_flat(norms: Tensor, losses: Tensor | None) -> float:
    """The share of rows that have a large loss and no gradient."""
    if losses is None or len(losses) != len(norms):
        return 0.0
    losses = losses.cpu()
    return float(((norms <= 1e-6 * norms.max()) & (losses > 0.5 * losses.mean()) & (losses > 0)).double().mean())


def _norms(call: Call, gradient: Tensor) -> Tensor:
    """The length of each row's gradient, in float32."""
    of_classes = call.role in ("classes", "shares") and gradient.ndim > 1
    dims = 1 if of_classes else tuple(range(1, gradient.ndim))
    if dims == ():
        return gradient.float().abs().reshape(-1)
    norms: Tensor = torch.linalg.vector_norm(gradient, dim=dims, dtype=torch.float32)
    return norms.reshape(-1)


def _minimum_is_zero(call: Call) -> bool:
    """Whether a row that is learned has no loss: then one that has a loss and no gradient is stuck."""
    if call.role not in ("classes", "numbers", "signs") or call.given("label_smoothing") or call.declared is None:
        return False
    return getattr(call.declared, "facts", None) is not None and call.declared.facts.minimum == 0.0


def _few(site: Site, call: Call, now: dict[str, float]) -> Iterator[Told]:
    """A few rows that make half of the gradient, from the beginning: a model that has learned most rows looks alike."""
    if call.role not in ("classes", "shares", "labels", "signs", "numbers") or _bounded(call):
        return
    pulls = [x for x in site.pulls if x["rows"] >= ROWS and not x["bad"] and x["total"] > 0]
    few = [x for x in pulls if x["half"] <= math.ceil(FEW * x["rows"])]
    if len(few) < 3 or now is not few[-1] or 2 * len(few) < len(pulls):
        return
    if now["median"] / now["rows"] < 0.02 * pulls[0]["median"] / pulls[0]["rows"]:
        return
    yield (
        "few_rows",
        f"{now['half']:.0f} of {now['rows']:.0f} rows make more than half of the gradient.",
        "Look at them with losskit.autopsy: wrong targets ask for a robust loss such as huber_loss, rows with a large "
        "weight for a smaller one.",
    )


def _bounded(call: Call) -> bool:
    """Whether no row can pull more than others by its loss or its weight."""
    if call.given("weight", "sample_weight", "pos_weight"):
        return False
    operand = getattr(call.declared, "operands", {}).get(call.input_name)
    low, high = (
        getattr(getattr(operand, "domain", None), "low", None),
        getattr(getattr(operand, "domain", None), "high", None),
    )
    facts = getattr(call.declared, "facts", None)
    steep = None if facts is None else facts.lipschitz
    return (low, high) == (0.0, 1.0) or (steep is not None and "eps" not in str(steep))


def _flat(site: Site) -> Iterator[Told]:
    recent = list(site.pulls)[-3:]
    if len(recent) == 3 and all(x["flat"] >= 0.5 and x["rows"] >= 4 for x in recent):
        yield (
            "saturated", f"{recent[-1]['flat']:.0%} of the rows have a loss and no gradient: it is flat there.",
            "Begin with a loss that pulls there (huber_loss, cross_entropy), or scale predictions and targets.",
        )  # fmt: skip


def _not_a_number(call: Call, norms: Tensor, now: dict[str, float]) -> Iterator[Told]:
    row = int(now["first"])
    yield (
        "nan",
        f"the gradient by {call.input_name} is not finite at row {row}, the first of {now['bad']:.0f} of {len(norms)}, "
        "though the loss is finite.",
        f"Look at row {row}: a square root, a norm or a power at 0, or 0 times infinity.",
    )


def _exact(call: Call) -> Tensor | None:
    """The gradient of the loss by the predictions in float32, of an upstream gradient of 1."""
    if call.input.numel() > LARGE:
        return None
    wide = {n: x.float() for n, x in call.operands.items() if x.is_floating_point() and n != call.input_name}
    x = call.input.float().requires_grad_()
    with torch.enable_grad():
        loss = call.again(**{call.input_name: x}, **wide)
        if not isinstance(loss, Tensor) or loss.ndim:
            return None
        (found,) = torch.autograd.grad(loss, [x])
    return found
