"""Large image sets: files in class folders or with label files, decoded and augmented by the workers of a DataLoader.

The augmentation of a sample is seeded by (seed, purpose, epoch or step, sample). So it does not depend on the worker
that draws it, on the number of workers, or on the batch at which a run resumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from fsamlab.config import ConfigError, DataConfig, ImageFolderConfig
from fsamlab.config.data import WITH_LABEL_FILES
from fsamlab.data.cut import EVERYTHING, Among, Cut
from fsamlab.data.image_files import VisibleImages, open_folder
from fsamlab.data.interface import Batch, Data, concatenate
from fsamlab.data.label_noise import add_label_noise
from fsamlab.data.listed_images import ListedImages, open_listed
from fsamlab.data.long_tail import facts_of_classes, long_tailed
from fsamlab.data.rand_augment import RandAugment
from fsamlab.data.sampling import draw_other, epoch_order, even_chunks, num_batches
from fsamlab.data.split import check_batch_size, facts_of, make_split
from fsamlab.data.transfer import streamed_to_device
from fsamlab.data.workers import Workers, from_workers, ignore_signals
from fsamlab.seeding import Stream, derive_seed
from fsamlab.storage.reading import Damaged

Key = tuple[int, ...]  # (sample, stream, epoch or step): names the sample and the seed of its augmentation


Files = VisibleImages | ListedImages
Sample = tuple[Tensor, int, int]  # (image float32 (3, size, size), label, position in the set)


class _Samples(Dataset[Sample | Damaged]):
    """Map a key to a sample; used inside the workers.

    A file that cannot be read is returned as an error, not raised: of a raised error torch makes one whose message
    contains the worker's traceback.
    """

    def __init__(self, folder: Files, positions: Tensor, labels: Tensor, transform: v2.Transform, seed: int):
        self.folder, self.positions, self.labels = folder, positions, labels
        self.transform, self.seed = transform, seed

    def __getitem__(self, key: Key) -> Sample | Damaged:
        index, *stream = key
        path = self.folder.samples[int(self.positions[index])][0]
        try:
            image = self.folder.loader(path)
        except Damaged as e:
            return e
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms know only the global generator
            torch.default_generator.manual_seed(derive_seed(self.seed, *stream, index))
            return self.transform(image), int(self.labels[index]), index


def collate(samples: list[Sample | Damaged]) -> list[Tensor] | Damaged:
    """Join samples to tensors; the first file that could not be read stands for the whole batch."""
    for sample in samples:
        if isinstance(sample, Damaged):
            return sample
    return default_collate(samples)


def _sound(parts: list[Tensor] | Damaged) -> list[Tensor]:
    if isinstance(parts, Damaged):
        raise parts
    return parts


class _Loader:
    """Turn batches of keys into batches of samples on the device."""

    def __init__(self, samples: _Samples, num_workers: int, device: torch.device) -> None:
        self.samples, self.num_workers, self.device = samples, num_workers, device

    def load_parts(self, batches: Iterable[Tensor], cut: Cut, *stream: int) -> Iterator[Batch]:
        """Load what this rank computes of each batch of samples."""
        places: list[Among] = []  # of the batches that the loader has asked for

        def keys() -> Iterator[list[Key]]:
            for indices in batches:
                own, among = cut.taken(indices)
                places.append(among)
                yield _keys(own, *stream)

        for batch in self.load(keys()):
            yield places.pop(0).marked(batch)

    def load(self, batches_of_keys: Iterable[list[Key]]) -> Iterator[Batch]:
        loader = DataLoader(
            self.samples,
            # The order comes from outside as keys, and torch's samplers draw nothing: torch would draw the order from a
            # generator with a state, and a resumed epoch could not start in the middle.
            batch_sampler=batches_of_keys,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=ignore_signals,
            multiprocessing_context=Workers() if self.num_workers else None,
            # Torch draws the workers' seeds from it; by default from the global generator, which must not advance.
            generator=torch.Generator(),
        )
        read = (_sound(parts) for parts in (from_workers(loader) if self.num_workers else loader))
        for inputs, targets, indices in streamed_to_device(read, self.device):
            yield Batch(inputs, targets, indices)


class StreamedTrain:
    """Implements :class:`~fsamlab.data.interface.TrainSource` on files; `plain` has no augmentation."""

    takes_cut = True

    def __init__(self, samples: _Samples, plain: _Samples, cfg: DataConfig, seed: int, device: torch.device) -> None:
        self.num_samples = len(samples.positions)
        self._cfg, self._seed = cfg, seed
        self._loader = _Loader(samples, cfg.num_workers, device)
        self._plain = _Loader(plain, cfg.num_workers, device)

    def num_batches(self) -> int:
        """Return the number of batches in an epoch."""
        return num_batches(self.num_samples, self._cfg)

    def batches(self, epoch: int, start: int = 0, cut: Cut = EVERYTHING) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on; earlier images are not decoded."""
        order, size = epoch_order(self.num_samples, self._seed, epoch), self._cfg.batch_size
        chunks = (order[n * size : (n + 1) * size] for n in range(start, self.num_batches()))
        return self._loader.load_parts(chunks, cut, Stream.AUGMENT, epoch)

    def other(self, step: int, size: int, nested_in: Batch | None = None, cut: Cut = EVERYTHING) -> Batch:
        """Return the ascent batch of a global step; with `nested_in` the two batches share samples."""
        if nested_in is None:
            own, among = cut.taken(draw_other(self.num_samples, size, self._seed, step))
            return among.marked(self._draw(own, step))
        if size <= len(nested_in):
            return nested_in.first(size)
        more = draw_other(self.num_samples, size - len(nested_in), self._seed, step, taken=nested_in.indices.cpu())
        return concatenate([nested_in, self._draw(more, step)])

    def full(self, step: int, cut: Cut = EVERYTHING) -> Iterator[Batch]:
        """Yield the whole training set once, augmented from (seed, step)."""
        chunks = even_chunks(self.num_samples, self._cfg.eval_batch_size)
        return self._loader.load_parts(chunks, cut, Stream.FULL_PASS, step)

    def at(self, indices: Tensor, augmented: bool = False) -> Batch:
        """Return the samples at these positions, without augmentation or with one fixed augmentation for each."""
        loader = self._loader if augmented else self._plain
        pieces = indices.split(self._cfg.eval_batch_size)
        return concatenate(list(loader.load(_keys(piece, Stream.PROBE) for piece in pieces)))

    def _draw(self, indices: Tensor, step: int) -> Batch:
        # One batch is one task for one worker: without the cut, a single worker would decode the whole ascent batch.
        shares = indices.tensor_split(min(len(indices), max(1, self._cfg.num_workers)))  # one per worker
        return concatenate(list(self._loader.load(_keys(share, Stream.OTHER_BATCH, step) for share in shares)))


