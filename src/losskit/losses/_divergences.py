"""What divergences of two rows share: terms that are not negative and keep their digits where the rows are near.

The terms q (log q - log p) of a divergence have either sign and cancel. Their sum is that of p - q - q log(p/q), since
the sums of p and of q are both 1; these terms are never negative, and where |log(p/q)| < 1 they are q (e^d - 1 - d).
"""

from losskit.formula import absolute, times, where

# (exp(d) - 1 - d - d d / 2) / d^3 on [-1, 1] at Chebyshev's points, from the constant on: 0.25 ULP of float64.
_REST = (
    0.16666666666666666, 0.04166666666666651, 0.008333333333333325, 0.001388888888893181, 0.00019841269841295063,
    2.4801587267259408e-05, 2.75573192038147e-06, 2.755733098715279e-07, 2.5052115297914698e-08,
    2.087479843099664e-09, 1.6057892794603187e-10, 1.1627098130423447e-11, 7.739072467121704e-13,
)  # fmt: skip


def is_near(log_ratio):
    """Where series take the place of differences."""
    return absolute(log_ratio) < 1.0


def excess(d):
    """exp(d) - 1 - d for |d| < 1, to all digits of float64.

    The polynomial is summed in pairs: each step of Horner's scheme waits for the one before, which took longer than the
    rest of a divergence.
    """
    squared = d * d
    return squared * (0.5 + d * _in_pairs(_REST, d, squared))


def _in_pairs(coefficients, x, squared):
    """The polynomial of these coefficients, from the constant on, in steps that do not wait for each other."""
    if len(coefficients) == 1:
        return coefficients[0]
    pairs = [a + b * x for a, b in zip(coefficients[::2], coefficients[1::2], strict=False)]
    rest = coefficients[-1:] if len(coefficients) % 2 else []
    return _in_pairs([*pairs, *rest], squared, squared * squared)


def difference(teacher, student, log_ratio):
    """p - q."""
    return where(is_near(log_ratio), teacher * (log_ratio + excess(log_ratio)), student - teacher)


def forward_kl(teacher, student, log_ratio):
    """A class's term of KL(q || p)."""
    far = student - teacher - times(teacher, log_ratio)
    return where(is_near(log_ratio), teacher * excess(log_ratio), far)


def reverse_kl(teacher, student, log_ratio):
    """A class's term of KL(p || q)."""
    far = teacher - student + times(student, log_ratio)
    return where(is_near(log_ratio), student * excess(-log_ratio), far)
