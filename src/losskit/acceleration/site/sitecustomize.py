"""Of a process that `losskit accelerate` has started: losskit comes when torch has come.

A process may have a sitecustomize of its own, which this file hides: it is imported here.
"""

import contextlib
import importlib
import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or ".") != here]
own = sys.modules.pop("sitecustomize")
with contextlib.suppress(ModuleNotFoundError):
    importlib.import_module("sitecustomize")
sys.modules.setdefault("sitecustomize", own)

if os.environ.get("LOSSKIT_ACCELERATE"):
    # By its path: the package `losskit` imports torch, and this must wait for it.
    place = os.path.join(os.path.dirname(here), "imports.py")
    imports = SourceFileLoader("losskit_imports", place).load_module()

    def started(torch: ModuleType) -> None:
        with contextlib.suppress(ModuleNotFoundError):  # another Python, without losskit
            importlib.import_module("losskit.acceleration.script").start()

    imports.After("torch", started)
