"""Draw docs/images/gradients-light.svg and -dark.svg, the picture of README and home page: python tools/picture.py

1. Left: the gradient of binary cross entropy with logits in float32, over the score of a right answer. torch's rounds
   to 0; losskit's is right as long as float32 has a number for it.
2. Right: why one takes cross entropy for a probability: what a score feels of it, and of the squared error.
3. The numbers that are drawn stand in the picture, as JSON; a test computes them anew.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

import losskit

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
THEMES = {  # ink, losskit (and cross entropy), torch (and squared error); the pairs differ in lightness, too
    "light": ("#24292f", "#0072b2", "#d55e00"),
    "dark": ("#e6edf3", "#56b4e9", "#e69f00"),
}
TITLE = "Gradients of binary cross entropy: by torch and by losskit, and beside those of the squared error"


def slope(loss: Any, scores: torch.Tensor, target: float) -> list[float]:
    """The size of the gradient of a loss by each score."""
    scores = scores.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scores, torch.full_like(scores, target)), scores)
    return [float(f"{x:.6g}") for x in gradient.abs().tolist()]


def numbers() -> dict[str, Any]:
    """All numbers of the picture."""
    right = torch.arange(0, 104.25, 0.25)
    wrong = torch.arange(-6, 10.125, 0.125)
    squared = losskit.MSELoss(reduction="sum")
    ours = slope(losskit.BCEWithLogitsLoss(reduction="sum"), right, 1.0)
    torchs = slope(torch.nn.BCEWithLogitsLoss(reduction="sum"), right, 1.0)
    at = {x: i for i, x in enumerate(right.tolist())}
    return {
        "right": right.tolist(),
        "losskit": ours,
        "torch": torchs,
        "torch is 0 from": next(int(x) for x in at if x.is_integer() and torchs[at[x]] == 0),
        "losskit at 17": ours[at[17.0]],
        "losskit is above 0 up to": max(int(x) for x in at if x.is_integer() and ours[at[x]] > 0),
        "wrong": wrong.tolist(),
        "cross entropy": slope(losskit.BCEWithLogitsLoss(reduction="sum"), wrong, 0.0),
        "squared error": slope(lambda x, t: squared(x.sigmoid(), t), wrong, 0.0),
    }


def drawn(data: dict[str, Any], theme: str) -> str:
    """The picture as SVG."""
    ink, ours, theirs = THEMES[theme]
    style = {
        "svg.fonttype": "none", "svg.hashsalt": "losskit", "font.family": "sans-serif", "font.size": 12,
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink, "xtick.color": ink, "ytick.color": ink,
        "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none",
        "grid.color": ink, "grid.alpha": 0.12, "axes.titlesize": 13.5, "axes.titlelocation": "left",
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(11.2, 5.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr]
        _exact(left, data, ours, theirs)
        _pull(right, data, ours, theirs)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 Helvetica, Arial, 'DejaVu Sans', sans-serif", svg)
    inside = f'<title>{TITLE}</title><metadata id="numbers">{json.dumps(data)}</metadata>'
    return re.sub(r"(<svg [^>]*)>", rf'\1 role="img">{inside}', svg, count=1)


def _exact(axes: Any, data: dict[str, Any], ours: str, theirs: str) -> None:
    """Both gradients on a logarithmic axis; what is 0 has no place on it, so torch's ends in a cross."""
    points = [(x, y) for x, y in zip(data["right"], data["torch"], strict=True) if y > 0]
    known = [(x, y) for x, y in zip(data["right"], data["losskit"], strict=True) if y > 0]
    axes.plot(*zip(*known, strict=True), color=ours, linewidth=2.6)
    axes.plot(*zip(*points, strict=True), color=theirs, linewidth=3.2, linestyle=(0, (2.2, 1.1)))
    axes.plot(*points[-1], "X", color=theirs, markersize=11, clip_on=False)
    axes.text(2, 1e-16, f"torch:\n0 from {data['torch is 0 from']} on", color=theirs, weight="bold")
    axes.text(62, 1e-23, f"losskit: right\nup to {data['losskit is above 0 up to']}", color=ours, weight="bold")
    axes.set_yscale("log")
    axes.set(xlim=(0, 106), ylim=(1e-46, 10), yticks=[10.0**-n for n in (0, 10, 20, 30, 40)])
    axes.minorticks_off()
    axes.set_title("A right answer: gradient of BCE in float32")
    axes.set(xlabel="score, target 1", ylabel="size of the gradient")
    axes.grid(True)


def _pull(axes: Any, data: dict[str, Any], ours: str, theirs: str) -> None:
    """What a score feels of both losses when the answer is wrong."""
    axes.plot(data["wrong"], data["cross entropy"], color=ours, linewidth=2.6)
    axes.plot(data["wrong"], data["squared error"], color=theirs, linewidth=3.2, linestyle=(0, (2.2, 1.1)))
    axes.text(9.8, 0.93, "cross entropy", color=ours, weight="bold", ha="right", va="top")
    axes.text(4.3, 0.13, "squared error\nof the sigmoid", color=theirs, weight="bold")
    axes.set(xlim=(-6, 10), ylim=(0, 1.04), title="A wrong answer: gradients of two losses")
    axes.set(xlabel="score, target 0", ylabel="size of the gradient")
    axes.grid(True)


def inside(path: Path) -> dict[str, Any]:
    """The numbers that stand in a picture."""
    found = re.search(r'<metadata id="numbers">(.*?)</metadata>', path.read_text(encoding="utf-8"), re.S)
    if found is None:
        raise ValueError(f"{path} has no numbers in it: it is not of tools/picture.py")
    data: dict[str, Any] = json.loads(found[1])
    return data


def caption(data: dict[str, Any]) -> str:
    """What the picture shows, in numbers."""
    left = (
        f"Left: in float32, torch's gradient of binary cross entropy for a right answer is 0 from a score of "
        f"{data['torch is 0 from']} on. losskit's is {data['losskit at 17']:.2g} there, as it should be, and stays "
        f"right up to {data['losskit is above 0 up to']}, where float32 ends."
    )
    right = (
        f"Right: why a probability wants cross entropy. At a score of {data['wrong'][-1]:.0f}, sure and wrong, its "
        f"gradient is {data['cross entropy'][-1]:.1g}, and that of the squared error of the sigmoid is "
        f"{data['squared error'][-1]:.5f}."
    )
    return f"{left} {right}"


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    computed = numbers()
    for name in THEMES:
        (IMAGES / f"gradients-{name}.svg").write_text(drawn(computed, name), encoding="utf-8")
    print(caption(computed))
