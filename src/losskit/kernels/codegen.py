"""From a traced formula to the C++ of its block function.

Names of the function's own end in an underscore, which names of operands and parameters may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from itertools import count

from losskit.declaration import POSITION, Operand
from losskit.graph import Expr, topological
from losskit.printing import print_expr, print_statements
from losskit.traced import Formula


def cpp(formula: Formula) -> tuple[str, str]:
    """The symbol of a formula's kernel and its C++ source.

    The symbol carries a hash of the source, so a kernel that was built from another version of the formula is
    not found instead of being used.
    """
    operands, numbers = formula.operands, formula.kernel_numbers
    lines = [
        "template <class T, int wanted_>",
        "LOSSKIT_INLINE void block(int64_t n_, const T* const* operands_, const T* parameters_, double scale_,",
        "                          T* values_, T* const* gradients_) {",
    ]
    parts = {name: f"  // {print_expr(node, 'python')}" for node, name in formula.hoisted.items() if node.size < 99}
    lines += [f"  const T {name} = parameters_[{i}];{parts.get(name, '')}" for i, name in enumerate(numbers)]
    pointers = len(lines)
    wanted = formula.predictions
    predictions = [i for i in range(len(operands)) if wanted >> i & 1]
    everything = [i for i, x in enumerate(formula.declared.values()) if x.differentiable]
    per_row = sum(1 << i for i, x in enumerate(formula.declared.values()) if x.per_row)
    variants = [("losskit::kNone", []), ("losskit::kPredictions", predictions)]
    variants += [("losskit::kAll", everything)] if everything != predictions else []
    loops = [(variant, _loop(formula, which)) for variant, which in variants]
    counts = formula.traced_counts
    if counts is not None:
        loops.insert(0, ("losskit::kCounts", _pass(formula, [counts], {}, ["values_[i_] = {};"])))
    for i, (variant, loop) in enumerate(loops):
        last = i == len(loops) - 1
        opening = "} else {" if last else f"{'} else ' if i else ''}if constexpr (wanted_ == {variant}) {{"
        lines.append(f"  {opening}")
        lines += [f"    {line}" for line in loop]
    lines += ["  }", "}"]
    read = [(i, name) for i, name in enumerate(operands) if any(f"{name}_at_[" in line for line in lines)]
    lines[pointers:pointers] = [f"  const T* const {name}_at_ = operands_[{i}];" for i, name in read]
    if not numbers:
        lines.insert(3, "  (void)parameters_;")
    body = "\n".join(lines)
    domains = ",\n    ".join(_domain(name, x) for name, x in formula.declared.items())
    # The digest covers what is written below, too.
    digest = hashlib.sha256(f"{body}{domains}{wanted}{per_row}".encode()).hexdigest()[:12]
    symbol = f"losskit_{formula.loss.name}_{digest}"
    of_all = "all" if everything != predictions else "predictions"
    told = f"{symbol}, {len(operands)}, {len(numbers)}, {wanted}, {per_row}"
    kernel = "" if counts is None else "LOSSKIT_COUNTS\n"
    kernel += f"LOSSKIT_KERNEL_OF_{of_all.upper()}({told},\n    {domains})"
    # A kernel may take a formula of several loops in parts of a block, unless a function of csrc/each.h is in it: each
    # part would call that function anew. A beta-Gaussian loss, which has one, took 1.1 times as long in parts.
    in_parts = "step0_at_" in body and "_each(" not in body
    several = "constexpr bool several_loops = true;\n" if in_parts else ""
    opening = f"namespace {symbol}_block {{\nnamespace lk = losskit;\n{several}"
    return symbol, f"{opening}\n{body}\n\n{kernel}\n\n}}  // namespace\n"


def header(sources: Iterable[str]) -> str:
    """The header that the sources need beside kernel.h."""
    return "each.h" if any("_each(" in source for source in sources) else "primitives.h"


def _domain(name: str, operand: Operand) -> str:
    """What values an operand may have, as an initialiser of `losskit::Domain`."""
    if name == POSITION:
        return "{losskit::kPosition, 0, 0, 0.0, 0.0}"
    if operand.places is not None:
        return f"{{losskit::kPlaces, 0, 0, 0.0, {operand.places}.0}}"
    return operand.domain.cpp()


# Cycles from an argument to the result, on Zen 5: of what takes less than 4, of all functions not named, and of these.
_SHORT, _FUNCTION = 3, 80
_CYCLES = {"neg": 1, "absolute": 1, "where": 2, "floor": 4, "div": 11, "sqrt": 15, "hypot": 24}
_CYCLES |= {"log": 32, "log1p": 42, "exp": 44, "expm1": 46, "exp_nabs": 46, "softplus_of": 42, "sigmoid_of": 27}
_CYCLES |= dict.fromkeys(("add", "sub", "mul", "lt", "le", "gt", "ge", "eq", "ne", "both", "either"), _SHORT)
_CYCLES |= dict.fromkeys(("maximum", "minimum", "clamp", "sign", "times", "mute", "stop"), _SHORT)
_LONG = 32  # what takes so many cycles has a loop of its own
_CHAIN = 47  # a formula of fewer cycles is one loop, unless a function that takes a block is of an operand itself
_ARGUMENT = 6  # an argument of so many is computed in a loop before
_OPERATIONS = 24  # what has more is not computed again
_DIVISIONS = ("div", "sqrt", "hypot")  # kept, too: one takes 9 cycles a vector, and its array 2
_EACH = {"exp": "Exp", "log": "Log", "log1p": "Log1p"}  # functions of csrc/each.h, which take a block at once


def _loop(formula: Formula, which: list[int]) -> list[str]:
    """The loop over a block that writes the values and the gradients of the operands in `which`."""
    roots: list[Expr] = [formula.value, *(formula.guarded[i] for i in which)]
    lines = [f"T* const {formula.operands[i]}_out_ = gradients_[{i}];" for i in which]
    lines += ["const lk::Scale<T> factor_(scale_);"] if which else ["(void)gradients_;", "(void)scale_;"]
    named = dict(formula.hoisted)
    steps: list[list[Expr]] = []
    if formula.loss._in_steps:
        parts = _logistic_parts(roots, named)
        steps = _steps(parts, named)
        roots = parts if steps else roots
    last = _last_uses([*steps, roots])
    arrays: set[str] = set()
    for place, nodes in enumerate(steps):
        # Arrays that are not read any more are written again: eight of them fill an L1 cache of 32 KB. A gamma deviance
        # with seven of them, not four, took 1.1 to 1.2 times as long.
        needed = {node: name for node, name in named.items() if node in formula.hoisted or last[node] > place}
        free = (name for name in map("step{}_".format, count()) if name not in needed.values())
        names = dict(zip(nodes, free, strict=False))
        lines += [f"alignas(64) T {name}at_[lk::kBlock];" for name in names.values() if name not in arrays]
        lines += _of_block(formula, names, named) if _takes_blocks(nodes) else _by_exponent(formula, names, named)
        named = needed | names
        arrays |= set(names.values())
    outs = [f"{formula.operands[i]}_out_[i_] = lk::scaled<T>({{}}, factor_);" for i in which]
    return lines + _pass(formula, roots, named, ["values_[i_] = {};", *outs])


def _logistic_parts(roots: Sequence[Expr], leaves: Container[Expr]) -> list[Expr]:
    """The roots with softplus and sigmoid as functions of e^-|x|, too, which all of one x share.

    Exponential and logarithm in one loop wait for each other: softplus took 4.5 ns a vector and takes 3.5 in two loops.
    """
    new: dict[Expr, Expr] = {}
    for node in topological(roots, leaves):
        args = [new[arg] for arg in node.args] if node not in leaves else []
        if not args:
            new[node] = node
        elif node.op in ("softplus", "sigmoid", "log_sigmoid"):
            x = node.trace.node("neg", args) if node.op == "log_sigmoid" else args[0]
            exponential = node.trace.node("exp_nabs", [_bare(x)])
            of = node.trace.node(f"{'sigmoid' if node.op == 'sigmoid' else 'softplus'}_of", [x, exponential])
            new[node] = node.trace.node("neg", [of]) if node.op == "log_sigmoid" else of
        else:
            new[node] = node.trace.node(node.op, args)
    return [new[root] for root in roots]


def _last_uses(steps: Sequence[Sequence[Expr]]) -> dict[Expr, int]:
    """Of what a step computes: the place of the last one that needs it."""
    last: dict[Expr, int] = {}
    for place, nodes in enumerate(steps):
        last |= dict.fromkeys([node for node in topological(nodes, last) if node in last], place)
        last |= dict.fromkeys(nodes, place)
    return last


def _step(formula: Formula, names: dict[Expr, str], named: dict[Expr, str]) -> list[str]:
    """The loop that writes an array for each of the nodes."""
    return _pass(formula, list(names), named, [f"{name}at_[i_] = {{}};" for name in names.values()])


def _of_block(formula: Formula, names: dict[Expr, str], named: dict[Expr, str]) -> list[str]:
    """A step that is a function of csrc/each.h. A loop before it writes the argument into the array of the result."""
    node, name = next(iter(names.items()))
    argument, function = node.args[0], _EACH[node.op]
    others = {x: other for x, other in names.items() if x is not node}
    known = {x: f"{other}at_" for x, other in (named | others).items()}
    start = f"{argument.value}_at_" if argument.value in formula.operands else known.get(argument)
    writes = [f"{other}at_[i_] = {{}};" for other in others.values()]
    if start:
        loop = _pass(formula, list(others), named, writes) if others else []
        return [*loop, f"lk::{node.op}_each(n_, {start}, {name}at_);"]
    writes.insert(0, f"most_ = lk::larger(most_, lk::{function}::place({name}at_[i_] = {{}}));")
    loop = ["lk::Bits<T> most_ = 0;", *_pass(formula, [argument, *others], named, writes)]
    return ["{", *(f"  {line}" for line in loop), f"  lk::{node.op}_each(n_, most_, {name}at_, {name}at_);", "}"]


def _by_exponent(formula: Formula, names: dict[Expr, str], named: dict[Expr, str]) -> list[str]:
    """The loop of a step; of powers by a number of the call, one for each exponent that needs no logarithm, too."""
    loop, node = _step(formula, names, named), next(iter(names))
    if node.op != "power" or not node.trace.parametric(node.args[1]):
        return loop
    exponent = print_expr(node.args[1], "cpp", named)
    lines: list[str] = []
    for number, function in {0.5: "root", 1.0: "first_power", 2.0: "square"}.items():
        lines.append(f"{'} else ' if lines else ''}if ({exponent} == T({number})) {{")
        lines += [f"  {line.replace('lk::power(', f'lk::{function}(')}" for line in loop]
    return [*lines, "} else {", *(f"  {line}" for line in loop), "}"]


def _pass(formula: Formula, roots: Sequence[Expr], named: dict[Expr, str], writes: Sequence[str]) -> list[str]:
    """A loop that writes the roots; `named` are numbers of the call and what earlier loops have kept."""
    taken = [*formula.operands, *formula.kernel_numbers]
    statements, texts = print_statements(roots, "cpp", taken, named)
    lines = ["#pragma GCC ivdep", "for (int64_t i_ = 0; i_ < n_; ++i_) {"]
    used = " ".join([*statements, *texts])
    lines += [f"  const T {name} = {name}_at_[i_];" for name in formula.operands if name in used]
    kept = [name for node, name in named.items() if node not in formula.hoisted and name in used]
    lines += [f"  const T {name} = {name}at_[i_];" for name in kept]
    lines += [f"  {statement}" for statement in statements]
    lines += [f"  {write.format(text)}" for write, text in zip(writes, texts, strict=True)]
    return [*lines, "}"]


def _steps(roots: Sequence[Expr], numbers: dict[Expr, str]) -> list[list[Expr]]:
    """What to compute in loops of their own: long functions, and before them their arguments, in order.

    A processor has some 180 operations in flight: two functions of two vectors. Where each waits for a long chain
    before it, as in the logarithm of a quotient, most of them wait; pieces of a chain, with L1 between them, do not
    wait for one another. Half of the losses gain: in one loop, value and gradient of a Gaussian CRPS took 1.4 times
    as long, of log-cosh 1.7 times, of a sigmoid focal loss 1.4 times. Functions of one argument, or of its negative,
    share a loop, since they share most of their operations.
    """
    kept = dict.fromkeys(numbers)
    steps: list[list[Expr]] = []
    of_operand = any(node.op in _EACH and node.args[0].op == "variable" for node in topological(roots, kept))
    if max(_cycles([root], kept)[root] for root in roots) < _CHAIN and not of_operand:
        return steps
    groups: dict[tuple[Expr, ...], list[Expr]] = {}
    for node in topological(roots, kept):
        if node.args and node not in kept and _long(node):
            groups.setdefault(tuple(map(_bare, node.args)), []).append(node)
    waiting: dict[Expr, list[Expr]] = {}
    for nodes in groups.values():
        alone = all(node.op in _EACH for node in nodes)
        waiting |= {node: [node] for node in nodes} if alone else {nodes[0]: nodes}
    while waiting:
        known = {x: _cycles([_bare(arg) for arg in x.args], kept) for x in waiting}
        ready = [x for x, cycles in known.items() if not any(node in cycles for y in waiting.values() for node in y)]
        cut = [(x, _bare(arg)) for x in ready if not _takes_blocks(waiting[x]) for arg in x.args]
        first = [arg for x, arg in cut if known[x][arg] >= _ARGUMENT and not arg.is_condition]
        for step in [list(dict.fromkeys(first)), *(waiting.pop(x) for x in ready)]:
            if step:
                steps.append([*step, *_needed_again(step, roots, kept)])
                kept |= dict.fromkeys(steps[-1])
    # A formula stays whole if its only loop apart would keep three numbers of each element: their memory costs more
    # time than the loop saves. In two loops, at a million elements, binary cross entropy of scores took 1.02 times as
    # long, and 1.7 times with a `pos_weight` of each class.
    return [] if len(steps) == 1 and len(steps[0]) > 2 else steps


def _needed_again(step: Sequence[Expr], roots: Sequence[Expr], kept: dict[Expr, None]) -> list[Expr]:
    """What is computed for a step, is needed after it and would be long to compute again."""
    computed = {node for node in topological(step, kept) if node.args and node not in kept and not node.is_condition}
    after = kept | dict.fromkeys(step)
    known = [node for node in topological(roots, after) if node in computed and node not in after]
    many = {node for node in known if len(set(topological([node], kept)) - kept.keys()) > _OPERATIONS}
    long = many | {node for node in known if node.op in _DIVISIONS and node.args[-1].op != "constant"}
    return [node for node in topological(roots, after | dict.fromkeys(long)) if node in long]


def _long(node: Expr) -> bool:
    return _CYCLES.get(node.op, _FUNCTION) >= _LONG


def _takes_blocks(step: Sequence[Expr]) -> bool:
    """Whether a step's function is one that takes a block: it shares no operations with another."""
    return step[0].op in _EACH and not any(map(_long, step[1:]))


def _bare(node: Expr) -> Expr:
    """The node without a sign."""
    while node.op in ("neg", "absolute"):
        node = node.args[0]
    return node


def _cycles(nodes: Sequence[Expr], kept: Container[Expr]) -> dict[Expr, int]:
    """When the nodes, and each that is computed for them, are known: cycles after what is kept."""
    known: dict[Expr, int] = {}
    for node in topological(nodes, kept):
        last = max((known[arg] for arg in node.args), default=0) if node not in kept else 0
        known[node] = last + (_CYCLES.get(node.op, _FUNCTION) if node.args and node not in kept else 0)
    return known
