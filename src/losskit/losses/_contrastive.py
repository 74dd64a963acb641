"""What the losses with one positive a row share: the negative log-probability of the positive among all columns."""

from __future__ import annotations

from typing import Any

from losskit.formula import softplus


def of_one_positive(positive_sum: Any, negative_log_sum_exp: Any) -> Any:
    """log(e^p + sum of e^n) - p, with its digits where the positive is nearly certain."""
    return softplus(negative_log_sum_exp - positive_sum)
