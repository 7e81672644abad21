import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsamlab.config import ConfigError, DataConfig
from fsamlab.data.label_noise import CIFAR10_FLIPS, CIFAR100_SUPERCLASSES, add_label_noise, cifar100_flips
from fsamlab.data.split import check_batch_size, make_split, split_hash

# Superclass of each of CIFAR-100's classes, as the data set's own files number them.
COARSE = [
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7),
    *(6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10),
    *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16),
    *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
]


def config(**fields):
    return DataConfig(**{"name": "toy", **fields})


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 300), st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 2**31 - 1))
def test_split_is_a_partition(num, test_share, val_share, seed):
    test_size, val_size = max(1, int(test_share * num)), int(val_share * num)
    split = make_split(num, False, config(test_size=test_size, val_size=val_size), seed)
    assert (len(split.test), len(split.val)) == (test_size, val_size)
    assert sorted(torch.cat([split.train, split.val, split.test]).tolist()) == list(range(num))


def test_parts_do_not_move_with_sizes_they_do_not_depend_on():
    base = make_split(100, False, config(test_size=20, val_size=10), 0)
    other_val = make_split(100, False, config(test_size=20, val_size=30), 0)
    fewer = make_split(100, False, config(test_size=20, val_size=10, train_size=15), 0)
    assert torch.equal(base.test, other_val.test)
    assert torch.equal(base.val, fewer.val)
    assert torch.equal(base.train[:15], fewer.train)
    assert not torch.equal(base.test, make_split(100, False, config(test_size=20), 1).test)


def test_own_test_part_is_not_split_off():
    split = make_split(50, True, config(val_size=5), 0)
    assert split.test is None
    assert len(split.train) == 45


@pytest.mark.parametrize(
    ("has_test_part", "fields", "key"),
    [
        (True, {"test_size": 5}, "data.test_size"),
        (False, {}, "data.test_size"),
        (False, {"test_size": 50}, "data.test_size"),
        (False, {"test_size": 25, "val_size": 25}, "data.val_size"),
        (True, {"val_size": 50}, "data.val_size"),
        (True, {"val_size": 10, "train_size": 41}, "data.train_size"),
    ],
)
def test_sizes_that_do_not_fit(has_test_part, fields, key):
    with pytest.raises(ConfigError) as raised:
        make_split(50, has_test_part, config(**fields), 0)
    assert raised.value.key == key
    assert "\n" not in str(raised.value)


def test_batch_sizes_that_do_not_fit():
    with pytest.raises(ConfigError, match="must be <= 10, the training samples"):
        check_batch_size(10, config(batch_size=11))
    with pytest.raises(ConfigError, match=r"last batch of one of 9 samples.*data\.drop_last=true"):
        check_batch_size(9, config(batch_size=4))
    check_batch_size(9, config(batch_size=4, drop_last=True))
    check_batch_size(9, config(batch_size=1))
    check_batch_size(10, config(batch_size=4))


def test_split_hash_sees_split_and_labels():
    split = make_split(30, False, config(test_size=5, val_size=5), 0)
    labels = torch.zeros(20, dtype=torch.int64)
    changed = labels.clone()
    changed[3] = 1
    other = make_split(30, False, config(test_size=5, val_size=5), 1)
    assert split_hash(split, labels) == split_hash(split, labels.clone())
    assert len({split_hash(split, labels), split_hash(split, changed), split_hash(other, labels)}) == 3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.floats(0, 1), st.integers(2, 12), st.integers(0, 2**31 - 1))
def test_symmetric_noise_without_the_true_class_changes_exactly_so_many(num, ratio, classes, seed):
    labels = torch.arange(num) % classes
    noisy = add_label_noise(labels, classes, config(label_noise=ratio, noise_includes_true=False), seed)
    assert int((noisy != labels).sum()) == round(ratio * num)
    assert int(noisy.min()) >= 0
    assert int(noisy.max()) < classes


def test_symmetric_noise_with_the_true_class_keeps_one_in_c():
    labels = torch.arange(20_000) % 10
    noisy = add_label_noise(labels, 10, config(label_noise=0.5), 0)
    assert (noisy != labels).double().mean().item() == pytest.approx(0.45, abs=0.005)
    counts = noisy[noisy != labels].bincount(minlength=10)
    assert counts.min() > 0.9 * counts.max()  # all classes alike


def test_noise_is_nested_in_the_ratio_and_follows_the_seed():
    labels = torch.arange(1000) % 10
    little, much = (add_label_noise(labels, 10, config(label_noise=r), 0) for r in (0.2, 0.6))
    changed = little != labels
    assert torch.equal(little[changed], much[changed])
    assert int((much != labels).sum()) > int(changed.sum())
    assert not torch.equal(little, add_label_noise(labels, 10, config(label_noise=0.2), 1))
    assert torch.equal(labels, torch.arange(1000) % 10)  # the true labels are left alone


def test_asymmetric_noise_flips_an_exact_share_of_each_mapped_class():
    labels = torch.arange(1000) % 10
    cfg = DataConfig(name="cifar10", label_noise=0.4, noise_type="asymmetric")
    noisy = add_label_noise(labels, 10, cfg, 0)
    for c in range(10):
        went = noisy[labels == c]
        if c in CIFAR10_FLIPS:
            assert int((went == CIFAR10_FLIPS[c]).sum()) == 40
            assert int((went == c).sum()) == 60
        else:
            assert bool((went == c).all())
    assert (noisy != labels).double().mean().item() == pytest.approx(0.2)


def test_cifar10_map_by_name():
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert {names[a]: names[b] for a, b in CIFAR10_FLIPS.items()} == {
        "truck": "automobile",
        "bird": "airplane",
        "deer": "horse",
        "cat": "dog",
        "dog": "cat",
    }


def test_asymmetric_default_is_the_next_class():
    labels = torch.arange(30) % 3
    noisy = add_label_noise(labels, 3, config(label_noise=1.0, noise_type="asymmetric"), 0)
    assert torch.equal(noisy, (labels + 1) % 3)


def test_cifar100_map_is_one_cycle_in_each_superclass():
    flips = cifar100_flips()
    assert sorted(flips) == sorted(flips.values()) == list(range(100))
    assert all(COARSE[a] == COARSE[b] for a, b in flips.items())
    for start in range(100):
        seen = [start]
        while flips[seen[-1]] != start:
            seen.append(flips[seen[-1]])
        assert len(seen) == 5
        assert seen[1] == min((c for c in seen if c > start), default=min(seen))  # the next one in order
    assert list(CIFAR100_SUPERCLASSES)[COARSE[0]] == "fruit_and_vegetables"  # class 0 is apple
