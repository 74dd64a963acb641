"""Who may import whom: one table, and no two files that need each other.

Imports within functions and under TYPE_CHECKING count: what a file names, its reader must know.
"""

import ast
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"

# A room is the files that it names; a file belongs to the first room that has it. It may import its own room, and the
# rooms that are listed for it.
ROOMS = {
    "language": "losskit.graph losskit.language losskit.implementations losskit.primitives losskit.formula losskit.printing losskit.calculus losskit.simplify",
    "words": "losskit.errors losskit.policy losskit.spaces losskit.dtypes losskit.domains losskit.facts",
    "declaration": "losskit.declaration losskit.parameters losskit.loss losskit.names losskit.traced losskit.forms losskit.registry losskit.reduction",
    "sums": "losskit.sums",
    "call": "losskit.plan losskit.plans losskit.validation",
    "torch's private names": "losskit.kernels.torch_internals",
    "wire": "losskit.kernels.wire losskit.kernels.packing",
    "for people": "losskit.display losskit.curves losskit.draw",
    "kernels": "losskit.kernels",
    "families": "losskit.families",
    "losses": "losskit.losses",
    "layers": "losskit.layers",
    "helpers": "losskit.helpers losskit.distances",
    "denominators": "losskit.denominators",
    "looking at data": "losskit.autopsy losskit.advice losskit.tables losskit.batches",
    "looking at losses": "losskit.audit losskit.testing losskit.microscope losskit.digits",
    "acceleration": "losskit.acceleration losskit.__main__",
    "watching": "losskit.watching",
    "functions": "losskit.functional",
    "guide": "losskit_guide",
    "card": "losskit.describe losskit.machine",
    "package": "losskit",
}
MAY_IMPORT = {
    "language": {"words", "guide"},
    "words": {"language"},
    "torch's private names": set(),
    "wire": {"words"},
    "sums": {"words", "torch's private names"},
    "declaration": {"sums", "wire", "language", "words", "guide"},
    "call": {"wire", "declaration", "language", "words", "torch's private names"},
    "for people": {"declaration", "language", "words", "guide"},
    "kernels": {"wire", "call", "declaration", "language", "words", "torch's private names"},
    "families": {"kernels", "wire", "for people", "call", "declaration", "language", "words", "torch's private names",
                 "guide"},
    "losses": {"families", "declaration", "language", "words"},
    "layers": {"sums", "helpers", "losses", "families", "kernels", "for people", "call", "declaration", "language", "words",
               "torch's private names", "guide"},
    "functions": {"losses", "layers", "families", "kernels", "call", "declaration", "words"},
    "helpers": {"families", "kernels", "call", "declaration", "language", "words", "torch's private names"},
    "denominators": {"layers", "losses", "families", "call", "declaration", "words"},
    "guide": set(),
    "looking at data": {"declaration", "words", "guide"},
    "looking at losses": {"declaration", "language", "words", "guide", "for people"},
    "acceleration": {"functions", "losses", "kernels", "words", "torch's private names", "guide"},
    "watching": {"acceleration", "functions", "layers", "declaration", "words", "torch's private names"},
    "card": {"package", "looking at data", "looking at losses", "layers", "losses", "kernels", "for people", "declaration", "language", "words", "guide"},
    "package": {"acceleration", "watching", "looking at data", "looking at losses", "sums", "card", "functions", "denominators", "helpers", "losses", "layers", "families", "kernels", "declaration", "language", "words"},
}  # fmt: skip
# What crosses a wall, and why.
EXCEPTIONS = {
    ("losskit_guide.cli", "losskit.machine"),  # the commands that compute with torch import it when they are called
    ("losskit_guide.commands_of_data", "losskit.machine"),
    ("losskit_guide.commands_of_data", "losskit.acceleration.script"),
    ("losskit.losses", "losskit.registry"),  # `losskit.losses()`, as earlier versions spelt `losskit.list_losses()`
}
# Of language, a formula's author uses the formula language alone.
FORBIDDEN = {
    "losses": (
        "losskit.graph",
        "losskit.language",
        "losskit.primitives",
        "losskit.implementations",
        "losskit.printing",
        "losskit.calculus",
        "losskit.simplify",
        "losskit.traced",
    )
}


def modules():
    """Every module of src, by name."""
    found = {}
    for path in SRC.rglob("*.py"):
        name = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


MODULES = modules()


def imports(path):
    """The modules of src that a file names in an import, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module, node.lineno


def room(module):
    for name, members in ROOMS.items():
        inside = any(module == member or module.startswith(f"{member}.") for member in members.split())
        if inside and (name != "package" or module == "losskit"):
            return name
    raise AssertionError(f"{module} is in no room: add it to ROOMS")


def test_walls():
    """A file imports its own room, and what the table lets it."""
    wrong = []
    for module, path in MODULES.items():
        own = room(module)
        for other, line in imports(path):
            allowed = room(other) in MAY_IMPORT[own] | {own} and other not in FORBIDDEN.get(own, ())
            if not allowed and (module, other) not in EXCEPTIONS:
                wrong.append(f"{path.relative_to(SRC)}:{line}: {own} must not import {other} ({room(other)})")
    assert not wrong, "\n".join(wrong)


def test_exceptions_are_needed():
    found = {(module, other) for module, path in MODULES.items() for other, _ in imports(path)}
    assert found >= EXCEPTIONS


def test_no_two_files_need_each_other():
    """There is an order of the files in which each imports only earlier ones."""
    needs = {module: {other for other, _ in imports(path)} - {module} for module, path in MODULES.items()}
    for commands in ("cli", "commands_of_data"):  # on demand
        needs[f"losskit_guide.{commands}"] -= {"losskit.machine", "losskit.acceleration.script"}
    while True:
        ready = [module for module, others in needs.items() if not others]
        if not ready:
            break
        for module in ready:
            del needs[module]
        for others in needs.values():
            others.difference_update(ready)
    assert not needs, f"these import each other: {sorted(needs)}"
