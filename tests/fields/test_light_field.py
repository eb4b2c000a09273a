"""R2L's network: its size, its blocks, its encoding."""

import pytest
import torch
import torch.nn.functional as F

from fields.light_field import LightFieldConfig, waves

PAPER = LightFieldConfig(depth=88, width=256, points=16, multires=10)
SMALL = LightFieldConfig(depth=8, width=16, points=3, use_viewdirs=True, multires=4, multires_views=2)


def test_the_papers_network_has_the_papers_size():
    """1008 inputs, 88 layers, 5,917,187 parameters, 5,894,912 products a ray (Wang et al. 2022, table 2)."""
    network = PAPER.skeleton()
    assert sum(PAPER.input_widths.values()) == 1008
    assert len(PAPER.graph.linears) == 88 and PAPER.blocks == 43
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_917_187
    assert PAPER.flops == 2 * 5_894_912


@pytest.mark.parametrize("rounded", [False, True])
def test_the_graph_is_residual_blocks_and_one_sum_over_all(rounded):
    """Against the same in plain torch; nothing is rounded in float, so both streams are one function."""
    config = LightFieldConfig(depth=8, width=16, points=3, multires=4, rounded_stream=rounded)
    network = config.make_network()
    for _, last in network.blocks:
        torch.nn.init.normal_(last.weight, std=0.3)
    places, of_waves = torch.randn(20, 9), torch.randn(20, 72)
    first = stream = F.relu(network.head(torch.cat([places, of_waves], -1)))
    for one, two in network.blocks:
        stream = stream + two(F.relu(one(stream)))
    torch.testing.assert_close(network(places, of_waves), network.tail(stream + first))


def test_it_starts_as_a_network_without_blocks():
    network = SMALL.make_network()
    places, of_waves = torch.randn(20, 12), torch.randn(20, 3 * 3 * 8 + 12)
    first = F.relu(network.head(torch.cat([places, of_waves], -1)))
    torch.testing.assert_close(network(places, of_waves), network.tail(2 * first))


def test_waves_by_hand():
    x = torch.tensor([[0.5, -1.0]])
    angles = torch.tensor([[0.5, -1.0, 1.0, -2.0]])
    torch.testing.assert_close(waves(x, torch.tensor([1.0, 2.0])), torch.cat([angles.sin(), angles.cos()], -1))


def test_encoding_holds_every_place_and_the_direction():
    field = SMALL.make_field(SMALL.make_network())
    places, viewdirs = torch.randn(5, 3, 3), F.normalize(torch.randn(5, 3), dim=-1)
    flat, of_waves = field.encode(places, viewdirs)
    assert {"quant_places": flat.shape[1], "quant_waves": of_waves.shape[1]} == SMALL.input_widths
    assert torch.equal(flat, torch.cat([places.flatten(1), viewdirs], -1))
    torch.testing.assert_close(of_waves[:, :9], flat[:, :9].sin())
    torch.testing.assert_close(of_waves[:, -3:], (2 * viewdirs).cos())
    colors = field(places, viewdirs)
    assert colors.shape == (5, 3) and ((colors > 0) & (colors < 1)).all()


def test_muon_gets_the_matrices_of_blocks_only():
    field = SMALL.make_field(SMALL.make_network())
    muon = [p for group in field.parameter_groups() for p in group.parameters if group.muon]
    assert len(muon) == 2 * SMALL.blocks and all(p.shape == (16, 16) for p in muon)
    everything = [p for group in field.parameter_groups() for p in group.parameters]
    assert len(everything) == len(list(field.network.parameters()))
