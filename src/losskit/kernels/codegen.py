"""From a traced formula to the C++ of its block function.

Names of the function's own end in an underscore, which names of operands and parameters may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
    lines += [f"  const T* const {name}_at_ = operands_[{i}];" for i, name in enumerate(operands)]
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
    return symbol, f"namespace {symbol}_block {{\nnamespace lk = losskit;\n\n{body}\n\n{kernel}\n\n}}  // namespace\n"


def _domain(name: str, operand: Operand) -> str:
    """What values an operand may have, as an initialiser of `losskit::Domain`."""
    if name == POSITION:
        return "{losskit::kPosition, 0, 0, 0.0, 0.0}"
    if operand.places is not None:
        return f"{{losskit::kPlaces, 0, 0, 0.0, {operand.places}.0}}"
    return operand.domain.cpp()


# Functions of which each takes longer than what is around it.
_SHORT = 24  # nodes: an expression of so many is computed again rather than kept
_LONG = frozenset({"exp", "expm1", "log", "log1p", "softplus", "sigmoid", "log_sigmoid", "tanh", "logaddexp", "xlogy"})


def _loop(formula: Formula, which: list[int]) -> list[str]:
    """The loop over a block that writes the values and the gradients of the operands in `which`."""
    roots: list[Expr] = [formula.value, *(formula.guarded[i] for i in which)]
    lines = [f"T* const {formula.operands[i]}_out_ = gradients_[{i}];" for i in which]
    lines += ["const lk::Scale<T> factor_(scale_);"] if which else ["(void)gradients_;", "(void)scale_;"]
    named = dict(formula.hoisted)
    for nodes in _steps(roots, named) if formula.loss._in_steps else []:
        names = {node: f"step{len(named) - len(formula.hoisted) + i}_" for i, node in enumerate(nodes)}
        lines += [f"alignas(64) T {name}at_[lk::kBlock];" for name in names.values()]
        lines += _pass(formula, nodes, named, [f"{name}at_[i_] = {{}};" for name in names.values()])
        named |= names
    outs = [f"{formula.operands[i]}_out_[i_] = lk::scaled<T>({{}}, factor_);" for i in which]
    return lines + _pass(formula, roots, named, ["values_[i_] = {};", *outs])


def _pass(formula: Formula, roots: Sequence[Expr], named: dict[Expr, str], writes: Sequence[str]) -> list[str]:
    """A loop that writes the roots; `named` are numbers of the call and what earlier loops have kept."""
    taken = [*formula.operands, *formula.kernel_numbers]
    statements, texts = print_statements(roots, "cpp", taken, named)
    lines = ["#pragma GCC ivdep", "for (int64_t i_ = 0; i_ < n_; ++i_) {"]
    used = " ".join([*statements, *texts])
    lines += [
        f"  {'' if name in used else '[[maybe_unused]] '}const T {name} = {name}_at_[i_];" for name in formula.operands
    ]
    kept = [name for node, name in named.items() if node not in formula.hoisted and name in used]
    lines += [f"  const T {name} = {name}at_[i_];" for name in kept]
    lines += [f"  {statement}" for statement in statements]
    lines += [f"  {write.format(text)}" for write, text in zip(writes, texts, strict=True)]
    return [*lines, "}"]


def _steps(roots: Sequence[Expr], numbers: dict[Expr, str]) -> list[list[Expr]]:
    """What to compute in loops of their own: the long functions and what they are of, in order.

    A processor has the operations of a few numbers in flight. Where each waits for a long chain before it, as in a
    logarithm of what is a polynomial, most of them wait: a Jensen-Shannon divergence in one loop took twice the time.
    """
    step: dict[Expr, int] = {}
    kept: dict[Expr, None] = {}
    for node in topological(roots, numbers):
        if not node.args or node in numbers:
            continue
        within = [arg for arg in node.args if arg in step]
        waits = [step[arg] + (arg.op in _LONG or (node.op in _LONG and arg.size > _SHORT)) for arg in within]
        step[node] = max(waits, default=0)
        later = [arg for arg in within if step[arg] < step[node] and not arg.is_condition]
        kept |= dict.fromkeys(arg for arg in later if arg.op in _LONG or arg.size > _SHORT)
    last = max((step[node] for node in kept), default=-1)
    return [[node for node in kept if step[node] == i] for i in range(last + 1)]
