"""A model's error on a recording, said together with all that it depends on.

Both kinds of model are measured through one door, the trained one by torch and the exported one by
onnxruntime, on what `predict` would see: full frames where the recording has them, else its crops. With
`center="truth"` the crop is cut around the true palm, once (the protocol of the data sets); with "located"
around the stored centre and once more around the predicted palm, as in use. Images whose hand was not found
count as failures of the success curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import Layout, converted
from ..stores.recording import Recording
from .estimators import MeanPose, TorchEstimator, said_of
from .held_out import held_out_notes, subject_names, subject_numbers
from .inputs import DepthView, recording_views
from .metrics import Metrics, measure
from .predict import PASSES, Estimator
from .predictions import predict_all, rows_of, stored_centers

CHOSEN_BY: Final = "no frames: the last step of the run"
"""How a run's checkpoint is chosen."""
VIEW_PAIRS: Final = 240
"""Pairs of views on which view prediction is measured: it decodes whole images."""
Center = Literal["truth", "located"]
CENTER_SAID: Final[Mapping[Center, str]] = {"truth": "gt", "located": "predicted"}
"""As papers say it."""


def mean_pose(recording: Recording, rows: NDArray[np.int64] | None = None) -> MeanPose:
    """The mean of a recording's labels over rows (n,) and cameras, about the palm: what a model has to beat.

    Raises:
        HandloomError: it has no labels.
    """
    joints, layout = _labels(recording)
    chosen = joints if rows is None else joints[rows]
    relative = chosen - chosen[:, layout.palm : layout.palm + 1]
    turned = np.concatenate([relative @ camera.rotation.T for camera in recording.rig.cameras])
    known = np.isfinite(turned).all(axis=-1, keepdims=True)
    mean = np.where(known, turned, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return MeanPose(layout, recording.hand, mean.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The errors of one model on one set of images, and what they depend on."""

    name: str
    recording: Mapping[str, str]
    """Its path, uuid and kind."""
    split: str
    subjects: tuple[str, ...]
    """The people asked for; empty: all."""
    cameras: tuple[str, ...]
    """Those looked at; empty: all."""
    center: Center
    passes: int
    """Crops an image: 2 means once more around the predicted palm."""
    layout: Layout
    n_labels: int | None
    """Labelled real frames the model learned from; None where it does not say."""
    label_seed: int | None
    """Drew those frames."""
    chosen_by: str
    """Which frames chose this model among others; never the test frames."""
    metrics: Metrics
    view_mae: float | None
    """Mean absolute error of predicted second views (`learn/views.py`); None for models that predict none."""
    notes: tuple[str, ...]
    prediction_mm: NDArray[np.float32] = field(repr=False)
    """(N, J, 3) in each image's camera, NaN where no hand was found."""
    truth_mm: NDArray[np.float32] = field(repr=False)
    """(N, J, 3) likewise, NaN unknown."""
    center_mm: NDArray[np.float32] = field(repr=False)
    """(N, 3) of the last crop."""
    row: NDArray[np.int64] = field(repr=False)
    """(N,) row of the recording."""
    view: NDArray[np.int64] = field(repr=False)
    """(N,) its camera."""
    sequence: NDArray[np.int32] = field(repr=False)
    """(N,) of the frame."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the poses, for --json and for files."""
        return {
            "name": self.name,
            "recording": dict(self.recording),
            "split": self.split,
            "subjects": list(self.subjects),
            "cameras": list(self.cameras),
            "center": CENTER_SAID[self.center],
            "passes": self.passes,
            "layout": self.layout.name,
            "n_labels": self.n_labels,
            "label_seed": self.label_seed,
            "chosen_by": self.chosen_by,
            "view_mae": self.view_mae,
            "notes": list(self.notes),
            "metrics": self.metrics.to_dict(),
        }

    def lines(self) -> list[str]:
        """The summary a terminal shows; names and paths aside, at most 80 characters a line."""
        return [
            f"{self.name} on {self.title()}",
            *self.metrics.lines(),
            *([] if self.view_mae is None else [f"predicted views    {self.view_mae:.3f} mean absolute error"]),
            *self.circumstances(),
            *self.notes,
        ]

    def title(self) -> str:
        """The recording and which of its frames."""
        who = "".join(f", subject {name}" for name in self.subjects)
        what = f", {' and '.join(self.cameras)} only" if self.cameras else ""
        return f"{self.recording['path']}, {self.split} frames{who}{what}"

    def circumstances(self) -> list[str]:
        """What no error can be read without."""
        again = "s" * (self.passes > 1)
        return [
            f"center = {CENTER_SAID[self.center]} ({self.center}), {self.passes} crop{again} an image; "
            f"labels = {labels_said(self.n_labels, self.label_seed)}",
            f"chosen by {self.chosen_by}",
        ]


def label_seed_of(config: Mapping[str, Any]) -> int | None:
    """The seed that drew a training's labels, where one did: not where all were used, or those of a file."""
    labels = config.get("labels")
    drawn = isinstance(labels, int) or (isinstance(labels, str) and labels.endswith("%"))
    return config.get("label_seed") if drawn else None


def labels_said(n_labels: int | None, label_seed: int | None) -> str:
    """How many labelled real frames a model learned from, and what drew them."""
    if n_labels is None:
        return "unknown"
    return f"{n_labels}" if label_seed is None else f"{n_labels} (drawn by seed {label_seed})"


def evaluate_model(
    estimator: Estimator,
    recording: Recording,
    *,
    seed: int,
    name: str = "model",
    center: Center = "located",
    split: str = "test",
    rows: Sequence[int] | NDArray[np.int64] | None = None,
    views: Sequence[int] | None = None,
    subjects: Sequence[str] = (),
    passes: int | None = None,
) -> Evaluation:
    """How far a model's poses are from a recording's labels, by joint, camera, person and sequence, with an interval.

        measured = evaluate_model(open_estimator("runs/full"), handloom.open_recording("R.zarr"), seed=0)
        print(measured.metrics.text())   # 12.69 ± 1.39 mm

    Args:
        estimator: a run or an exported model, opened by `handloom.learn.estimators.open_estimator`.
        recording: labelled; its labels are only compared with.
        seed: of the bootstrap.
        name: that the result bears.
        center: 'truth' cuts around the true palm, 'located' around the stored centre.
        split: 'train', 'val', 'test' or 'all'.
        rows: (n,) rows of the recording, instead of a split.
        views: cameras by number; None takes all.
        subjects: people by name or number; empty takes all.
        passes: crops an image; None: 1 for 'truth', 2 for 'located'.

    Raises:
        HandloomError: as `evaluate_models`.
    """
    found = evaluate_models(
        {name: estimator},
        recording,
        seed=seed,
        center=center,
        split=split,
        rows=rows,
        views=views,
        subjects=subjects,
        passes=passes,
    )
    return found[name]


def evaluate_models(
    estimators: Mapping[str, Estimator],
    recording: Recording,
    *,
    seed: int,
    center: Center = "located",
    split: str = "test",
    rows: Sequence[int] | NDArray[np.int64] | None = None,
    views: Sequence[int] | None = None,
    subjects: Sequence[str] = (),
    passes: int | None = None,
) -> dict[str, Evaluation]:
    """Measure models on the same images of a labelled recording, which is read once.

    Args:
        estimators: the models by name.
        recording: labelled; its labels are only compared with.
        seed: of the bootstrap.
        center: 'truth' cuts around the true palm, 'located' around the stored centre.
        split: 'train', 'val', 'test' or 'all'.
        rows: (n,) rows of the recording, instead of a split.
        views: cameras by number; None takes all.
        subjects: people by name or number; empty takes all.
        passes: crops an image; None: 1 for 'truth', 2 for 'located'.

    Raises:
        HandloomError: there are no labels, no such frames or people, no located centres, or other joints.
    """
    joints, layout = _labels(recording)
    people = subject_numbers(recording, subjects)
    chosen = rows_of(recording, split, rows, subjects=people)
    if center == "located":
        _check_located(recording, chosen)
    passes = passes or (1 if center == "truth" else PASSES)
    shown = {name: _compared(name, e.layout, layout) for name, e in estimators.items()}
    places = partial(_true_centers, joints=joints, layout=layout) if center == "truth" else stored_centers
    predicted = predict_all(estimators, recording, chosen, views=views, passes=passes, centers=places)
    row_, view_ = predicted.row, predicted.view
    frames = recording.frames
    assert frames is not None
    truth = _in_cameras(joints, recording, row_, view_)
    if center == "truth":
        truth[~np.isfinite(truth[:, layout.palm]).all(axis=-1)] = np.nan  # no palm, no true crop
    sequence, subject = (frames.read(column)[row_] for column in ("sequence", "subject"))
    names = subject_names(recording)
    by = {
        "view": np.array(recording.rig.names)[view_],
        "subject": np.array([names[who] for who in subject.tolist()]),
        "sequence": sequence,
    }
    return {
        name: _evaluation(
            name,
            estimator,
            recording,
            split=split if rows is None else f"{len(chosen)} chosen",
            people=people,
            cameras=() if views is None else tuple(recording.rig.names[v] for v in views),
            center=center,
            passes=passes,
            layout=shown[name],
            seed=seed,
            prediction_mm=converted(predicted.joints_mm[name], estimator.layout, shown[name]),
            truth_mm=converted(truth, layout, shown[name]),
            center_mm=predicted.center_mm[name],
            row=row_,
            view=view_,
            sequence=sequence,
            by=by,
        )
        for name, estimator in estimators.items()
    }


def _evaluation(
    name: str,
    estimator: Estimator,
    recording: Recording,
    *,
    seed: int,
    layout: Layout,
    split: str,
    people: Sequence[int],
    sequence: NDArray[np.int32],
    by: Mapping[str, NDArray[Any]],
    prediction_mm: NDArray[np.float32],
    truth_mm: NDArray[np.float32],
    row: NDArray[np.int64],
    **rest: Any,
) -> Evaluation:
    said = said_of(estimator)
    real = (said.get("sources") or {}).get("real") or {}
    notes = []
    held_out = (said.get("config") or {}).get("hold_out")
    unseen = len(people) > 0 and all(who == held_out for who in people)
    if real.get("uuid") == recording.uuid and split not in ("test", "val") and not unseen:
        notes.append("warning: the model was trained on frames of this recording; use its test frames")
    notes += held_out_notes(said, recording, people)
    metrics = measure(
        prediction_mm, truth_mm, joint_names=layout.points, seed=seed, sequence=sequence, order=row, by=by
    )
    if metrics.missed:
        notes.append(f"{metrics.missed} of {metrics.images} images without a hand found: failures of the curve")
    looked = isinstance(estimator, MeanPose)
    return Evaluation(
        name=name,
        recording={"path": str(recording.path), "uuid": recording.uuid, "kind": recording.kind},
        split=split,
        subjects=tuple(subject_names(recording)[n] for n in people),
        layout=layout,
        n_labels=said.get("n_labels"),
        label_seed=label_seed_of(said.get("config") or {}),
        chosen_by="nothing: it is constant" if looked else CHOSEN_BY,
        metrics=metrics,
        view_mae=view_error(estimator, recording, np.unique(row)),
        notes=tuple(notes),
        prediction_mm=prediction_mm,
        truth_mm=truth_mm,
        row=row,
        sequence=sequence,
        **rest,
    )


def view_error(estimator: Estimator, recording: Recording, rows: NDArray[np.int64]) -> float | None:
    """The mean absolute error of predicted views on some of the rows (n,), evenly spread, around the stored centres."""
    if not isinstance(estimator, TorchEstimator) or recording.n_views < 2:
        return None
    from .views import predict_views, predicts_views

    if not predicts_views(estimator.model):
        return None
    count = max(1, VIEW_PAIRS // (recording.n_views * (recording.n_views - 1)))
    some = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    try:
        return predict_views(estimator.model, recording, rows[some]).mae
    except HandloomError:
        return None  # trained on one pair of cameras that this rig does not have


def _labels(recording: Recording) -> tuple[NDArray[np.float32], Layout]:
    """(T, J, 3) mm in the rig, and their layout."""
    if recording.labels is None or recording.layout is None:
        raise HandloomError(
            "The recording has no labels to compare with",
            where=str(recording.path),
            fix=f"handloom store label {recording.path} --joints joints.csv",
        )
    return recording.labels.read("joints"), recording.layout


def _check_located(recording: Recording, rows: NDArray[np.int64]) -> None:
    """Stored centres that are true must not pass for located ones."""
    if recording.crops is None:
        return
    source = recording.crops.read("center_source")
    if (source[rows[rows < len(source)]] == 1).any():
        raise HandloomError(
            "The recording's centres are true ones, not located",
            where=str(recording.path),
            fix=f"--center truth, or find the hand without labels: handloom capture locate {recording.path}",
        )


def _true_centers(
    batch: Sequence[tuple[int, DepthView]], joints: NDArray[np.float32], layout: Layout
) -> NDArray[np.float64]:
    return np.array([view.camera.to_camera(joints[row, layout.palm]) for row, view in batch])


def _in_cameras(
    joints: NDArray[np.float32], recording: Recording, row: NDArray[np.int64], view: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(N, J, 3) mm in each image's camera."""
    truth = np.empty((len(row), *joints.shape[1:]), np.float32)
    for v, camera in enumerate(recording.rig.cameras):
        truth[view == v] = camera.to_camera(joints[row[view == v]])
    return truth


def _compared(name: str, predicted: Layout, labelled: Layout) -> Layout:
    """The layout in which a model's joints and the labels can be compared."""
    if predicted.name == labelled.name or labelled.name == "openxr26":
        return predicted
    if predicted.name == "openxr26":
        return labelled
    raise HandloomError(
        f"The joints of '{name}' and of the labels cannot be compared",
        why=f"the model predicts {predicted.name}, the labels are {labelled.name}; only openxr26 converts",
        fix=f"evaluate a model trained with --layout {labelled.name}",
    )


def crops_of(
    evaluation: Evaluation, recording: Recording, images: Sequence[int], *, input_px: int, cube_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Crops (n, P, P) around some images' true palms and their K (n, 4), to draw skeletons on.

    Args:
        evaluation: whose numbering `images` follows.
        recording: the one evaluated.
        images: places in the evaluation's arrays.
        input_px: side of the crops.
        cube_mm: what they show.
    """
    centers = evaluation.truth_mm[list(images), evaluation.layout.palm].astype(np.float64)
    return _cut_at(centers, evaluation, recording, images, input_px=input_px, cube_mm=cube_mm)


def images_of(
    evaluation: Evaluation, recording: Recording, images: Sequence[int], *, input_px: int, cube_mm: float
) -> NDArray[np.float32]:
    """What the network saw of some images at last (n, P, P); not mirrored for the other hand. As `crops_of`."""
    centers = evaluation.center_mm[list(images)].astype(np.float64)
    return _cut_at(centers, evaluation, recording, images, input_px=input_px, cube_mm=cube_mm)[0]


def _cut_at(
    centers_mm: NDArray[np.float64],
    evaluation: Evaluation,
    recording: Recording,
    images: Sequence[int],
    *,
    input_px: int,
    cube_mm: float,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    from ..stores.crops import crop_k
    from .inputs import cut

    crops, ks = [], []
    for i, center in zip(images, centers_mm, strict=True):
        row, number = int(evaluation.row[i]), int(evaluation.view[i])
        view = next(v for _, v in recording_views(recording, row, row + 1) if v.view == number)
        crops.append(cut(view, center, input_px=input_px, cube_mm=cube_mm))
        ks.append(crop_k(center, view.k, crop_px=input_px, window_mm=cube_mm))
    return np.array(crops), np.array(ks)
