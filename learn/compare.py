"""Is one model better than another? Their errors on the same images, subtracted image by image.

Two models fail on the same hard images, so the difference of their means is known far better than either mean: the
bootstrap resamples whole sequences (or blocks of frames, as `metrics.groups_of` does) of the paired differences

    d = error of A − error of B   mm, the mean over the joints known to both,

and "better" is said only where the 95 % interval of the mean of d leaves out zero. The interval is over the frames of
one test set; that another seed of the same training may give another model is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import Layout, converted
from .evaluate import Evaluation
from .metrics import Groups, Interval, frame_means, groups_of, interval_of_mean, joint_errors
from .tables import clipped, columns_of

NAME: Final = 30
"""Characters of a model's name in a table."""


LEAST_MM: Final = 0.01
"""A smaller difference is one of arithmetic: the same weights in torch and in onnxruntime."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Poses of one model, or one file, to compare with others on the same images."""

    name: str
    prediction_mm: NDArray[Any]
    """(N, J, 3), NaN where it gave none."""
    truth_mm: NDArray[Any]
    """(N, J, 3), NaN unknown."""


@dataclass(frozen=True, slots=True)
class JointDifference:
    """The difference at one joint."""

    name: str
    difference_mm: float
    interval: Interval

    @property
    def sure(self) -> bool:
        """Whether zero lies outside the interval."""
        return _is_sure(self.difference_mm, self.interval)


@dataclass(frozen=True, slots=True)
class Difference:
    """A against B on the images in which both found a hand."""

    a: str
    b: str
    images: int
    a_mm: float
    """Mean error of A on these images."""
    b_mm: float
    difference_mm: float
    """A − B: below zero where A is better."""
    interval: Interval
    a_better: float
    """Share of the images on which A's error is the smaller one."""
    only_a: int
    """Images in which only A found a hand; they are not compared."""
    only_b: int
    joints: tuple[JointDifference, ...]
    seed: int

    @property
    def sure(self) -> bool:
        """Whether zero lies outside the interval."""
        return _is_sure(self.difference_mm, self.interval)

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.images:
            return "there is no image on which both found a hand"
        if self.interval.groups < 2:
            return "no difference to rely on: all images are of one moment"
        if not self.sure:
            return "no difference to rely on" + ": the interval holds zero" * (abs(self.difference_mm) >= LEAST_MM)
        better, worse = (self.a, self.b) if self.difference_mm < 0 else (self.b, self.a)
        low, high = sorted((abs(self.interval.low), abs(self.interval.high)))
        size = f"{abs(self.difference_mm):.2f} mm ({low:.2f} to {high:.2f})"
        return f"{clipped(better, NAME)} is better than {clipped(worse, NAME)} by {size}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return asdict(self) | {"sure": self.sure, "verdict": self.verdict}

    def lines(self) -> list[str]:
        """What a terminal shows, at most 80 characters a line."""
        i = self.interval
        shown = [
            f"{clipped(self.a, NAME)} minus {clipped(self.b, NAME)}",
            f"  difference       {self.difference_mm:+.3f} mm   {100 * i.level:.0f} % interval "
            f"{i.low:+.2f} to {i.high:+.2f}",
            f"  first is better  on {100 * self.a_better:.1f} % of {self.images} images",
        ]
        if self.only_a or self.only_b:
            shown.append(f"  found by one     {self.only_a} images by the first, {self.only_b} by the second; left out")
        marked = {j.name: f"{j.difference_mm:+.2f}{'*' if j.sure else ' '}" for j in self.joints}
        shown += ["  by joint, mm; * where a joint's own interval leaves out zero", *columns_of(marked)]
        return [*shown, f"  {self.verdict}"]


def compare_evaluations(evaluations: Mapping[str, Evaluation], *, seed: int) -> list[Difference]:
    """The first of several models against each other one; all measured on the same images.

    Raises:
        HandloomError: their joints cannot be compared.
    """
    first, *others = evaluations.values()
    assert all((other.row == first.row).all() and (other.view == first.view).all() for other in others)
    groups = groups_of(first.sequence, first.row)
    found = []
    for other in others:
        layout = _shared(first, other)
        one, two = (
            Compared(e.name, converted(e.prediction_mm, e.layout, layout), converted(e.truth_mm, e.layout, layout))
            for e in (first, other)
        )
        found.append(difference(one, two, joint_names=layout.points, groups=groups, seed=seed))
    return found


def difference(a: Compared, b: Compared, *, joint_names: Sequence[str], groups: Groups, seed: int) -> Difference:
    """Subtract the errors of B from those of A on the images where both have any.

    Args:
        a: the first.
        b: the second, on the same images.
        joint_names: J names.
        groups: of the N images, to resample.
        seed: of the bootstrap.
    """
    errors_a, errors_b = (joint_errors(x.prediction_mm, x.truth_mm) for x in (a, b))
    has_a, has_b = (~np.isnan(errors).all(axis=1) for errors in (errors_a, errors_b))
    known = ~np.isnan(errors_a) & ~np.isnan(errors_b)
    both = np.flatnonzero(known.any(axis=1))
    paired = np.where(known, errors_a - errors_b, np.nan)[both]
    mean_a, mean_b = (frame_means(np.where(known, errors, np.nan)[both]) for errors in (errors_a, errors_b))
    values = mean_a - mean_b
    ids = groups.ids[both]

    def interval(of: NDArray[np.float64]) -> Interval:
        some = ~np.isnan(of)
        return interval_of_mean(of[some], Groups(ids[some], groups.unit), seed=seed)

    nothing = float("nan")
    return Difference(
        a=a.name,
        b=b.name,
        images=len(both),
        a_mm=float(mean_a.mean()) if len(both) else nothing,
        b_mm=float(mean_b.mean()) if len(both) else nothing,
        difference_mm=float(values.mean()) if len(both) else nothing,
        interval=interval(values),
        a_better=float((values < 0).mean() + (values == 0).mean() / 2) if len(both) else nothing,
        only_a=int((has_a & ~has_b).sum()),
        only_b=int((has_b & ~has_a).sum()),
        joints=tuple(
            JointDifference(name, float(frame_means(column[None])[0]), interval(column))
            for name, column in zip(joint_names, paired.T, strict=True)
        ),
        seed=seed,
    )


def _is_sure(difference_mm: float, interval: Interval) -> bool:
    # The interval of a single group is a point: nothing was resampled.
    return interval.groups > 1 and abs(difference_mm) >= LEAST_MM and (interval.low > 0 or interval.high < 0)


def _shared(a: Evaluation, b: Evaluation) -> Layout:
    """The layout in which two models' joints can both be said."""
    if a.layout.name == b.layout.name or b.layout.name == "openxr26":
        return a.layout
    if a.layout.name == "openxr26":
        return b.layout
    raise HandloomError(
        f"The joints of '{a.name}' and '{b.name}' cannot be compared",
        why=f"they predict {a.layout.name} and {b.layout.name}; only openxr26 converts",
    )
