"""Numbers that the page must show: every loss, switch and primitive in Python, printed as JSON.

No torch needed: cards and primitives are those of losskit_guide. Run from anywhere.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[2] / "src")  # not this folder: its numbers.py would hide Python's

from losskit_guide import scalar  # noqa: E402
from losskit_guide.card import Card, CurveVariant, Given, catalogue, plain  # noqa: E402

EXTREMES = [0.0, -0.0, 1e-300, 1e-12, -1e-12, 1.0, -1.0, 2.0, 30.0, -30.0, 200.0, -200.0, math.inf, -math.inf, math.nan]
PRIMITIVES = {
    1: "softplus sigmoid log_sigmoid erf erfc expm1m minus_log1p log1mexp stop lgamma digamma trigamma".split(),
    2: "times xlogy logaddexp".split(),
    3: ["clamp"],
}


def setting(given: list[Given], chance: random.Random | None) -> dict[str, float]:
    """The defaults, or numbers by chance within what the page offers."""
    if chance is None:
        return {g.name: g.value for g in given}
    return {g.name: chance.choice(g.choices) if g.choices else chance.uniform(g.low, g.high) for g in given}


def rows(card: Card, variant: CurveVariant, chance: random.Random) -> list[dict[str, Any]]:
    """Points of a variant under several settings."""
    curve = card.curve
    assert curve is not None
    texts = (variant.value, variant.slope, variant.curvature)
    functions = [scalar.evaluate(text["python"], variant.arguments) for text in texts]
    result = []
    for number in range(6):
        given = setting(curve.given, chance if number else None)
        xs = [curve.low + (curve.high - curve.low) * i / 16 for i in range(17)]
        xs += [chance.uniform(curve.low, curve.high) for _ in range(8)] + list(given.values()) + EXTREMES
        for x in xs:
            arguments = [x, *(given[name] for name in variant.arguments[1:])]
            refused = not variant.domains[variant.arguments[0]].includes(x)
            result.append({"given": given, "x": x, "refused": refused, "numbers": [f(*arguments) for f in functions]})
    return result


def main() -> None:
    chance = random.Random(7)
    losses = [
        {"name": name, "switches": variant.switches, "rows": rows(card, variant, chance)}
        for name, card in catalogue().items()
        if card.curve is not None
        for variant in card.curve.variants
    ]
    primitives = []
    for arity, names in PRIMITIVES.items():
        for name in names:
            for number in range(400):
                pick = [(chance.random() < 0.2, chance.choice(EXTREMES), chance.uniform(-9, 40)) for _ in range(arity)]
                xs = [extreme if wild else usual for wild, extreme, usual in pick]
                if arity == 1 and number < len(EXTREMES):
                    xs = [EXTREMES[number]]
                if name == "clamp" and not xs[1] <= xs[2]:
                    continue
                if name in ("digamma", "trigamma", "lgamma") and not math.isfinite(xs[0]):
                    continue  # scalar.py has no say there
                result = float(getattr(scalar, name)(*map(scalar.Number, xs)))
                primitives.append({"name": name, "xs": xs, "result": result})
    json.dump(plain({"losses": losses, "primitives": primitives}), sys.stdout)


if __name__ == "__main__":
    main()
