"""Data sets for evaluation: severities of CIFAR-C and ImageNet-C, normalisation of the run, refusals."""

import re

import numpy as np
import pytest
import torch
from support.made_data import pictures, write_cifar_c, write_imagenet_c, write_pets
from support.runs import compose_bare, compose_diabetes, compose_tiny

from fsamlab.config import ConfigError, CorruptedConfig, DataConfig, ImageFolderConfig
from fsamlab.config.corrupted import EXTRA, STANDARD
from fsamlab.data import Data, build_data
from fsamlab.data.evaluation import Trained, evaluation_parts
from fsamlab.data.in_memory import Images, InMemoryEval
from fsamlab.storage.reading import Damaged

CPU = torch.device("cpu")
LIKE_CIFAR = ("data.image_size=32", "data.channels=3", "data.mean=[0.5,0.4,0.3]", "data.std=[0.1,0.2,0.3]")


def trained(*overrides, compose=compose_tiny):
    cfg = compose(*overrides).data
    return Trained(build_data(cfg, 0, CPU, cfg.root), cfg, 0)


def opened(cfg, of, root):
    return {name: list(opener()) for name, opener in evaluation_parts(cfg, of, CPU, root).items()}


def refusal(cfg, of, root, kind=ConfigError):
    with pytest.raises(kind) as e:
        opened(cfg, of, root)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_the_severities_of_cifar_c_are_the_blocks_of_its_files_normalised_as_in_training(tmp_path):
    labels = write_cifar_c(tmp_path / "CIFAR-10-C", STANDARD[:2], per_severity=7)
    cfg = CorruptedConfig(name="cifar10c", root=".", eval_batch_size=3, corruptions=list(STANDARD[:2]))
    found = opened(cfg, trained(*LIKE_CIFAR), tmp_path)
    assert list(found) == list(STANDARD[:2])
    for name, parts in found.items():
        raw = np.load(tmp_path / "CIFAR-10-C" / f"{name}.npy")
        assert len(parts) == 5
        for number, part in enumerate(parts):
            batches = list(part.source.batches())
            assert [len(b) for b in batches] == [3, 3, 1]
            pixels = raw[7 * number : 7 * (number + 1)].transpose(0, 3, 1, 2) / 255
            expected = (pixels - np.array([0.5, 0.4, 0.3])[:, None, None]) / np.array([0.1, 0.2, 0.3])[:, None, None]
            np.testing.assert_allclose(torch.cat([b.images for b in batches]).numpy(), expected, atol=2e-6)
            assert torch.cat([b.labels for b in batches]).tolist() == labels.tolist()


def test_extra_corruptions_are_evaluated_where_they_are_there(tmp_path):
    write_cifar_c(tmp_path / "CIFAR-10-C", (*STANDARD, EXTRA[0]), per_severity=1)
    cfg = CorruptedConfig(name="cifar10c", root=str(tmp_path))
    assert list(cfg.found(tmp_path)) == [*STANDARD, EXTRA[0]]
    (tmp_path / "CIFAR-10-C" / "fog.npy").unlink()
    with pytest.raises(ConfigError, match=r"cifar10c: fog not found in .*/CIFAR-10-C/, which must hold CORR"):
        cfg.found(tmp_path)
    (tmp_path / "CIFAR-10-C" / "labels.npy").unlink()
    with pytest.raises(ConfigError, match=r"labels.npy, fog not found"):
        cfg.found(tmp_path)
    with pytest.raises(ConfigError, match=r"gaussian_noise, shot_noise, impulse_noise and 12 more not found"):
        CorruptedConfig(name="imagenet_c").found(tmp_path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:999]), r"fog.npy cannot be read as an array of numpy"),
        (lambda f: f.write_bytes(b""), r"fog.npy cannot be read as an array of numpy"),
        (lambda f: np.save(f, np.zeros((10, 32, 32, 3), np.float32)), r"has the form float32 \(10, 32, 32, 3\)"),
        (lambda f: np.save(f, np.zeros((10, 3072), np.uint8)), r"has the form uint8 \(10, 3072\)"),
        (lambda f: np.save(f, np.zeros((9, 32, 32, 3), np.uint8)), r"has 9 images and labels.npy has 10 labels"),
        (lambda f: np.save(f, np.array([{}])), r"fog.npy cannot be read as an array of numpy"),
        (lambda f: np.save(f.parent / "labels.npy", np.arange(10)), r"labels.npy must hold the labels of the test set"),
        (
            lambda f: np.save(f.parent / "labels.npy", np.full(10, 10)),
            r"the labels of the test set, 0 to 9, five times",
        ),
        (lambda f: np.save(f.parent / "labels.npy", np.zeros(10)), r"the labels of the test set, 0 to 9, five times"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, said):
    write_cifar_c(tmp_path / "CIFAR-10-C", ["fog"], per_severity=2)
    damage(tmp_path / "CIFAR-10-C" / "fog.npy")
    cfg = CorruptedConfig(name="cifar10c", root=".", corruptions=["fog"])
    line = refusal(cfg, trained(*LIKE_CIFAR), tmp_path, Damaged)
    assert re.search(said, line)
    assert line.endswith("unpack the archive again")


