"""Divergences of two rows as people write them in torch operations, from log-softmax rows; see compositions.py."""

import math

import torch
import torch.nn.functional as F


def knowledge_distillation_loss(input, target, temperature=1.0):
    log_p, log_q = (x if temperature == 1.0 else x / temperature for x in (input, target))
    log_p, log_q = F.log_softmax(log_p, -1), F.log_softmax(log_q, -1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean") * temperature**2


def reverse_kl_div(input, target):
    log_p, log_q = F.log_softmax(input, -1), F.log_softmax(target, -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def jensen_shannon_loss(input, target, beta=0.5):
    log_p, log_q = F.log_softmax(input, -1), F.log_softmax(target, -1)
    log_m = torch.logsumexp(torch.stack([log_q + math.log(beta), log_p + math.log1p(-beta)]), 0)
    of_teacher = F.kl_div(log_m, log_q, log_target=True, reduction="none")
    of_student = F.kl_div(log_m, log_p, log_target=True, reduction="none")
    return (beta * of_teacher + (1.0 - beta) * of_student).sum(-1).mean()


def total_variation_distance_loss(input, target):
    return 0.5 * (F.softmax(input, -1) - F.softmax(target, -1)).abs().sum(-1).mean()
