"""What `--sampler` may be: a line for each renderer."""

from rendering.hierarchical import HierarchicalRenderer
from rendering.light_field import LightFieldRenderer
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.proposal import ProposalRenderer
from rendering.renderer import Renderer

RENDERERS: dict[str, type[Renderer]] = {
    HierarchicalRenderer.kind: HierarchicalRenderer,
    OccupancyRenderer.kind: OccupancyRenderer,
    ProposalRenderer.kind: ProposalRenderer,
    LightFieldRenderer.kind: LightFieldRenderer,
}