def test_what_does_not_fit_the_network_is_refused(tmp_path):
    for folder in ("CIFAR-10-C", "CIFAR-100-C"):
        write_cifar_c(tmp_path / folder, ["fog"], per_severity=1)
    ten, hundred = (CorruptedConfig(name=f"cifar{n}c", root=".", corruptions=["fog"]) for n in (10, 100))
    words = "cifar100c: has 100 classes; the run was trained on synthetic with 10"
    assert words in refusal(hundred, trained(*LIKE_CIFAR), tmp_path)
    words = "cifar10c: has images of 3x32x32; the run was trained on synthetic with images of 1x8x8"
    assert words in refusal(ten, trained(), tmp_path)
    words = "cifar10c: has classes; the run was trained on diabetes, a regression"
    assert words in refusal(ten, trained(compose=compose_diabetes), tmp_path)


def test_imagenet_c_is_seen_at_the_size_of_the_run_and_in_its_order_of_classes(tmp_path):
    pictures(tmp_path / "run", train=6, val=2)
    words = ("data=image_folder", "data.mean=[0.5]", "data.std=[0.25]", f"data.root={tmp_path / 'run'}")
    size = ("data.image_size=8", "data.resize=9", "data.batch_size=2", "data.num_workers=0")
    cfg = compose_bare(*words, *size).data
    of = Trained(build_data(cfg, 0, CPU, tmp_path), cfg, 0)
    write_imagenet_c(tmp_path / "c", ["fog"])
    write_imagenet_c(tmp_path / "c", ["snow"], group="weather")
    corrupted = CorruptedConfig(name="imagenet_c", root=str(tmp_path / "c"), corruptions=["fog", "snow"])
    found = opened(corrupted, of, tmp_path)
    assert [len(parts) for parts in found.values()] == [5, 5]
    (batch,) = found["snow"][2].source.batches()
    assert (batch.images.shape, batch.labels.tolist()) == ((4, 3, 8, 8), [0, 0, 1, 1])
    # the validation folder of any other set, which needs no training part
    folder = ImageFolderConfig(name="image_folder", root=str(tmp_path / "run"))
    (batch,) = opened(folder, of, tmp_path)[""][0].source.batches()
    (own,) = of.data.test.batches()
    assert torch.equal(batch.images, own.images)
    write_imagenet_c(tmp_path / "other", ["fog"], classes=("cat", "dragon"))
    other = CorruptedConfig(name="imagenet_c", root=str(tmp_path / "other"), corruptions=["fog"])
    assert "has other class folders than image_folder of the run: 'dragon' where the run has 'dog'" in refusal(
        other, of, tmp_path
    )


def test_a_set_with_label_files_has_its_test_part_at_the_size_of_the_run(tmp_path):
    write_pets(tmp_path, num=(8, 4))
    words = ("data=oxford_pets", "data.mean=[0.5]", "data.std=[0.25]", "data.batch_size=2", "data.num_workers=0")
    cfg = compose_bare(*words, "data.image_size=8", "data.resize=9", f"data.root={tmp_path}").data
    of = Trained(build_data(cfg, 0, CPU, tmp_path), cfg, 0)
    other = ImageFolderConfig(name="oxford_pets", root=str(tmp_path), batch_size=2, eval_batch_size=3)
    batches = list(opened(other, of, tmp_path)[""][0].source.batches())
    (own,) = of.data.test.batches()
    assert [len(b) for b in batches] == [3, 1]
    assert torch.equal(torch.cat([b.images for b in batches]), own.images)


def one_image(cfg, seed, device, root):
    """Return a set of a user's own."""
    images = InMemoryEval(Images(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8), torch.tensor([3])), cfg, device)
    return Data(images, None, images, num_classes=10, in_channels=1, facts={}, image_size=(8, 8))


def test_a_set_of_the_users_own_gets_the_normalisation_of_the_run(tmp_path):
    own = DataConfig(name="mine", import_path=f"{__name__}:one_image", mean=[0.0], std=[7.0])
    of = trained("data.mean=[0.5]", "data.std=[0.25]")
    (batch,) = opened(own, of, tmp_path)[""][0].source.batches()
    assert batch.images.unique().tolist() == [2.0]
    assert batch.labels.tolist() == [3]


def test_evaluation_sets_are_refused_for_training():
    with pytest.raises(
        ConfigError, match="data=cifar10c: is for evaluation alone: `fsamlab evaluate RUN data=cifar10c`"
    ):
        compose_bare("data=cifar10c")
    with pytest.raises(ConfigError, match="is for evaluation alone"):
        DataConfig(name="imagenet_c").check_name()
    with pytest.raises(ConfigError, match=r"data.corruptions=fogg: must be out of .* \(did you mean fog\?\)"):
        CorruptedConfig(name="cifar10c", corruptions=["fogg"])
    with pytest.raises(ConfigError, match="fsamlab does not download cifar10c; unpack https://zenodo"):
        CorruptedConfig(name="cifar10c", download=True)
    with pytest.raises(ConfigError, match="must name each corruption once"):
        CorruptedConfig(name="cifar10c", corruptions=["fog", "fog"])
