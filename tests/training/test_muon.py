"""Muon of many matrices at once is torch's Muon of each."""

import pytest
import torch

from training.muon import Muon, orthogonalised


@pytest.mark.parametrize("nesterov", [True, False])
def test_it_steps_as_torchs_does(nesterov):
    torch.manual_seed(0)
    shapes = [(24, 24), (16, 40), (24, 24), (40, 16), (16, 40)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    flags = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov, "adjust_lr_fn": "original"}
    optimizers = Muon(ours, **flags), torch.optim.Muon(theirs, **flags)
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        before = [parameter.detach().clone() for parameter in ours]
        for optimizer in optimizers:
            optimizer.step()
        for one, other, was in zip(ours, theirs, before, strict=True):
            moved = float((other - was).detach().norm())
            assert moved > 0.01 and float((one - other).detach().norm()) < 0.01 * moved  # bfloat16 has 3 digits
    for one, other in zip(*(optimizer.state_dict()["state"].values() for optimizer in optimizers), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


def test_parameters_without_a_gradient_stay_as_they_are():
    first, second = (torch.nn.Parameter(torch.eye(4)) for _ in range(2))
    optimizer = Muon([first, second], lr=0.1, weight_decay=0.1)
    first.grad = torch.ones(4, 4)
    optimizer.step()
    assert torch.equal(second, torch.eye(4)) and not torch.equal(first, torch.eye(4))


def test_singular_values_come_near_to_one_and_directions_stay():
    torch.manual_seed(1)
    matrices = torch.randn(3, 20, 30)
    turned = orthogonalised(matrices, (3.4445, -4.7750, 2.0315), 5, 1e-7).float()
    values = torch.linalg.svdvals(turned)
    assert values.min() > 0.5 and values.max() < 1.3  # Jordan's polynomial swings about one
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ turned @ vh.mT
    off = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 0.1
