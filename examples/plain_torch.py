"""A training loop with targets that are missing, samples that count more, and a mistake that is refused.

Run: python examples/plain_torch.py
"""

import torch

import losskit

torch.manual_seed(0)
inputs = torch.randn(256, 8)
truth = inputs @ torch.randn(8, 2)
targets = truth + 0.1 * torch.randn(256, 2)
targets[torch.rand(256, 2) < 0.2] = float("nan")  # was not measured
known = ~targets.isnan()
weights = torch.ones(256, 1)
weights[:128] = 2  # measured with more care

model = torch.nn.Linear(8, 2)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
criterion = losskit.HuberLoss(delta=0.5)
for _epoch in range(50):
    for rows in torch.randperm(256).split(64):
        loss = criterion(model(inputs[rows]), targets[rows], mask=known[rows], sample_weight=weights[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

print(f"mean distance from the truth: {(model(inputs) - truth).abs().mean():.3f}, noise of the targets: 0.1")
try:
    criterion(model(inputs), targets[:, :1])  # one column too few: torch would broadcast it
except losskit.LossValueError as refusal:
    print("refused:", refusal)
