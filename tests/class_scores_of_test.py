"""Losses that are a formula of the row's statistics: one class each, no kernel of their own."""

import torch
from torch import Tensor

import losskit
from losskit import ClassScoresLoss, nonnegative, param
from losskit.formula import expm1, power


class FocalOfTest(ClassScoresLoss):
    """Cross entropy that counts well-classified rows less."""

    gamma: float = param(default=2.0, domain=nonnegative, doc="How much less.")

    @staticmethod
    def value(log_probability, gamma):
        return power(-expm1(log_probability), gamma) * -log_probability


class PolyOfTest(ClassScoresLoss):
    """Cross entropy and the first term of its series once more."""

    epsilon: float = param(default=1.0, doc="Weight of the term.")

    @staticmethod
    def value(log_probability, epsilon):
        return epsilon * -expm1(log_probability) - log_probability


class GeneralisedOfTest(ClassScoresLoss):
    """Between cross entropy (q = 0) and absolute error (q = 1)."""

    q: float = param(default=0.7, domain=losskit.positive, doc="The exponent.")

    @staticmethod
    def value(log_probability, q):
        return -expm1(q * log_probability) / q


class NormaliserOfTest(ClassScoresLoss):
    """Cross entropy with a penalty on the log of the normaliser (z-loss)."""

    scale: float = param(default=1e-4, domain=nonnegative, doc="Weight of the penalty.")

    @staticmethod
    def value(log_probability, log_sum_exp, scale):
        return scale * log_sum_exp * log_sum_exp - log_probability


class SmoothedOfTest(ClassScoresLoss):
    """Label smoothing written as a formula of the mean over classes."""

    share: float = param(default=0.1, domain=losskit.probability, doc="What is spread over the classes.")

    @staticmethod
    def value(log_probability, mean_log_probability, share):
        return -(1.0 - share) * log_probability - share * mean_log_probability


class AdjustedOfTest(ClassScoresLoss):
    """Cross entropy of scores shifted by the logarithm of the classes' frequencies."""

    prior: Tensor = param(default=None, doc="Frequency of each class.")
    tau: float = param(default=1.0, domain=nonnegative, doc="Strength of the shift.")

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def shift(prior, tau):
        return tau * torch.log(prior / prior.sum())


def textbook(loss, params, z, shares):
    """A custom loss of the family by its definition: the formula of each class, times its share."""
    log_p = z.log_softmax(1)
    formulas = {
        FocalOfTest: lambda: (1 - log_p.exp()) ** params.get("gamma", 2.0) * -log_p,
        PolyOfTest: lambda: (1 - log_p.exp()) * params.get("epsilon", 1.0) - log_p,
        GeneralisedOfTest: lambda: (1 - log_p.exp() ** 0.7) / 0.7,
        NormaliserOfTest: lambda: params["scale"] * z.logsumexp(1, keepdim=True) ** 2 - log_p,
        SmoothedOfTest: lambda: -0.9 * log_p - 0.1 * log_p.mean(1, keepdim=True),
    }
    return (shares * formulas[loss]()).sum(1)
