"""StudentTNLLLoss: likelihood with heavy tails, whose scale and weight of tails may be predicted too."""

import math

from losskit.declaration import Case, Operand, Peer
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, lgamma, log, log1p, minus_log1p, sqrt, where
from losskit.losses._exact import polynomial, residual

# a * c(a) as a polynomial in 1/a^2 from a = 6 on, good to 2^-54; and -a^2 * c'(a), where c is `ratio_of_gammas`.
RATIO = (
    0.125, -0.005208333333324703, 0.0015624999934272384, -0.0011858239727633726, 0.0016815794708908483,
    -0.0038118741546116133, 0.011802321941028239, -0.03289960296800081,
)  # fmt: skip
SLOPE = (
    0.125, -0.015624999999992145, 0.007812499992401366, -0.008300778400259534, 0.015136178394848987,
    -0.04211692462062723, 0.1628624446270596, -0.7357019973245473, 2.47831794290817,
)  # fmt: skip


def ratio_of_gammas(a):
    """c(a) = lgamma(a) - lgamma(a + 1/2) + log(a)/2, of which for large a nothing would be left.

    c(a) - c(a + 1) is log1p(1 / (4 a (a + 1))) / 2: six such steps, all of them positive, lead to 6, from where on the
    asymptotic series is exact.
    """
    low = a < 6.0
    x = where(low, a, 1.0)
    product, more = 1.0, 0.0  # of the x (x + 1), and of 1 + 1 / (4 x (x + 1)) what is above 1, times the former
    for i in range(6):
        step = (x + float(i)) * (x + float(i + 1))
        product, more = product * step, more * (step + 0.25) + 0.25 * product
    u = 1.0 / where(low, a + 6.0, a)
    steps = where(low, 0.5 * log1p(more / product), 0.0)
    return u * polynomial(u * u, RATIO) + steps


def gamma_ratio(df):
    """c(df / 2) of every df, also where the steps would overflow."""
    tiny = df < 1e-18
    near_zero = -0.5 * (log(where(tiny, df, 1.0)) + math.log(0.5 * math.pi))
    return where(tiny, near_zero, ratio_of_gammas(where(tiny, 1.0, 0.5 * df)))


def slope_of_ratio(a):
    """The derivative of c(a), see `ratio_of_gammas`."""
    low = a < 6.0
    x = where(low, a, 1.0)
    product, total = 1.0, 0.0  # the sum of 1 / (x (x + 1/2) (x + 1)), as one quotient, without its first term
    for i in range(1, 6):
        step = (x + float(i)) * (x + float(i + 1)) * (x + (i + 0.5))
        total, product = total * step + product, product * step
    u = 1.0 / where(low, a + 6.0, a)
    steps = (0.25 / x) / ((x + 0.5) * (x + 1.0)) + 0.25 * total / product
    return -(u * u * polynomial(u * u, SLOPE) + where(low, steps, 0.0))


def standardized(input, target, scale, df):
    """q = (input - target) / scale, y = q / sqrt(df), w = y^2, whether that is huge (w is 0 then), and log(1 + w)."""
    d, k = residual(input, target)
    q = k * (d / scale)
    y = absolute(q / sqrt(df))
    far, over = y > 1e15, y == math.inf
    w = where(far, 0.0, q / df * where(far, 0.0, q))
    logs = log(scale) + 0.5 * log(where(over, df, 1.0)) - log(k)
    size = log(where(over, absolute(d), where(far, y, 1.0))) - where(over, logs, 0.0)
    return q, y, w, far, where(far, 2.0 * size, log1p(w))


class StudentTNLLLoss(PointwiseLoss):
    """Negative log-likelihood of Student's t distribution: a likelihood that expects outliers.

    Choose it when the noise has heavy tails: a far target pulls the less the farther it is.
    Prefer GaussianNLLLoss for normal noise, LaplaceNLLLoss for a convex loss that forgives outliers as well.

    `df`, the degrees of freedom, says how heavy the tails are: 1 is the Cauchy distribution, and from 30 on it is
    nearly the normal one. The variance is finite above 2. Scale and degrees of freedom may be predicted or constant:
    each may have dimensions of size 1 where `input` does not, may lack the last dimension, or may be one number.
    """

    name = "student_t_nll_loss"
    arguments = "reduction"
    operands = {
        "input": Operand("Predicted locations, any real numbers."),
        "target": Operand("True values.", broadcast=True),
        "scale": Operand("Predicted scales.", domain=positive, broadcast=True, per_row=True,
                         hint="Predict log(scale) and pass its exponential."),
        "df": Operand("Degrees of freedom.", domain=positive, broadcast=True, per_row=True,
                      hint="Predict the logarithm of df, or of what df is above 2, and pass its exponential."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, scale, df):
        q, y, _, _, logarithm = standardized(input, target, scale, df)
        normal = (df > 1e20) & (y < 1e-10)  # there q^2 / df may be subnormal
        tail = where(normal, 0.5 * where(normal, q, 0.0) * q, 0.5 * (df + 1.0) * logarithm)
        return (gamma_ratio(df) + (log(scale) + 0.5 * math.log(2.0 * math.pi))) + tail

    @staticmethod
    def grad(input, target, scale, df):
        q, y, w, far, logarithm = standardized(input, target, scale, df)
        d, k = residual(input, target)
        many = df > 1e-10  # below, 1 / df may overflow
        factor = where(many, 1.0 + 1.0 / df, (df + 1.0) / sqrt(df))
        pull = where(far, 0.0, where(many, q, q / sqrt(df))) / (1.0 + w)
        slope = where(far, (df + 1.0) / where(far, d, 1.0) / k, factor * pull / scale)
        left, right = (1.0 - q) / where(far, y, 1.0 + w), (1.0 + q) / where(far, y, 1.0)
        by_scale = where(y == math.inf, -df, left * right) / scale
        share = where(far, 1.0, w / (1.0 + w))
        high = far | (w > 2.5)
        rest = where(high, logarithm - share, minus_log1p(-where(high, 0.0, share)))
        by_df = 0.5 * (slope_of_ratio(0.5 * df) + rest) - 0.5 * share / df
        return slope, -slope, by_scale, by_df

    @staticmethod
    def textbook(input, target, scale, df):
        constant = lgamma(0.5 * df) - lgamma(0.5 * (df + 1.0)) + 0.5 * log(math.pi * df) + log(scale)
        return constant + 0.5 * (df + 1.0) * log(1.0 + ((input - target) / scale) ** 2 / df)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=None, symmetric=True)
    cases = [
        Case(input=0.0, target=1.0, scale=1.0, df=1.0, value=1.8378770664093453, grad=-1.0, source="log pi + log 2"),
        Case(
            input=0.0, target=2.0, scale=1.0, df=3.0, value=2.695484570397917, grad=-1.1428571428571428, source="mpmath"
        ),
    ]
    peers = [
        Peer(
            "scipy",
            "-scipy.stats.t.logpdf(target, df, input, scale)",
            "student_t_nll_loss(input, target, scale, df, reduction='none')",
        ),
        Peer(
            "torch",
            "-torch.distributions.StudentT(df, input, scale).log_prob(target).mean()",
        ),
    ]
    aliases = "student_t t_distribution"
    task = "likelihood"
    best_for = "Uncertainty estimates when the noise has heavy tails."
    not_for = "Normal noise; convex problems."
    reference = (
        "Lange, K. L., Little, R. J. A. and Taylor, J. M. G. (1989). Robust statistical modeling using the t "
        "distribution. J. Am. Stat. Assoc. 84, 881-896."
    )
