"""What every recording promises, rendered, captured or imported: subclass and give the path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handloom.stores.camera import project
from handloom.stores.crops import normalise
from handloom.stores.reading import Resident, load_resident
from handloom.stores.recording import NO_PART, Recording, describe, open_recording


class RecordingConformance:
    """One suite for all recordings; `path` is a recording whose hand has been located."""

    @pytest.fixture
    def path(self) -> Path:
        raise NotImplementedError

    @pytest.fixture
    def recording(self, path: Path) -> Recording:
        return open_recording(path)

    @pytest.fixture
    def resident(self, recording: Recording) -> Resident:
        return load_resident(recording)

    def test_it_says_what_it_is(self, recording: Recording) -> None:
        assert recording.kind in ("synthetic", "captured")
        assert recording.hand in ("right", "left")
        assert recording.provenance
        facts = describe(recording)
        assert facts["frames"] == recording.n_frames > 0
        assert facts["images"] > 0

    def test_tables_have_the_same_rows(self, recording: Recording) -> None:
        assert recording.frames is not None
        for table in (recording.crops, recording.labels):
            assert table is None or table.committed == recording.n_frames
        for table in (recording.frames, recording.crops, recording.labels):
            for name, column in table.columns.items() if table else ():
                values = table.read(name, 0, 2)
                assert values.shape == (min(2, recording.n_frames), *column.shape)
                assert values.dtype == column.dtype

    def test_frame_ids_are_unique(self, resident: Resident) -> None:
        assert len(np.unique(resident.frame_id)) == len(resident)

    def test_a_dropped_image_has_no_time_and_no_pixels(self, recording: Recording) -> None:
        frames = recording.frames
        assert frames is not None
        dropped = frames.read("present") == 0
        for name in ("t_device_ns", "t_host_ns", "frame_number"):
            assert (frames.read(name)[dropped] == -1).all()
        if recording.has_depth:
            for view, camera in enumerate(recording.rig.cameras):
                depth = frames.read(f"depth/{camera.name}")
                assert not depth[dropped[:, view]].any()
                assert depth[~dropped[:, view]].any((1, 2)).all()

    def test_the_centre_lies_in_the_middle_of_its_crop(self, resident: Resident) -> None:
        size = resident.crop.shape[-1]
        middle = project(resident.center[resident.present], resident.k[resident.present])
        assert resident.present.any()
        assert middle == pytest.approx((size - 1) / 2, abs=0.05)

    def test_the_hand_fills_part_of_its_cube(self, resident: Resident) -> None:
        unit = resident.depth_unit_mm
        for view in range(resident.crop.shape[1]):
            rows = np.flatnonzero(resident.present[:, view])
            depth = resident.crop[rows, view] * unit[view]
            cube = normalise(depth, resident.center[rows, view, 2], 300.0)
            share = (cube < 1).mean((1, 2))
            assert np.median(share) > 0.02
            assert share.max() < 0.95

    def test_crops_show_what_the_frames_show(self, recording: Recording, resident: Resident) -> None:
        if not recording.has_depth:
            pytest.skip("this recording keeps no full frames")
        from handloom.stores.crops import take_crop

        assert recording.frames is not None
        for view, camera in enumerate(recording.rig.cameras):
            row = int(np.flatnonzero(resident.present[:, view])[0])
            depth = recording.frames.read(f"depth/{camera.name}", row, row + 1)[0]
            crop, k = take_crop(depth, camera.k, resident.center[row, view])
            assert k == pytest.approx(resident.k[row, view], rel=1e-4, abs=1e-2)
            assert (crop == resident.crop[row, view]).mean() > 0.999

    def test_labelled_joints_lie_near_the_surface(self, recording: Recording, resident: Resident) -> None:
        if resident.joints is None or resident.layout is None:
            pytest.skip("this recording has no labels")
        palm = resident.joints[:, resident.layout.palm]
        known = np.isfinite(palm).all(1)
        for view, camera in enumerate(recording.rig.cameras):
            rows = np.flatnonzero(known & resident.present[:, view])
            away = np.linalg.norm(camera.to_camera(palm[rows]) - resident.center[rows, view], axis=1)
            assert np.median(away) < 60

    def test_parts_mark_the_hands_pixels(self, recording: Recording) -> None:
        parted = load_resident(recording, parts=True)
        if parted.parts is None:
            pytest.skip("this recording has no bone masks")
        assert ((parted.parts < 27) | (parted.parts == NO_PART)).all()
        assert (parted.parts != NO_PART).any((2, 3)).all()

    def test_a_second_reading_is_the_same(self, recording: Recording, resident: Resident) -> None:
        rows = np.arange(0, len(resident), 2)
        half = load_resident(recording, rows=rows)
        assert (half.crop == resident.crop[rows]).all()
        assert (half.frame_id == resident.frame_id[rows]).all()
