import pytest
import torch

from fsamlab.data.sampling import taken_last


@pytest.mark.parametrize("n", [3, 50, 1000])
def test_taken_positions_come_last_and_the_others_keep_their_order(n):
    generator = torch.Generator().manual_seed(n)
    order = torch.randperm(n, generator=generator)
    taken = torch.randperm(n, generator=generator)[: n // 3]
    found = taken_last(order, taken)
    assert torch.equal(found[: n - len(taken)], order[~torch.isin(order, taken)])
    assert sorted(found.tolist()) == list(range(n))
