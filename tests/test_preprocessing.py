"""Whitening is neon's, in any batch, and its statistics survive a round trip."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from allcnn_zoo import CIFAR10, Preprocessor
from allcnn_zoo.errors import CheckpointError, ImageError, UnknownNameError
from allcnn_zoo.preprocessing import WhiteningParameters, digest_of_set, get_preprocessing


@pytest.fixture(scope="module")
def shipped() -> Preprocessor:
    return Preprocessor.shipped()


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    """Of two covariances that differ in their diagonal by a number only one is decomposed."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    real = np.linalg.eigh

    def eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probe = np.random.default_rng(0).normal(size=len(matrix))
        for values, vectors in found:
            moved = values + (np.trace(matrix) - values.sum()) / len(values)
            if np.allclose(vectors @ (moved * (vectors.T @ probe)), matrix @ probe, rtol=1e-9):
                return moved, vectors
        found.append(real(matrix))  # it takes seconds
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.linalg, "eigh", eigh)
        yield


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def reference(batch: np.ndarray, preprocessor: Preprocessor) -> np.ndarray:
    """The definition, in float64, one image at a time."""
    mean, matrix = preprocessor.mean.double().numpy(), preprocessor.matrix.double().numpy()
    out = []
    for image in batch:
        row = image.astype(np.float64).ravel()
        row -= row.mean()
        norm = np.sqrt((row**2).sum()) / 55
        out.append(((row / (norm if norm >= 1e-8 else 1)) - mean) @ matrix)
    return np.array(out).reshape(batch.shape)


def test_it_follows_the_definition(shipped: Preprocessor) -> None:
    constant = np.array([0, 7, 255], np.uint8)[:, None, None, None]  # without contrast
    batch = np.concatenate([images(8), np.broadcast_to(constant, (3, 3, 32, 32))])
    result = shipped(torch.from_numpy(batch))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, reference(batch, shipped), atol=1e-4)


def test_it_is_neons_own(shipped: Preprocessor, shared) -> None:
    given = np.load(shared / "neon" / "whitened64.npz")
    result = shipped(torch.from_numpy(given["images"]))
    np.testing.assert_allclose(result, given["whitened"], atol=1e-4)


def test_its_elder_is_that_of_neon_before_1_5(shared) -> None:
    given = np.load(shared / "neon" / "whitened64_before_1_5.npz")
    elder = get_preprocessing("cifar10_gcn_zca_unregularized")
    result = elder(torch.from_numpy(given["images"]))
    np.testing.assert_allclose(result, given["whitened"], atol=1e-4)
    assert elder.fitted_with.zca_bias == 0
    assert elder.fitted_with.data_sha256 == Preprocessor.shipped().fitted_with.data_sha256


def test_a_direction_without_variance_is_dropped_instead_of_divided_by() -> None:
    fitted = Preprocessor.fit(images(16), WhiteningParameters(zca_bias=0))
    assert fitted.matrix.isfinite().all()
    whitened = fitted(torch.from_numpy(images(16))).flatten(1).double()
    spread = torch.linalg.svdvals(whitened - whitened.mean(0))[:15]
    torch.testing.assert_close(spread, torch.full((15,), 15.0).double().sqrt(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [(np.repeat(images(1), 4, axis=0), "nothing to whiten"), (images(1), "N > 1")],
)
def test_images_from_which_nothing_can_be_learned_are_refused(pixels, message) -> None:
    with pytest.raises(ImageError, match=message):
        Preprocessor.fit(pixels, WhiteningParameters(zca_bias=0))


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10_gcn_zca'"):
        get_preprocessing("cifar10_gcn")


def test_the_size_of_a_batch_its_layout_and_autocast_change_nothing(shipped) -> None:
    batch = torch.from_numpy(images(2))
    expected = shipped(batch)
    torch.testing.assert_close(shipped(batch[0]), expected[0], atol=1e-5, rtol=0)
    assert shipped(batch[:0]).shape == (0, 3, 32, 32)
    result = shipped(batch.to(memory_format=torch.channels_last))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(shipped(batch), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(1, 3, 32, 32), "float32"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), r"\(3, 28, 28\)"),
        (torch.zeros(1, 32, 32, 3, dtype=torch.uint8), r"\(1, 32, 32, 3\)"),
        (torch.zeros(32, 32, dtype=torch.uint8), r"\(32, 32\)"),
        (torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8), r"\(1, 1, 3, 32, 32\)"),
        (images(2), r"not a ndarray: .* torch\.from_numpy"),
    ],
)
def test_other_inputs_are_refused_with_what_they_are(shipped, wrong, message) -> None:
    with pytest.raises(ImageError, match=message):
        shipped(wrong)


@pytest.fixture(scope="module")
def fitted() -> Preprocessor:
    return Preprocessor.fit(images(16))


def test_the_zca_matrix_is_the_inverse_square_root_of_the_covariance(fitted: Preprocessor) -> None:
    rows = images(16).reshape(16, -1).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) / 55
    np.testing.assert_allclose(fitted.mean, rows.mean(0), atol=1e-5)
    rows -= rows.mean(0)
    matrix = fitted.matrix.double().numpy()
    probe = np.random.default_rng(1).normal(size=(3072, 4))
    covariance_times_probe = rows.T @ (rows @ probe) / 15
    result = matrix @ (matrix @ (covariance_times_probe + 0.1 * probe))
    np.testing.assert_allclose(result, probe, atol=1e-2)


def test_statistics_survive_a_round_trip(fitted: Preprocessor, tmp_path) -> None:
    fitted.save(tmp_path / "statistics.safetensors")
    read = Preprocessor.load(tmp_path / "statistics.safetensors")
    assert read.fitted_with == fitted.fitted_with
    batch = torch.from_numpy(images(4, seed=1))
    torch.testing.assert_close(read(batch), fitted(batch), atol=1e-5, rtol=0)


def test_the_digest_names_the_set_of_images_and_not_their_order(fitted: Preprocessor) -> None:
    pixels = images(16).reshape(16, -1)
    assert digest_of_set(pixels[::-1]) == digest_of_set(pixels) == fitted.fitted_with.data_sha256
    assert digest_of_set(images(16, seed=1).reshape(16, -1)) != digest_of_set(pixels)


def test_the_shipped_statistics_say_what_they_are(shipped: Preprocessor) -> None:
    assert shipped.fitted_with.count == 50_000
    assert shipped.fitted_with.gcn_scale == 55
    assert shipped.fitted_with.zca_bias == 0.1
    assert torch.equal(shipped.matrix, shipped.matrix.T)


def test_the_shipped_statistics_are_those_of_the_real_training_images(real_cifar10) -> None:
    pixels = CIFAR10(real_cifar10).train.images.reshape(-1, 3072)
    assert digest_of_set(pixels) == Preprocessor.shipped().fitted_with.data_sha256


def test_a_file_of_another_program_is_refused_with_the_remedy(tmp_path) -> None:
    path = tmp_path / "statistics.safetensors"
    path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match=r"statistics\.safetensors: .*whiten fit"):
        Preprocessor.load(path)
