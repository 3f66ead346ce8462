"""What both methods are told: which data, how crops are augmented, how long and where to train.

Each method derives its own configuration from `TrainConfig` beside the thing it configures
(`murauer.MurauerConfig`, `crossing.CrossingConfig`); a preset is a function that returns a whole one.
All lengths are mm, angles degrees; unknown keys are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Preset = Literal["quick", "fast", "paper"]
Memory = Annotated[int, Field(gt=0)] | Literal["auto"] | None
Flag = bool | Literal["auto"]
Percent = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?%$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an arm cannot do without; checked before the first step (`data.load_training_data`)."""

    synth: bool
    """Labelled synthetic crops."""
    real: bool
    """A real recording, labelled or not."""
    labels: bool = False
    """At least one labelled real frame."""
    twins: bool = False
    """A synthetic twin for labelled real frames, when there are any."""
    pairs: bool = False
    """Frames seen by two cameras, in every recording that is used for it."""


HOW: Final = frozenset({"precision", "channels_last", "graph", "compile"})
"""Keys that say how a step is computed, not what."""


class TrainConfig(BaseModel):
    """The part of a training configuration that does not depend on the method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    """'murauer' or 'crossing'."""
    preset: Preset
    """Sizes and lengths: minutes, hours, or the paper's networks."""
    arm: str
    """Which of the method's experiments: what it learns from and by which terms."""
    seed: int = Field(default=0, ge=0)
    """Seeds the initial weights, every draw and every augmentation."""

    labels: int | Percent | Path | None = Field(default=None, union_mode="left_to_right")
    """How many labelled real frames training may see (drawn by `label_seed`), as a number or as a share of
    those there are ('5%'), or a file with one frame_id a line; None: all there are."""
    label_seed: int = Field(default=0, ge=0)
    """Draws the labelled frames; the subset of a smaller n lies inside that of a larger one."""
    hold_out: int | None = Field(default=None, ge=0)
    """A person (`subject`) of the real recording of whom nothing is seen, labels or images: for leaving one out."""
    unlabelled_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the real training frames whose images may be used without labels."""
    layout: str | None = None
    """Points to predict; None: those of the real labels in use, else of the synthetic ones."""

    input_px: int = Field(default=128, ge=16)
    """Side of the network's square input."""
    cube_mm: float = Field(default=300.0, gt=0)
    """Side of the cube around the hand's centre that the input shows."""
    rotation_deg: float = Field(default=60.0, ge=0, le=180)
    """In-plane rotation, uniform in +- this."""
    offset_true_mm: float = Field(default=5.0, ge=0)
    """Standard deviation, each axis, of the offset of a true or given crop centre."""
    offset_located_mm: float = Field(default=15.0, ge=0)
    """The same where the centre was located, and of synthetic crops when `centers` is 'located'."""
    centers: Literal["auto", "true", "located"] = "auto"
    """Which centres the model will meet; 'auto': those of the real recording, 'true' without one."""
    min_center_score: float = Field(default=0.3, ge=0, le=1)
    """Located crops of the real recording with a lower score are left out, but for those of labels in use; the score
    is the probability that the centre is within 30 mm of the palm."""
    noise_mm: float = Field(default=5.0, ge=0)
    """Standard deviation of the white depth noise."""

    device: str = "auto"
    """'auto' (a CUDA device if there is one), 'cpu', 'cuda', 'cuda:1', ..."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: forward and backward passes under autocast. 'auto': bf16 on a GPU that has it, fp32 on the CPU. This and
    the three below say how a step is computed (`device.py`), may differ on a resume, and change results by rounding."""
    channels_last: Flag = "auto"
    """Channels last in memory; 'auto': as the method is fastest on the CPU."""
    graph: Flag = "auto"
    """A step is replayed as one CUDA graph; 'auto': on a GPU, where one process trains."""
    compile: bool = False
    """The convolutional networks through torch.compile: the first steps take a minute."""
    log_every: int = Field(default=50, ge=1)
    """Steps between two lines of metrics.jsonl: the only ones that wait for the device."""
    tensorboard: bool = False
    """Also write the log as event files into RUN/tensorboard (extra 'tensorboard')."""
    save_every: int = Field(default=1000, ge=1)
    """Steps between two checkpoints; the last step always leaves one."""
    memory_mb: Memory = "auto"
    """Memory for the synthetic images: a larger set is read through a pool of this size, in groups of frames that
    are shuffled; None: all are kept in memory; 'auto': by what is free when the run starts. Of each process, where
    there are several."""
    val_every: int = Field(default=0, ge=0)
    """Steps between two measurements on the validation recording; 0: only at the end."""

    @property
    def needs(self) -> Needs:
        """What this arm cannot do without."""
        raise NotImplementedError
