// The sampler of proposals (proposal.wgsl), each network in bins drawn from what the one before saw.

const CURVES = ["linear", "reciprocal", "log", "piecewise"]; // as proposal.wgsl has them
const DILATION = 0.0025;
const DILATION_SHARE = 0.5; // of a level's average bin

SAMPLERS.proposal = ({ sampler }, bytes) => {
  const { bins, ray_warp, opaque, dilates = true, hull } = sampler;
  const { cells, constants } = hull ? ofHull(hull, bytes(hull.occupancy)) : {};
  let before = 1; // as many bins as these would be if they were even
  const turns = bins.map((count, i) => {
    const reach = i && dilates ? DILATION + DILATION_SHARE / before : 0;
    before *= count;
    return { seen: bins[i - 1] ?? 1, bins: count, reach };
  });
  return {
    rowsPerRay: Math.max(...bins), asks: bins.map(() => "propose"), take: "composite", rounds: 1, cells, turns,
    handed: 8 * (Math.max(...bins) + 1),
    uses: {
      begin: hull ? [0, 1, 2, 3] : [0, 1, 2], propose: [0, 1, 2, 4, 7, 9, 10], composite: [0, 1, 2, 4, 6, 7],
    },
    constants: { ...constants, curve: CURVES.indexOf(ray_warp), opaque: Number(opaque) },
  };
};