class StreamedEval:
    """Implements :class:`~fsamlab.data.interface.EvalSource` on files."""

    def __init__(self, samples: _Samples, cfg: DataConfig, device: torch.device) -> None:
        self.num_samples = len(samples.positions)
        self._cfg = cfg
        self._loader = _Loader(samples, cfg.num_workers, device)

    def batches(self) -> Iterator[Batch]:
        """Yield the set once, in order, in chunks of `data.eval_batch_size`."""
        return self.every(1)

    def every(self, step: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches number `start`, `start + step`, ...; no other image is decoded."""
        chunks = torch.arange(self.num_samples).split(self._cfg.eval_batch_size)[start::step]
        return self._loader.load(_keys(chunk) for chunk in chunks)


def _keys(indices: Tensor, *stream: int) -> list[Key]:
    return [(index, *stream) for index in indices.tolist()]


def _open_folders(cfg: DataConfig, root: Path) -> tuple[VisibleImages, VisibleImages]:
    train, test = open_folder(cfg, root / "train"), open_folder(cfg, root / "val")
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise ConfigError("data.root", root, f"train/ and val/ have different classes, first {differing[0]!r}")
    return train, test


def build_streamed(cfg: DataConfig, seed: int, device: torch.device, root: Path) -> Data:
    """Index the files of a set and build its parts: `<root>/train/<class>/` and `<root>/val/<class>/`, or label files.

    The images of val/ are the test set.

    Training images get a random resized crop and a flip. The validation set is held out from train/ by seed. Validation
    and test images are resized at the shorter side and cropped at the centre.

    Raises:
        ConfigError: a folder is missing, the two parts have different classes, or a size does not fit.
    """
    if not isinstance(cfg, ImageFolderConfig):
        raise ConfigError("data.name", cfg.name, f"is chosen with data={cfg.name}, which has its image sizes")
    for key, value in cfg.augment.changed().items():
        if key in cfg.augment.OF_MEMORY:
            allowed = f"is for in-memory sets; {cfg.name} has data.min_scale"
            raise ConfigError(f"data.augment.{key}", value, allowed)
    if len(cfg.mean) not in (1, 3):
        raise ConfigError("data.mean", cfg.mean, "must have 3 values: the images are read as RGB")
    train, test = open_listed(cfg, root) if cfg.name in WITH_LABEL_FILES else _open_folders(cfg, root)
    targets, num_classes = torch.tensor(train.targets), len(train.classes)
    split = long_tailed(make_split(len(train), True, cfg, seed), targets, num_classes, cfg)
    check_batch_size(len(split.train), cfg)
    clean = targets[split.train]
    noisy = add_label_noise(clean, num_classes, cfg, seed)

    as_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(cfg.mean, cfg.std)]
    random_crop = v2.RandomResizedCrop(cfg.image_size, scale=(cfg.min_scale, 1.0), antialias=True)
    words = cfg.augment.randaugment
    rand_augment = [] if words is None else [RandAugment(words, cfg.image_size, cfg.mean * (3 // len(cfg.mean)))]
    train_transform = v2.Compose([random_crop, v2.RandomHorizontalFlip(), *rand_augment, *as_tensor])
    eval_transform = _centre(cfg.resize, cfg.image_size, as_tensor)

    def held_out(folder: Files, positions: Tensor, labels: Tensor) -> StreamedEval:
        return StreamedEval(_Samples(folder, positions, labels[positions], eval_transform, seed), cfg, device)

    def training(transform: v2.Transform) -> _Samples:
        return _Samples(train, split.train, noisy, transform, seed)

    return Data(
        train=StreamedTrain(training(train_transform), training(eval_transform), cfg, seed, device),
        val=held_out(train, split.val, targets) if cfg.val_size else None,
        test=held_out(test, torch.arange(len(test)), torch.tensor(test.targets)),
        num_classes=num_classes,
        in_channels=3,
        facts=facts_of(split, len(test), clean, noisy) | facts_of_classes(clean, num_classes, cfg),
        image_size=(cfg.image_size, cfg.image_size),
        classes=tuple(train.classes),
    )


def _centre(resize: int, image_size: int, then: list[v2.Transform]) -> v2.Transform:
    return v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(image_size), *then])


def open_for_evaluation(
    cfg: DataConfig, folder: Path, resize: int, image_size: int, device: torch.device
) -> tuple[StreamedEval, tuple[str, ...]]:
    """Return the images in `folder/<class>/` as a test set, and the names of the classes.

    Args:
        cfg: normalisation, batch size and workers.
        folder: holds one folder for each class.
        resize: the shorter side before the centre crop.
        image_size: the side of the crop.
        device: the device of the batches.

    Raises:
        ConfigError: there are no such folders.
        Damaged: the first image of a class cannot be used.
    """
    images = open_folder(cfg, folder)
    as_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(cfg.mean, cfg.std)]
    transform = _centre(resize, image_size, as_tensor)
    samples = _Samples(images, torch.arange(len(images)), torch.tensor(images.targets), transform, 0)
    return StreamedEval(samples, cfg, device), tuple(images.classes)
