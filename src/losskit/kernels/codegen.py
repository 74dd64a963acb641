"""From a traced formula to the C++ of its block function.

Names of the function's own end in an underscore, which names of operands and parameters may not.
"""

from __future__ import annotations

import hashlib

from losskit.graph import Expr
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
    variants = [("losskit::kNone", []), ("losskit::kPredictions", predictions)]
    variants += [("losskit::kAll", everything)] if everything != predictions else []
    for position, (variant, which) in enumerate(variants):
        last = position == len(variants) - 1
        opening = "} else {" if last else f"{'} else ' if position else ''}if constexpr (wanted_ == {variant}) {{"
        lines.append(f"  {opening}")
        lines += [f"    {line}" for line in _loop(formula, which)]
    lines += ["  }", "}"]
    if not numbers:
        lines.insert(3, "  (void)parameters_;")
    body = "\n".join(lines)
    domains = ",\n    ".join(domain.cpp() for domain in formula.domains)
    # The digest covers what is written below, too.
    digest = hashlib.sha256(f"{body}{domains}{wanted}".encode()).hexdigest()[:12]
    symbol = f"losskit_{formula.loss.name}_{digest}"
    of_all = "all" if everything != predictions else "predictions"
    kernel = f"LOSSKIT_KERNEL_OF_{of_all.upper()}({symbol}, {len(operands)}, {len(numbers)}, {wanted},\n    {domains})"
    return symbol, f"namespace {symbol}_block {{\nnamespace lk = losskit;\n\n{body}\n\n{kernel}\n\n}}  // namespace\n"


def _loop(formula: Formula, which: list[int]) -> list[str]:
    """The loop over a block that writes the values and the gradients of the operands in `which`."""
    roots: list[Expr] = [formula.value, *(formula.guarded[i] for i in which)]
    taken = [*formula.operands, *formula.kernel_numbers]
    statements, (value, *gradients) = print_statements(roots, "cpp", taken, formula.hoisted)
    lines = [f"T* const {formula.operands[i]}_out_ = gradients_[{i}];" for i in which]
    lines += ["const lk::Scale<T> factor_(scale_);"] if which else ["(void)gradients_;", "(void)scale_;"]
    lines += ["#pragma GCC ivdep", "for (int64_t i_ = 0; i_ < n_; ++i_) {"]
    used = " ".join([*statements, value, *gradients])
    lines += [
        f"  {'' if name in used else '[[maybe_unused]] '}const T {name} = {name}_at_[i_];" for name in formula.operands
    ]
    lines += [f"  {statement}" for statement in statements]
    lines.append(f"  values_[i_] = {value};")
    lines += [
        f"  {formula.operands[i]}_out_[i_] = lk::scaled<T>({gradient}, factor_);"
        for i, gradient in zip(which, gradients, strict=True)
    ]
    return [*lines, "}"]
