"""Embeddings at some scales, and the powers of norms."""

import math

import torch

FLOATS = (torch.float32, torch.float64)
HALVES = (torch.bfloat16, torch.float16)
POWERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 100.0, math.inf)


def embeddings(rows, width, dtype, scales, seed=0):
    g = torch.Generator().manual_seed(seed)
    made = []
    for scale in scales:
        x = torch.randn(rows, width, generator=g, dtype=torch.float64) * scale
        made.append(x.to(dtype))
    return made


def manhattan(x, y):
    return (x - y).abs().sum(-1)
