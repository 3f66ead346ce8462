from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from handloom.learn import batches
from handloom.learn.batches import Bank, Geometry, convert_layout, cut, draw_geometry, label, still
from handloom.learn.sampling import Shuffle, key_of, noise_generator, normal, subset, uniform
from handloom.stores.joints import LAYOUTS, layout_named
from handloom.stores.reading import Resident

CUBE = 300.0
SIDE = 192


def dots(bank: Bank, points: torch.Tensor) -> Bank:
    """The bank with its first crop showing one-pixel dots at the points (n, 3) mm of its camera."""
    fx, fy, cx, cy = bank.k[0].tolist()
    crops = torch.zeros_like(bank.crops[:1])
    for x, y, z in points.tolist():
        u, v = round(fx * x / z + cx), round(fy * y / z + cy)
        if 0 <= u < SIDE and 0 <= v < SIDE:
            crops[0, v, u] = round(z / float(bank.unit_mm[0]))
    return replace(bank, crops=crops)


def seen_points(image: torch.Tensor, center: torch.Tensor, bank: Bank) -> np.ndarray:
    """(n, 3) mm in the rolled camera of the pixels of an input that are not background."""
    px = image.shape[-1]
    fx, fy = bank.k[0, :2].tolist()
    f = px * float(center[2]) / CUBE
    v, u = np.nonzero(image.numpy() < 1)
    z = image.numpy()[v, u] * CUBE / 2 + float(center[2])
    ray_x = (u - (px - 1) / 2) / f + float(center[0] / center[2])
    ray_y = (v - (px - 1) / 2) / (f * fy / fx) + float(center[1] / center[2])
    return np.stack([ray_x * z, ray_y * z, z], axis=1)


@pytest.mark.parametrize(("degrees", "shift"), [(0, (0, 0, 0)), (60, (0, 0, 0)), (-47, (8, -12, 15))])
def test_the_roll_and_the_offset_are_rigid(
    toy: SimpleNamespace, synthetic: Resident, degrees: float, shift: tuple[float, float, float]
) -> None:
    # Points of the scene far off the optical axis: each must be found where the rolled camera would see it.
    bank = toy.bank(synthetic)
    center = bank.center_mm[0] + torch.tensor([120.0, -90.0, 0.0])
    f = SIDE * center[2] / 450
    middle = (SIDE - 1) / 2
    k = torch.stack([f, f * 0.99, middle - f * center[0] / center[2], middle - f * 0.99 * center[1] / center[2]])
    bank = replace(bank, k=torch.cat([k[None], bank.k[1:]]))
    rng = np.random.default_rng(5)
    points = center + torch.from_numpy(rng.uniform(-70, 70, (30, 3))).float()
    bank = dots(bank, points)
    angle = torch.tensor([np.deg2rad(degrees)], dtype=torch.float32)
    geometry = Geometry(angle, (center + torch.tensor(shift))[None])
    images = cut(bank, torch.tensor([0]), geometry, input_px=256, cube_mm=CUBE)
    found = seen_points(images.image[0, 0], images.center_mm[0], bank)
    c, s = np.cos(angle.item()), np.sin(angle.item())
    turned = points.double().numpy() @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    distance = np.linalg.norm(turned[:, None] - found[None], axis=-1).min(axis=1)
    # Half a stored pixel (1.2 mm), half an output pixel (0.6) and half a step of depth, in the plane.
    assert np.median(distance) < 2.0
    assert distance.max() < 3.0


def test_labels_turn_with_the_image(toy: SimpleNamespace, synthetic: Resident) -> None:
    # Joints are the balls' centres: the nearest visible point of an unhidden one is one radius away.
    bank = toy.bank(synthetic)
    crop = bank.singles()[:24]
    geometry = draw_geometry(bank, crop, 3, torch.arange(24), rotation_deg=60)
    images = cut(bank, crop, geometry, input_px=128, cube_mm=CUBE)
    truth = label(bank, crop, geometry, images, cube_mm=CUBE)
    gaps = []
    for i in range(24):
        points = seen_points(images.image[i, 0], images.center_mm[i], bank)
        joints = truth.joints[i, 2:].double().numpy() * CUBE / 2 + images.center_mm[i].double().numpy()
        gaps.append(np.linalg.norm(points[None] - joints[:, None], axis=-1).min(axis=1))
    inside = np.concatenate(gaps)
    assert np.median(inside) < 10.5
    assert np.median(inside) > 7.5


