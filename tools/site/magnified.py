"""The microscope in the site: for losses where it says something, a figure with zoom, its data, the worst in words.

1. All losses are looked at once, when the site is built, by as many processes as there are processors, up to four.
   That takes 137 s of processor time for 64 figures, whose data are 5.9 MB.
2. Shown are the losses that torch has, and those whose formula, written by hand in torch, loses digits.
3. Data are in a file of their own, `microscope/NAME.js`: a script is what a page that is opened from a folder may load.
   `docs/scripts/microscope.js` draws it.
"""

from __future__ import annotations

import html
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

from losskit_guide.card import catalogue
from losskit_guide.micrograph import COLOURS, MEANINGS, SIGNS, axis_of, lost
from losskit_guide.microscope import (
    BITS,
    KINDS,
    RIGHT,
    WHATS,
    WHO,
    Film,
    Shot,
    Sighting,
    headline,
    short,
    worst_first,
)  # fmt: skip

LETTERS = dict(zip(KINDS, "rlwzin", strict=True))
FOLDER = "microscope"
MOST = 4  # processes, and stretches of each in the table


def look(name: str) -> tuple[str, str] | None:
    """The section and the data of a loss; None where there is nothing to see."""
    import torch

    from losskit.machine import magnified

    torch.set_num_threads(1)
    try:
        seen = magnified(name)
    except ValueError:  # it is no function of one number
        return None
    loses = any(stretch.who == "torch" for stretch in seen.stretches)
    return (section(seen), data(seen)) if seen.native or loses else None


@cache
def everything() -> dict[str, tuple[str, str]]:
    """What `look` says of every loss where it says something."""
    names = [card.name for card in catalogue().values() if card.curve is not None]
    count = min(MOST, os.cpu_count() or 1)
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        found = dict(zip(names, pool.map(look, names), strict=True))
    return {name: one for name, one in found.items() if one is not None}


def named(name: str) -> str:
    """The section of a loss's page, with its heading; empty where there is nothing to see."""
    found = everything().get(name)
    return f"## Under the microscope\n\n{found[0]}" if found else ""


def files() -> dict[str, str]:
    """The data of all figures, by their paths."""
    return {f"{FOLDER}/{name}.js": found[1] for name, found in everything().items()}


def section(seen: Sighting) -> str:
    """The text around the figure, and the worst stretches in words."""
    given = ", ".join(f"{name.replace('_', ' ')} = {x:g}" for name, x in seen.given.items())
    over = f"{seen.about[:1].lower()}{seen.about[1:].rstrip('.')}"
    whose = "torch's function" if seen.native else "the formula as books print it, in torch's operations,"
    rows = [
        [stretch.dtype, seen.title(who), stretch.sentence]
        for who in WHO
        for stretch in worst_first(s for s in seen.stretches if s.who == who)[:MOST]
    ]
    told = "\n".join(
        f"| {' | '.join(row)} |" for row in [["dtype", "by", "where, and what is right"], ["---"] * 3, *rows]
    )
    return "\n\n".join(filter(None, [
        f"Value and gradient by {whose} and by losskit, over {over}{f'; {given}' if given else ''}, against the truth "
        f"with hundreds of digits: {headline(seen)}",
        f'<div class="microscope" data-name="{seen.name}"></div>\n'
        f'<script defer src="../{FOLDER}/{seen.name}.js"></script>\n'
        '<script defer src="../scripts/microscope.js"></script>',
        '<p class="caption microscope-caption">A bar is as high as the share of its digits that a result has lost. '
        "Drag over the bars to look closer, click or use the arrow keys for a point, and copy the two lines that "
        f"compute it again. The same in a terminal: <code>losskit microscope {html.escape(seen.name)}</code>.</p>",
        told if rows else "",
    ]))  # fmt: skip


def data(seen: Sighting) -> str:
    """The data of a figure, as a script that hands them over."""
    axis = axis_of(seen)
    worst = seen.worst("torch") or seen.worst("losskit")
    told: dict[str, Any] = {
        "variable": seen.variable.replace("_", " "),
        "titles": {who: seen.title(who) for who in WHO},
        "kinds": {LETTERS[kind]: [COLOURS[kind], MEANINGS[kind], SIGNS.get(kind, "")] for kind in KINDS},
        "ticks": [[round(place, 4), text] for place, text in axis.ticks()],
        "lines": seen.template,
        "start": {"dtype": worst.dtype, "what": worst.what, "x": worst.worst.x} if worst else None,
        "films": [_film(film, axis) for film in seen.films],
    }
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"(window.losskitMicroscope ??= {{}})[{json.dumps(seen.name)}] = {text};\n"


def _film(film: Film, axis: Any) -> dict[str, Any]:
    """A dtype as columns: places, literals, truths; and by who, results, letters of kinds, heights, errors."""
    return {
        "dtype": film.dtype,
        "refused": film.refused,
        "u": [round(1e4 * axis.place(point.x)) for point in film.points],
        "x": [point.x for point in film.points],
        "truth": {what: [point.told[what] for point in film.points] for what in WHATS},
        "shots": _alike_left_out({
            who: {what: _shots([p.shots[who].get(what) for p in film.points], film.dtype) for what in WHATS}
            for who in WHO
            if who not in film.refused
        }),
    }  # fmt: skip


def _alike_left_out(shots: dict[str, Any]) -> dict[str, Any]:
    """Results of torch that are losskit's, too, are told once."""
    for what in WHATS if len(shots) == len(WHO) else ():
        first, second = (shots[who][what]["results"] for who in WHO)
        shots[WHO[0]][what]["results"] = ["" if a == b else a for a, b in zip(first, second, strict=True)]
    return shots


def _shots(shots: list[Shot | None], dtype: str) -> dict[str, Any]:
    """Results of one call at all points; heights are digits of base 36, and errors are told where digits are lost."""
    digits = {"float64": 17}.get(dtype, round(BITS[dtype] * 0.302) + 2)
    return {
        "results": ["" if shot is None else short(shot.result, digits) for shot in shots],
        "kinds": "".join(" " if shot is None else LETTERS[shot.kind] for shot in shots),
        "heights": "".join("0" if shot is None else _base36(round(35 * lost(shot, dtype))) for shot in shots),
        "errors": {
            i: short(float(f"{shot.error:.2g}"))
            for i, shot in enumerate(shots)
            if shot is not None and shot.kind not in (RIGHT,) and shot.error < 1e300
        },
    }


def _base36(x: int) -> str:
    return "0123456789abcdefghijklmnopqrstuvwxyz"[x]
