"""A watch: it counts the calls of losses, looks at some of them, and tells what it finds.

1. A call that is not looked at costs a counter, and the line that it comes from. On a CPU the loss is read, so that the
   first NaN is found at its own call. On a GPU losses are kept, and read together at the next look.
2. What a look measures stays on the device until all of it is copied at once.
3. A mistake of the watch itself ends the looks at a line, and is told once: it never reaches the training.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from losskit.acceleration.replaced import Function, Replaced
from losskit.acceleration.sites import caller, short
from losskit.errors import WatchWarning
from losskit.kernels.torch_internals import hidden, untraced
from losskit.watching.calls import Call, read
from losskit.watching.findings import Finding, Told
from losskit.watching.gradients import Backward
from losskit.watching.labels import of_labels, outside, too_large
from losskit.watching.numbers import measure
from losskit.watching.places import watch_all
from losskit.watching.predictions import of_predictions, of_space
from losskit.watching.results import of_result
from losskit.watching.site import Site, due

EXPLAINED = 8  # losses of a line that are not finite, and that no look is due at


class _Inside(threading.local):
    """Whether this thread is within a loss that is watched, and how many losses it has called."""

    within = False
    calls = 0


class Watch:
    """What `losskit.watch` gives.

    findings: what was found so far, in order. `print` shows it; `remove` ends the watch, as the end of `with` does.
    """

    def __init__(
        self, modules: Sequence[nn.Module], first: int, every: int, on_finding: Callable[[Finding], Any] | None
    ) -> None:
        self.first, self.every, self.on_finding = first, every, on_finding
        self.findings: list[Finding] = []
        self._sites: dict[tuple[CodeType, int, str], Site] = {}
        self._lock, self._inside = threading.RLock(), _Inside()
        self._replaced, self._hooks = Replaced(), list[RemovableHandle]()
        self._told_of_trouble = False
        watch_all(self._replaced, self._run)
        for module in modules:
            for criterion in _criteria(module):
                self._hook(criterion)

    def remove(self) -> None:
        """End the watch; functions and modules are what they were before."""
        self._replaced.undo()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    @property
    def sites(self) -> list[Site]:
        """The lines of the program that ask for a loss, in the order of their first calls."""
        return list(self._sites.values())

    def __str__(self) -> str:
        if not self._sites:
            return "losskit.watch: no loss was called where it can be seen; inside of torch.compile none is."
        found = len(self.findings)
        lines = [f"losskit.watch: {found or 'no'} finding{'s' if found != 1 else ''}"]
        for site in self.sites:
            lines.append(
                f"{site.function} at {short(site.file)}:{site.line}, {site.calls} calls, {site.looked} looked at"
            )
            for one in site.told.values():
                lines += [f"  {one.kind}, call {one.call}: {one.sentence}", f"      {one.fix} See {one.page}."]
        return "\n".join(lines)

    __repr__ = __str__

    # -- calls --------------------------------------------------------------------------------------------

    @untraced
    def _run(self, name: str, theirs: Function, args: Any, kwargs: Any, of_torch: bool) -> Any:
        """A loss of torch or losskit, and a look at it."""
        local = self._inside
        if local.within:
            return theirs(*args, **kwargs)
        local.within = True
        try:
            result = theirs(*args, **kwargs)
        except IndexError:
            self._refused(name, theirs, args, kwargs)
            raise
        finally:
            local.within = False
        local.calls += 1
        self._seen(name, theirs, args, kwargs, result, of_torch)
        return result

    def _hook(self, criterion: nn.Module) -> None:
        """Look at the calls of a criterion that calls no known loss."""
        before: list[int] = []
        name, forward = type(criterion).__name__, type(criterion).forward
        compiling = torch.compiler.is_compiling

        def begin(module: nn.Module, args: Any) -> None:
            if not compiling():
                before.append(self._inside.calls)

        def end(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            if compiling() or not before or before.pop() != self._inside.calls or not torch.is_grad_enabled():
                return
            if isinstance(result, Tensor) and result.ndim == 0 and _tensors(args, kwargs) > 1:
                self._seen(name, forward, (module, *args), kwargs, result, False)

        self._hooks.append(criterion.register_forward_pre_hook(begin))
        self._hooks.append(criterion.register_forward_hook(end, with_kwargs=True))

    @untraced
    def _seen(self, name: str, function: Function, args: Any, kwargs: Any, result: Any, of_torch: bool) -> None:
        """Count a call, and look at it where it is due or its loss is not finite."""
        site = self._site(name)
        site.calls += 1
        if site.broken:
            return
        looking = due(site.calls, self.first, self.every)
        if not looking:
            if type(result) is not Tensor or result.numel() != 1 or "nan" in site.told or hidden(result):
                return
            if result.device.type != "cpu":
                site.pending.append(result.detach())
                return
            if math.isfinite(result.item()) or site.explained >= EXPLAINED:
                return
            site.explained += 1
        told: list[Told] = []
        self._inside.within = True
        try:
            with torch.no_grad():
                call = read(name, function, args, kwargs, result, of_torch)
                if call is not None:
                    told = self._look(site, call, looking)
        except Exception as problem:  # a training goes on whatever a watch does
            self._trouble(site, problem)
        finally:
            self._inside.within = False
        for one in told:
            self._tell(site, one, site.calls)

    def _look(self, site: Site, call: Call, whole: bool) -> list[Told]:
        """What a call says; whole: not only why its loss is not finite."""
        number, missed = site.calls, self._first_missed(site)
        told = list(of_result(site, call))
        if missed and told:
            told = [(kind, f"{text} Call {missed} was the first such.", fix) for kind, text, fix in told]
        elif missed:
            told = [("nan", f"the loss of call {missed} was not finite.", "Watch with a smaller `every` to see why.")]
        if told and told[0][0] != "nan":
            return told
        if not told and not whole:
            return []
        now = measure(call, number)
        if told:  # a loss that is not finite may say less than what it is of
            return [*of_space(call, now), *outside(call, now)] or told
        site.add(now)
        told += of_predictions(site, call, now)
        told += of_labels(site, call, now, self.sites)
        Backward(site, call, number, self._inside, self._tell, self._trouble).attach()
        return told

    def _first_missed(self, site: Site) -> int:
        """The call of the first loss since the last look that was not finite, of those that stayed on a device."""
        if not site.pending:
            return 0
        losses = torch.stack([x.reshape(()).double() for x in site.pending])
        count, site_calls = len(site.pending), site.calls
        site.pending.clear()
        bad = (~losses.isfinite()).tolist()
        return site_calls - count + bad.index(True) if True in bad else 0

    def _refused(self, name: str, function: Function, args: Any, kwargs: Any) -> None:
        """A class index that does not exist, which torch tells without its reason."""
        site = self._site(name)
        try:
            call = read(name, function, args, kwargs, None, True)
            told = None if call is None else too_large(call)
        except Exception as problem:
            self._trouble(site, problem)
            return
        if told is not None:
            self._tell(site, told, site.calls + 1)

    # -- telling ------------------------------------------------------------------------------------------

    def _tell(self, site: Site, told: Told, number: int) -> None:
        kind, sentence, fix = told
        with self._lock:
            if kind in site.told:
                return
            finding = Finding(kind, sentence, fix, site.function, site.file, site.line, number)
            site.told[kind] = finding
            self.findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)
        else:
            warnings.warn_explicit(WatchWarning(str(finding)), WatchWarning, site.file, site.line, site.module)

    def _trouble(self, site: Site, problem: Exception) -> None:
        site.broken = True
        if not self._told_of_trouble:
            self._told_of_trouble = True
            text = f"losskit.watch cannot look at {site.function}, and leaves it: {type(problem).__name__}: {problem}"
            warnings.warn_explicit(WatchWarning(text), WatchWarning, site.file, site.line, site.module)

    @untraced
    def _site(self, function: str) -> Site:
        """The line outside of torch and losskit that the present call comes from."""
        frame = caller()
        key = frame.f_code, frame.f_lineno, function
        found = self._sites.get(key)
        if found is None:
            with self._lock:
                module = str(frame.f_globals.get("__name__", "unknown"))
                found = self._sites.setdefault(key, Site(function, frame.f_code.co_filename, frame.f_lineno, module))
        return found


def _criteria(module: nn.Module) -> list[nn.Module]:
    """A module itself, and those within it whose classes are called losses; not those that losskit or torch has."""
    within = [x for x in module.modules() if any(word in type(x).__name__.lower() for word in ("loss", "criterion"))]
    found = list(dict.fromkeys([module, *within]))
    return [x for x in found if type(x).__module__.partition(".")[0] not in ("losskit", "torch")]


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    return sum(isinstance(x, Tensor) for x in (*args, *kwargs.values()))