def test_the_authors_rotation_is_not_rigid_off_the_axis(toy: SimpleNamespace, synthetic: Resident) -> None:
    bank = toy.bank(synthetic)
    crop = torch.zeros(400, dtype=torch.int64)
    center = bank.center_mm[crop] + torch.tensor([200.0, 0.0, 0.0])
    bank = replace(bank, joints_mm=bank.joints_mm + torch.tensor([200.0, 0.0, 0.0]))
    geometry = Geometry(torch.linspace(-1.047, 1.047, 400), center)
    images = cut(bank, crop, geometry, input_px=16, cube_mm=CUBE)
    ours = label(bank, crop, geometry, images, cube_mm=CUBE).joints * CUBE / 2
    theirs = label(bank, crop, geometry, images, cube_mm=CUBE, parity=True).joints * CUBE / 2
    rigid = (ours[:, 5] - ours[:, 9]).norm(dim=-1)
    assert torch.allclose(rigid, rigid[:1], atol=1e-2)
    assert 2 < (ours - theirs).norm(dim=-1).mean() < 15
    assert torch.allclose(ours[199:201], theirs[199:201], atol=0.5)


def test_background_missing_and_out_of_cube_are_plus_one(toy: SimpleNamespace, synthetic: Resident) -> None:
    bank = toy.bank(synthetic)
    center = bank.center_mm[0]
    unit = float(bank.unit_mm[0])
    values = torch.tensor([0.0, -149.0, 149.0, -152.0, 152.0, 0.0])
    depth = ((center[2] + values) / unit).round().to(torch.int32)
    depth[5] = 0
    row = torch.zeros_like(bank.crops[:1])
    row[0, :, :] = depth.repeat_interleave(SIDE // 6).to(torch.int16)
    bank = replace(bank, crops=row)
    crop = torch.tensor([0])
    image = cut(bank, crop, still(bank, crop), input_px=192, cube_mm=450.0).image[0, 0, 96]
    sixth = image.reshape(6, 32)[:, 16] * 225
    assert torch.allclose(sixth[:5], values[:5], atol=unit)
    image = cut(bank, crop, still(bank, crop), input_px=192, cube_mm=CUBE).image[0, 0, 96]
    assert image.min() < -0.99
    assert set(image[image.abs() > 0.995].tolist()) <= {1.0}


def test_depths_above_32_767_units_are_not_negative(toy: SimpleNamespace, synthetic: Resident) -> None:
    bank = replace(toy.bank(synthetic), unit_mm=torch.full((144,), 0.01))
    far = replace(bank, crops=torch.from_numpy(np.full((1, SIDE, SIDE), 50_000, np.uint16).view(np.int16)))
    image = cut(far, torch.tensor([0]), still(far, torch.tensor([0])), input_px=16, cube_mm=CUBE).image
    assert torch.allclose(image, (500 - bank.center_mm[0, 2]) / 150, atol=1e-4)


def test_noise_is_white_five_millimetres_on_the_hand_only(toy: SimpleNamespace, synthetic: Resident) -> None:
    bank = toy.bank(synthetic)
    crop = bank.singles()[:48]
    geometry = still(bank, crop)
    clean = cut(bank, crop, geometry, input_px=64, cube_mm=600.0).image
    noisy = cut(
        bank,
        crop,
        geometry,
        input_px=64,
        cube_mm=600.0,
        noise_mm=5.0,
        generator=noise_generator(1, 2, bank.device),
    ).image
    hand = (clean.abs() < 0.8) & (noisy < 1)
    added = (noisy - clean)[hand] * 300.0
    assert abs(float(added.std()) - 5) < 0.15
    assert abs(float(added.mean())) < 0.2
    assert torch.equal(noisy[clean == 1], clean[clean == 1])


def test_offsets_follow_the_source_of_the_centre(toy: SimpleNamespace, captured: Resident, synthetic: Resident) -> None:
    for resident, sigma in ((captured, 15.0), (synthetic, 5.0)):
        bank = toy.bank(resident)
        crop = torch.zeros(20_000, dtype=torch.int64)
        moved = draw_geometry(bank, crop, 7, torch.arange(20_000), rotation_deg=60)
        spread = (moved.center_mm - bank.center_mm[0]).std(dim=0)
        assert torch.allclose(spread, torch.full((3,), sigma), rtol=0.03)
        assert moved.roll_rad.abs().max() < np.deg2rad(60)
        assert abs(moved.roll_rad.std() - np.deg2rad(120) / 12**0.5) < 0.01


def test_missing_images_are_never_drawn(toy: SimpleNamespace) -> None:
    resident = toy.resident(3, 4)
    resident.present[1, 2] = False
    resident.present[3] = False
    bank = toy.bank(resident)
    singles = set(bank.singles().tolist())
    assert singles == set(range(12)) - {5, 9, 10, 11}
    pairs = bank.pairs()
    assert not {5, 9, 10, 11} & set(pairs.reshape(-1).tolist())
    assert len(pairs) == 6 + 2 + 6
    assert bank.singles(torch.tensor([1]), view=1).tolist() == [4]
    assert bank.pairs(torch.tensor([0, 1]), (0, 2)).tolist() == [[0, 2]]


def test_points_of_other_layouts_need_the_joints_they_rest_on(captured: Resident) -> None:
    joints = captured.joints.copy()
    joints[0, 0] = np.nan
    source, target = LAYOUTS["openxr26"], layout_named("nyu14")
    made = convert_layout(joints, source, target)
    expected = np.einsum("pj,tjc->tpc", target.matrix(), captured.joints)
    assert np.allclose(made[1:], expected[1:], atol=1e-3)
    assert np.isnan(made[0, target.palm]).all()
    assert np.isfinite(made[0, 0]).all()


@pytest.mark.parametrize("count", [1, 7, 100, 5000])
def test_every_epoch_gives_each_item_exactly_once(count: int) -> None:
    shuffle = Shuffle(count, key_of(0, "x"), torch.device("cpu"))
    steps = -(-3 * count // 16)
    drawn = torch.cat([shuffle.draw(step, 16) for step in range(steps)])
    epochs = [drawn[e * count : (e + 1) * count] for e in range(3)]
    assert all(sorted(epoch.tolist()) == list(range(count)) for epoch in epochs)
    if count > 7:
        assert not torch.equal(epochs[0], epochs[1])


def test_a_batch_depends_on_its_number_alone() -> None:
    one, two = (Shuffle(300, key_of(4, "x"), torch.device("cpu")) for _ in range(2))
    for step in (0, 1, 900, 17):
        one.draw(step, 16)
    assert torch.equal(one.draw(901, 16), two.draw(901, 16))
    # Two processes with half a batch each draw what one draws.
    halves = torch.cat([two.draw(2 * 50, 8), two.draw(2 * 50 + 1, 8)])
    assert torch.equal(halves, one.draw(50, 16))


def test_hashed_numbers_are_uniform_and_normal() -> None:
    index = torch.arange(50_000)
    u = uniform(key_of("u"), index, 3)
    assert u.min() > 0
    assert u.max() < 1
    counts = torch.histc(u[:, 1], 20, 0, 1)
    assert ((counts - 2500).abs() < 5 * 2500**0.5).all()
    z = normal(key_of("n"), index, 3)
    assert torch.allclose(z.mean(dim=0), torch.zeros(3), atol=0.02)
    assert torch.allclose(torch.cov(z.T), torch.eye(3), atol=0.03)
    again = uniform(key_of("u"), torch.arange(40_000, 50_000), 3)
    assert torch.equal(again, u[40_000:])
    assert (uniform(key_of("v"), index, 1) - u[:, :1]).abs().mean() > 0.3


def test_label_subsets_are_nested() -> None:
    rows = np.arange(10, 210)
    small, large = subset(rows, 10, 3), subset(rows, 50, 3)
    assert set(small) < set(large) < set(rows)
    assert set(subset(rows, 10, 4)) != set(small)


@pytest.mark.parametrize("pooled", [False, True])
def test_images_cut_in_pieces_are_those_of_one_pass(
    toy: SimpleNamespace, synthetic: Resident, monkeypatch: pytest.MonkeyPatch, pooled: bool
) -> None:
    """To the bit, noise and the rows of a rank included."""
    bank = toy.bank(synthetic)
    crop = torch.arange(0, 23) * 5
    geometry = draw_geometry(bank, crop, 3, torch.arange(23), rotation_deg=60)
    stored = bank.crops[crop] if pooled else None
    rows = torch.arange(4, 50, 2)

    def made(piece_px: int) -> torch.Tensor:
        monkeypatch.setattr(batches, "PIECE_PX", piece_px)
        noise = noise_generator(1, 2, bank.device)
        given = {"input_px": 32, "cube_mm": CUBE, "noise_mm": 5.0, "generator": noise, "among": (60, rows)}
        return cut(bank, crop, geometry, stored=stored, **given).image  # type: ignore[arg-type]

    whole = made(10**9)
    assert all(torch.equal(made(pixels), whole) for pixels in (1, 4 * 32**2, 7 * 32**2 + 5))
