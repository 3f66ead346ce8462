"""A trained model as evaluation, export and figures see it, whatever the method.

A run's `checkpoint.pt` holds three things: `description` (plain values), `weights` (every network of the
method) and `training` (optimisers, step: what a resume needs and a model does not). It holds tensors and
plain values only and is read with `weights_only=True`: loading a model never runs code.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..stores.errors import HandloomError
from ..stores.joints import Layout, layout_named

CHECKPOINT: Final = "checkpoint.pt"
CHECKPOINT_FORMAT: Final = "handloom-checkpoint/1"


@dataclass(frozen=True, slots=True)
class PoseModel:
    """Networks with what is needed to feed them and to read their output."""

    method: str
    preset: str
    arm: str
    layout: Layout
    hand: str
    input_px: int
    """Side P of the input crop."""
    cube_mm: float
    """Side of the cube the crop shows; its depth is (d - centre z) / (cube / 2), +1 where no hand is."""
    net: nn.Module
    """The inference path in eval mode: crops (B, 1, P, P) to joints (B, J, 3), mm relative to the centre."""
    nets: nn.Module
    """All networks of the method, for figures: view decoder, latent features, discriminator."""
    description: Mapping[str, Any]
    """Everything known of the model in plain values: architecture, volume, provenance, step."""

    @torch.no_grad()
    def predict_mm(self, crops: Tensor, *, batch: int = 256) -> Tensor:
        """Joints (B, J, 3), mm about the crop's centre in its camera, of normalised crops (B, 1, P, P)."""
        device = next(self.net.parameters()).device
        parts = [self.net(part.to(device)).cpu() for part in crops.split(batch)]
        return torch.cat(parts) if parts else torch.zeros(0, len(self.layout), 3)


def load_model(run: Path, *, device: str = "cpu") -> PoseModel:
    """The model of a run directory (or of a checkpoint file).

    Raises:
        HandloomError: there is no checkpoint, it is not one of ours, or its parts do not fit together.
    """
    state = read_checkpoint(run)
    try:
        return _model_of(state, device)
    except HandloomError:
        raise
    except Exception as error:  # whatever torch and the networks' makers say to sizes that are none
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise HandloomError(
            "The checkpoint's weights and its description do not fit together", where=str(run), why=why
        ) from error


def _model_of(state: Mapping[str, Any], device: str) -> PoseModel:
    description: dict[str, Any] = state["description"]
    method = method_module(description["method"], description["arm"])
    with torch.device("meta"):  # without memory: a description may speak of networks that nobody could hold
        method.build_nets(description).load_state_dict(state["weights"], assign=True)
    nets = method.build_nets(description)
    nets.load_state_dict(state["weights"])
    nets.to(device).eval()
    return PoseModel(
        method=description["method"],
        preset=description["preset"],
        arm=description["arm"],
        layout=layout_named(description["layout"]),
        hand=description["hand"],
        input_px=description["input_px"],
        cube_mm=description["cube_mm"],
        net=method.pose_net(nets, description).eval(),
        nets=nets,
        description=description,
    )


def method_module(method: str, arm: str = "") -> Any:
    """The module of a method (preview and nearest have their own): `train` says what it offers.

    Raises:
        HandloomError: there is no such method.
    """
    match method, arm:
        case "murauer", "preview":
            from . import preview

            return preview
        case "murauer", _:
            from . import murauer

            return murauer
        case "crossing", "nearest" | "paper-nearest":
            from . import nearest

            return nearest
        case "crossing", _:
            from . import crossing

            return crossing
        case _:
            raise HandloomError(f"Unknown method '{method}'", why="known: murauer, crossing")


def read_checkpoint(run: Path) -> dict[str, Any]:
    """`description`, `weights`, `training` of a run directory or checkpoint file.

    Raises:
        HandloomError: it is missing, damaged or of another kind.
    """
    path = run / CHECKPOINT if run.is_dir() else run
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise HandloomError(
            "There is no trained model here", where=str(path), fix=f"handloom train ... --run {run}"
        ) from error
    except pickle.UnpicklingError as error:
        why = "it holds more than tensors and plain values; such files can run code and are not opened"
        raise HandloomError("The checkpoint cannot be read", where=str(path), why=why) from error
    except Exception as error:  # whatever torch says to bytes that are none of its own
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise HandloomError("The checkpoint cannot be read", where=str(path), why=why) from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise HandloomError("This is not a checkpoint of handloom", where=str(path))
    return state


def write_checkpoint(
    run: Path, *, description: Mapping[str, Any], weights: Mapping[str, Tensor], training: Mapping[str, Any]
) -> None:
    """Replace the run's checkpoint in one step: a kill at any moment leaves the old or the new one."""
    path = run / CHECKPOINT
    beside = path.with_suffix(".writing")
    state = {
        "format": CHECKPOINT_FORMAT,
        "description": json.loads(json.dumps(description)),  # plain values, or it fails here and not on loading
        "weights": dict(weights),
        "training": dict(training),
    }
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
