"""What is trained in the explorer's playground is what losskit and torch.optim train: every preset, every step."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import losskit.functional as LF
from losskit_guide.card import catalogue

EXPLORER = Path(__file__).resolve().parent.parent / "explorer"
BUILT = (EXPLORER / "generated" / "catalogue.js").exists() and shutil.which("node") is not None
pytestmark = pytest.mark.skipif(not BUILT, reason="the explorer is not built")

HIDDEN = 16
CLOSE = 1e-9
Objective = Callable[[Tensor], Tensor]
OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}


@pytest.fixture(scope="module")
def trainings() -> list[dict[str, Any]]:
    script = ["node", str(EXPLORER / "tests" / "trajectories.mjs")]
    return json.loads(subprocess.run(script, capture_output=True, text=True, check=True, encoding="utf8").stdout)


def outputs_of(model: str, parameters: Tensor, x: Tensor, outputs: int) -> Tensor:
    """(N, outputs) of the page's models, whose parameters are one vector."""
    if model == "network":
        inputs = x.shape[1]
        first, last = parameters.tensor_split([HIDDEN * (inputs + 1)])
        first, last = first.view(HIDDEN, inputs + 1), last.view(outputs, HIDDEN + 1)
        hidden = torch.tanh(x @ first[:, :-1].T + first[:, -1])
        return hidden @ last[:, 1:].T + last[:, 0]
    ones = torch.ones(len(x), 1, dtype=x.dtype)
    features = {"line": [ones, x], "cubic": [ones, x, x**2, x**3]}[model]
    return torch.cat(features, 1) @ parameters.view(outputs, -1).T


def linked(z: Tensor, head: dict[str, Any]) -> Tensor:
    if head["name"] == "same":
        return z
    if head["name"] == "softplus":
        return head["low"] + torch.logaddexp(z, torch.zeros_like(z))
    return head["low"] + head["width"] * torch.sigmoid(z)


def settings_of(race: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the call. A switch of a parameter that is no bool says whether it is there."""
    kinds = {p["name"]: p["kind"] for p in catalogue()[race["loss"]].parameters}
    found = {name: x if isinstance(x, str) or kinds[name] == "bool" else None for name, x in race["switches"].items()}
    found |= {name: x for name, x in race["given"].items() if name in kinds}
    taken = inspect.signature(getattr(LF, race["loss"])).parameters
    return {
        name: torch.tensor(x, dtype=torch.float64) if kinds[name] == "tensor" and x is not None else x
        for name, x in found.items()
        if name in taken
    }


def of_regression(race: dict[str, Any], points: list[dict[str, Any]]) -> Objective:
    x, y = (torch.tensor([point[key] for point in points], dtype=torch.float64) for key in "xy")
    heads, model = race["described"]["heads"], race["described"]["model"]
    settings, call = settings_of(race), getattr(LF, race["loss"])
    learned = [head["operand"] for head in heads]
    fixed = {name: torch.full_like(y, x) for name, x in race["given"].items() if name not in [*settings, *learned]}

    def loss(parameters: Tensor) -> Tensor:
        found = outputs_of(model, parameters, x.unsqueeze(1), len(heads))
        operands = {name: linked(found[:, k], heads[k]) for k, name in enumerate(learned)}
        return call(**(fixed | operands | {"target": y}), **settings)

    return loss


def of_classes(race: dict[str, Any], points: list[dict[str, Any]]) -> Objective:
    places = torch.tensor([[point["x"], point["y"]] for point in points], dtype=torch.float64)
    labels = torch.tensor([point["label"] for point in points])
    described, call, settings = race["described"], getattr(LF, race["loss"]), settings_of(race)
    model, outputs = described["model"], described["outputs"]
    if described["rows"]:
        return lambda parameters: call(outputs_of(model, parameters, places, outputs), labels, **settings)
    (head,) = described["heads"]
    yes = labels.unsqueeze(1) == (torch.arange(outputs) if outputs > 1 else 1)
    target = torch.where(yes, 1.0, float(described["no"])).double()
    return lambda parameters: call(linked(outputs_of(model, parameters, places, outputs), head), target, **settings)


def of_embeddings(race: dict[str, Any], points: list[dict[str, Any]]) -> Objective:
    described, call, settings = race["described"], getattr(LF, race["loss"]), settings_of(race)
    circle, pairing = described["space"] == "circle", described.get("pairing")
    labels = torch.tensor([point["label"] for point in points])
    half, tuples = len(labels) // 2, torch.tensor(described.get("tuples", [[0, 0]])).unbind(1)
    target = torch.where(labels[tuples[0]] == labels[tuples[1]], 1.0, -1.0).double()

    def loss(parameters: Tensor) -> Tensor:
        places = torch.stack([parameters.cos(), parameters.sin()], 1) if circle else parameters.view(-1, 2)
        if pairing is not None:
            operands = (places, labels) if pairing == "labels" else (places[:half], places[half : 2 * half])
        elif len(tuples) == 3:
            operands = tuple(places[x] for x in tuples)
        elif described["measured"] == ["input"]:
            operands = torch.linalg.vector_norm(places[tuples[0]] - places[tuples[1]], dim=1), target
        else:
            operands = places[tuples[0]], places[tuples[1]], target
        return call(*operands, **settings)

    return loss


LOSSES = {"regression": of_regression, "classes": of_classes, "embeddings": of_embeddings}


def apart(found: Tensor, wanted: list[float]) -> float:
    """The largest difference, relative where numbers are above 1."""
    there = torch.tensor(wanted, dtype=torch.float64)
    return float(((found - there).abs() / there.abs().clamp(min=1.0)).max())


def test_trajectories_are_those_of_losskit(trainings):
    seen = set()
    for training in trainings:
        for race in training["races"]:
            where = f"{training['name']}, {training['settings']['optimizer']}, {race['loss']}"
            parameters = torch.tensor(race["parameters"][0], dtype=torch.float64, requires_grad=True)
            objective = LOSSES[training["mode"]](race, training["points"])
            optimizer = OPTIMIZERS[training["settings"]["optimizer"]]([parameters], lr=training["settings"]["lr"])
            for step, (there, value) in enumerate(zip(race["parameters"], race["history"], strict=True)):
                assert apart(parameters.detach(), there) < CLOSE, f"{where}: parameters of step {step}"
                loss = objective(parameters)
                assert apart(loss.detach(), [value]) < CLOSE, f"{where}: loss of step {step}"
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if race["gone"] is None:
                assert len(race["history"]) == 201, where
            else:
                gone = objective(parameters)
                assert not abs(float(gone.detach())) < 1e12, f"{where}: it did not diverge at step {race['gone']}"
            seen.add((training["mode"], training["settings"]["optimizer"]))
    assert len(seen) == 2 * len(LOSSES)
    assert any(race["gone"] is not None for training in trainings for race in training["races"])
