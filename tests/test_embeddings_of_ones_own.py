"""The embeddings family: a distance of one's own, a loss of one's own, and what a declaration may say."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from embedding_rows import embeddings, manhattan

import losskit
import losskit.functional as LF
from losskit import Case, EmbeddingsLoss, Facts, Operand, param
from losskit.errors import DeclarationError
from losskit.formula import maximum, where

# ---------------------------------------------------------------------------------------------------------
# A distance of the user's own


@pytest.mark.parametrize("swap", [False, True])
def test_own_distance(swap):
    leaves = [x.requires_grad_() for x in embeddings(6, 5, torch.float64, (1.0, 1.0, 1.0), seed=4)]
    for reduction in ("none", "mean", "sum"):
        kwargs = {"distance_function": manhattan, "margin": 2.0, "swap": swap, "reduction": reduction}
        ours = LF.triplet_margin_with_distance_loss(*leaves, **kwargs)
        module = losskit.TripletMarginWithDistanceLoss(**kwargs)
        torchs = F.triplet_margin_with_distance_loss(*leaves, **kwargs)
        torch.testing.assert_close(ours, torchs)
        assert torch.equal(module(*leaves), ours)
        for x, y in zip(*(torch.autograd.grad(z.sum(), leaves) for z in (ours, torchs)), strict=True):
            torch.testing.assert_close(x, y)
    copied = pickle.loads(pickle.dumps(module))
    assert torch.equal(copied(*leaves), ours)
    assert torch.equal(losskit.create(module.config())(*leaves), ours)
    assert "manhattan" in repr(module)
    weight = torch.linspace(0, 1, 6, dtype=torch.float64)
    weighted = LF.triplet_margin_with_distance_loss(*leaves, distance_function=manhattan, sample_weight=weight)
    each = LF.triplet_margin_with_distance_loss(*leaves, distance_function=manhattan, reduction="none")
    torch.testing.assert_close(weighted, (each * weight).sum() / weight.sum())
    compiled = torch.compile(losskit.TripletMarginWithDistanceLoss(distance_function=manhattan), backend="aot_eager",
                             fullgraph=True)  # fmt: skip
    torch.testing.assert_close(compiled(*leaves), each.mean())


def test_the_default_distance_is_torchs():
    rows = embeddings(6, 5, torch.float64, (1.0, 1.0, 1.0), seed=4)
    for swap in (False, True):
        torch.testing.assert_close(
            losskit.TripletMarginWithDistanceLoss(swap=swap)(*rows),
            torch.nn.TripletMarginWithDistanceLoss(swap=swap)(*rows),
        )


# ---------------------------------------------------------------------------------------------------------
# Another loss is one class


def test_a_new_loss_is_a_formula(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    class ContrastiveForTest(EmbeddingsLoss):
        """Contrastive loss of distances."""

        margin: float = param(default=1.0, doc="Distance from which a dissimilar pair costs nothing.")
        arguments = "margin p eps reduction"
        operands = {"input1": Operand("One."), "input2": Operand("Other."), "target": Operand("1 similar, 0 not.")}

        @staticmethod
        def value(distance, target, margin):
            apart = maximum(margin - distance, 0.0)
            return where(target == 1.0, distance * distance, apart * apart)

        facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
        cases = [Case(input1=[[0.0]], input2=[[2.0]], target=[1.0], value=4.0, source="by hand")]

    a, b = (x.requires_grad_() for x in embeddings(9, 4, torch.float64, (1.0, 1.0)))
    target = torch.tensor([0, 1, 1]).repeat(3)
    loss = ContrastiveForTest(margin=3.0, eps=0.0)(a, b, target)
    d = (a - b).norm(dim=-1)
    right = torch.where(target == 1, d * d, (3.0 - d).clamp(min=0.0) ** 2).mean()
    torch.testing.assert_close(loss, right)
    for x, y in zip(torch.autograd.grad(loss, (a, b)), torch.autograd.grad(right, (a, b)), strict=True):
        torch.testing.assert_close(x, y)
    assert losskit.why(ContrastiveForTest(), a, b, target).implementation == "fused CPU kernel"


@pytest.mark.parametrize(
    ("names", "value", "message"),
    [
        (["a", "b"], lambda negative_distance: negative_distance, "got negative_distance of 2"),
        (["a", "b", "c"], lambda cosine: cosine, "got cosine of 3"),
        (["a", "b"], lambda cosine, distance: cosine, "got cosine, distance of 2"),
        (["a", "b", "target"], lambda cosine: cosine, "must both take a target"),
        (["a", "b"], lambda angle: angle, "may speak of cosine"),
        (["a", "b"], None, "needs a formula"),
    ],
)
def test_declarations_are_checked(names, value, message):
    body = {"__doc__": "A loss.", "operands": {n: Operand(n) for n in names}, "arguments": "reduction"}
    if value is not None:
        body["value"] = staticmethod(value)
    with pytest.raises(DeclarationError, match=message):
        type("WrongForTest", (EmbeddingsLoss,), body)
