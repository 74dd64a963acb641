"""What is trained in the explorer's playground is what losskit and torch.optim train: every preset, every step."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import losskit.functional as LF

EXPLORER = Path(__file__).resolve().parent.parent / "explorer"
BUILT = (EXPLORER / "generated" / "catalogue.js").exists() and shutil.which("node") is not None
pytestmark = pytest.mark.skipif(not BUILT, reason="the explorer is not built")

HIDDEN = 16
CLOSE = 1e-9
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
    """The parameters of the call: numbers, and switches that are parameters of their own."""
    taken = inspect.signature(getattr(LF, race["loss"])).parameters
    given = {name: x for name, x in race["given"].items() if name in race["known"]}
    return {name: x for name, x in {**race["switches"], **given}.items() if name in taken}


def of_regression(race: dict[str, Any], points: list[dict[str, float]], parameters: Tensor) -> Tensor:
    x, y = (torch.tensor([point[key] for point in points], dtype=torch.float64) for key in "xy")
    heads = race["described"]["heads"]
    found = outputs_of(race["described"]["model"], parameters, x.unsqueeze(1), len(heads))
    operands = {head["operand"]: linked(found[:, k], head) for k, head in enumerate(heads)}
    fixed = {name: torch.full_like(y, x) for name, x in race["given"].items() if name not in race["known"]}
    return getattr(LF, race["loss"])(**(fixed | operands | {"target": y}), **settings_of(race))


LOSSES = {"regression": of_regression}


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
            optimizer = OPTIMIZERS[training["settings"]["optimizer"]]([parameters], lr=training["settings"]["lr"])
            for step, (there, value) in enumerate(zip(race["parameters"], race["history"], strict=True)):
                assert apart(parameters.detach(), there) < CLOSE, f"{where}: parameters of step {step}"
                loss = LOSSES[training["mode"]](race, training["points"], parameters)
                assert apart(loss.detach(), [value]) < CLOSE, f"{where}: loss of step {step}"
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if race["gone"] is None:
                assert len(race["history"]) == 201, where
            else:
                gone = LOSSES[training["mode"]](race, training["points"], parameters)
                assert not abs(float(gone.detach())) < 1e12, f"{where}: it did not diverge at step {race['gone']}"
            seen.add((training["mode"], training["settings"]["optimizer"]))
    assert len(seen) == 2 * len(LOSSES)
    assert any(race["gone"] is not None for training in trainings for race in training["races"])
