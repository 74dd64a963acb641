"""Which losses are other losses: each statement is a pair of Python expressions; tests/test_relations.py computes both.

1. An expression calls losses by the names of their functions, unreduced. A call without operands has those of the loss
   on the left, in their order; `input`, `target` and the others stand for them elsewhere. A single letter is a number.
2. `equals`: both sides are the same numbers. `tends`: the left side goes to the right one while a letter goes to a
   bound, from inside.
3. What people read, on the poster and on the page of it, are these expressions.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from losskit_guide.card import catalogue


class Relation(NamedTuple):
    """What two losses have to do with each other."""

    left: str
    right: str
    letter: str = ""  # of a limit: what goes
    bound: str = ""  # and where to

    @property
    def limit(self) -> bool:
        """Whether the left side only tends to the right one."""
        return bool(self.letter)

    @property
    def condition(self) -> str:
        """What stands at the arrow: d → ∞."""
        return f"{self.letter} → {self.bound.replace('inf', '∞').replace('-', '−')}" if self.limit else ""

    @property
    def losses(self) -> list[str]:
        """The names of the losses in it, those of the left side first."""
        words = re.findall(r"\w+(?=\()", f"{self.left} {self.right}")
        return list(dict.fromkeys(word for word in words if word in catalogue()))

    def __str__(self) -> str:
        sign = f"→ ({self.condition})" if self.limit else "="
        return f"{bare(self.left)} {sign} {bare(self.right)}"


def bare(expression: str) -> str:
    """An expression as people read it: without the parentheses of calls that change nothing."""
    return expression.replace("()", "").replace(" ** ", "^").replace(" * ", " · ")


def equals(left: str, right: str) -> Relation:
    """Both are the same numbers."""
    return Relation(left, right)


def tends(left: str, letter: str, bound: str, right: str) -> Relation:
    """The left one goes to the right one while a letter goes to a bound."""
    return Relation(left, right, letter, bound)


RELATIONS = (
    # Residuals: all of them are between the square and the absolute value.
    equals("huber_loss(delta=d)", "d * smooth_l1_loss(beta=d)"),
    tends("huber_loss(delta=d)", "d", "inf", "mse_loss() / 2"),
    tends("huber_loss(delta=d) / d", "d", "0", "l1_loss()"),
    equals("smooth_l1_loss(beta=0)", "l1_loss()"),
    equals("pseudo_huber_loss(delta=d)", "d * charbonnier_loss(eps=d) - d ** 2"),
    tends("pseudo_huber_loss(delta=d)", "d", "inf", "mse_loss() / 2"),
    tends("pseudo_huber_loss(delta=d) / d", "d", "0", "l1_loss()"),
    tends("charbonnier_loss(eps=e)", "e", "0", "l1_loss()"),
    tends("log_cosh_loss(a * input, a * target) / a", "a", "inf", "l1_loss()"),
    equals("epsilon_insensitive_loss(epsilon=0)", "l1_loss()"),
    equals("squared_epsilon_insensitive_loss(epsilon=e)", "epsilon_insensitive_loss(epsilon=e) ** 2"),
    equals("squared_epsilon_insensitive_loss(epsilon=0)", "mse_loss()"),
    equals("pinball_loss(quantile=0.5)", "l1_loss() / 2"),
    equals("multi_quantile_loss(quantiles=tensor([0.9]))", "pinball_loss(input.squeeze(1), target, quantile=0.9)"),
    equals("expectile_loss(expectile=0.5)", "mse_loss() / 2"),
    equals("general_robust_loss(alpha=2, scale=s)", "mse_loss() / (2 * s ** 2)"),
    equals("general_robust_loss(alpha=1, scale=s)", "pseudo_huber_loss(delta=s) / s ** 2"),
    equals("general_robust_loss(alpha=0, scale=s)", "cauchy_loss(scale=s)"),
    tends("general_robust_loss(alpha=a)", "a", "0", "cauchy_loss()"),
    equals("general_robust_loss(alpha=-2, scale=s)", "geman_mcclure_loss(scale=s)"),
    tends("general_robust_loss(alpha=a)", "a", "-inf", "welsch_loss()"),
    tends("s ** 2 * cauchy_loss(scale=s)", "s", "inf", "mse_loss() / 2"),
    tends("s ** 2 * welsch_loss(scale=s)", "s", "inf", "mse_loss() / 2"),
    tends("s ** 2 * geman_mcclure_loss(scale=s)", "s", "inf", "mse_loss() / 2"),
    tends("tukey_biweight_loss(c=c)", "c", "inf", "mse_loss() / 2"),
    equals("msle_loss()", "mse_loss(log1p(input), log1p(target))"),
    equals("mase_loss()", "l1_loss(input, target) / scale"),
    # Likelihoods
    equals("gaussian_nll_loss(input, target, 1)", "mse_loss(input, target) / 2"),
    equals("beta_gaussian_nll_loss(beta=0)", "gaussian_nll_loss()"),
    tends("student_t_nll_loss(input, target, scale, n)", "n", "inf",
          "gaussian_nll_loss(input, target, scale ** 2, full=True)"),
    equals("log_normal_nll_loss()", "gaussian_nll_loss(log(target), input, scale ** 2, full=True) + log(target)"),
    equals("adaptive_robust_loss(alpha=2, scale=s)", "gaussian_nll_loss(input, target, s ** 2, full=True)"),
    equals("adaptive_robust_loss(alpha=0, scale=s)", "student_t_nll_loss(input, target, sqrt(2) * s, 1)"),
    tends("gaussian_crps_loss(input, target, s)", "s", "0", "l1_loss(input, target)"),
    tends("negative_binomial_nll_loss(input, target, a)", "a", "0",
          "poisson_nll_loss(input, target) + lgamma(target + 1)"),
    tends("zero_inflated_negative_binomial_nll_loss(input, target, g, dispersion)", "g", "-inf",
          "negative_binomial_nll_loss(input, target, dispersion)"),
    tends("tweedie_deviance_loss(p=p)", "p", "2", "gamma_deviance_loss()"),
    equals("gamma_deviance_loss()", "2 * (gamma_nll_loss() - log(target) - 1)"),
    # Labels and classes
    equals("binary_cross_entropy_with_logits()", "binary_cross_entropy(sigmoid(input), target)"),
    equals("soft_margin_loss()", "binary_cross_entropy_with_logits(input, (target + 1) / 2)"),
    equals("sigmoid_focal_loss(alpha=None, gamma=0)", "binary_cross_entropy_with_logits()"),
    equals("asymmetric_loss(gamma_neg=0, gamma_pos=0, clip=0)", "binary_cross_entropy_with_logits()"),
    equals("asymmetric_loss(input, round(target), gamma_neg=g, gamma_pos=g, clip=0)",
           "sigmoid_focal_loss(input, round(target), alpha=None, gamma=g)"),
    equals("multilabel_soft_margin_loss()", "binary_cross_entropy_with_logits().mean(1)"),
    equals("hinge_loss()", "margin_ranking_loss(input, 0, target, margin=1)"),
    equals("squared_hinge_loss()", "hinge_loss() ** 2"),
    equals("cross_entropy()", "nll_loss(log_softmax(input), target)"),
    equals("softmax_focal_loss(gamma=0)", "cross_entropy()"),
    equals("poly_cross_entropy(epsilon=0)", "cross_entropy()"),
    tends("generalized_cross_entropy(q=q)", "q", "0", "cross_entropy()"),
    equals("poly_cross_entropy(epsilon=e)", "cross_entropy() + e * generalized_cross_entropy(q=1)"),
    equals("symmetric_cross_entropy(alpha=a, beta=b, log_zero=-c)",
           "a * cross_entropy() + b * c * generalized_cross_entropy(q=1)"),
    equals("bi_tempered_logistic_loss(t1=1, t2=1)", "cross_entropy()"),
    equals("seesaw_loss(counts=counts, p=0, q=0)", "cross_entropy()"),
    equals("logit_adjusted_cross_entropy(prior=prior, tau=0)", "cross_entropy()"),
    equals("cosface_loss(margin=0, scale=s)", "cross_entropy(s * input, target)"),
    equals("arcface_loss(margin=0, scale=s)", "cosface_loss(margin=0, scale=s)"),
    # Divergences
    equals("knowledge_distillation_loss()", "kl_div(log_softmax(input), softmax(target)).sum(-1)"),
    equals("reverse_kl_div()", "knowledge_distillation_loss(target, input)"),
    tends("jensen_shannon_loss(beta=b) / b", "b", "0", "knowledge_distillation_loss()"),
    tends("jensen_shannon_loss(beta=b) / (1 - b)", "b", "1", "reverse_kl_div()"),
    equals("total_variation_distance_loss()", "l1_loss(softmax(input), softmax(target)).sum(-1) / 2"),
    # Regions
    equals("tversky_loss(alpha=0.5, beta=0.5, smooth=s)", "dice_loss(smooth=2 * s)"),
    equals("tversky_loss(alpha=1, beta=1)", "jaccard_loss()"),
    equals("focal_tversky_loss(alpha=a, beta=b, gamma=1)", "tversky_loss(alpha=a, beta=b)"),
    equals("log_cosh_dice_loss()", "log(cosh(dice_loss()))"),
    equals("dice_loss(smooth=0)", "jaccard_loss(smooth=0) / (2 - jaccard_loss(smooth=0))"),
    # Preferences and embeddings
    equals("dpo_loss(beta=b)", "simpo_loss(chosen - ref_chosen, rejected - ref_rejected, beta=b, gamma=0)"),
    equals("cpo_loss(beta=b, alpha=0)", "simpo_loss(chosen, rejected, beta=b, gamma=0)"),
    equals("simpo_loss(beta=1, gamma=g)", "bradley_terry_loss(margin=g)"),
    equals("bradley_terry_loss()", "soft_margin_loss(chosen - rejected, 1)"),
    equals("ipo_loss(beta=b)", "mse_loss(chosen - ref_chosen - rejected + ref_rejected, 1 / (2 * b))"),
    equals("clip_loss(logit_scale=1 / t)", "info_nce_loss(temperature=t, symmetric=True)"),
)  # fmt: skip


def of(name: str) -> list[int]:
    """The numbers of the relations that a loss stands in, counted from 1."""
    return [number for number, relation in enumerate(RELATIONS, 1) if name in relation.losses]
