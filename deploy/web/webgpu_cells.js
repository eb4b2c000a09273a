// Samplers in a grid's occupied cells (cells.wgsl).

const SAMPLES = 4; // of a ray in a round, while no ray is done
const ROUNDS = 4;

SAMPLERS.occupancy = (described, bytes) => ({
  ...ofCells(described, bytes), rowsPerRay: SAMPLES, asks: ["march"], take: "composite", rounds: ROUNDS,
  uses: { march: [0, 1, 2, 3, 4], composite: [0, 1, 2, 4, 6, 7] },
});

SAMPLERS.light_field = (described, bytes) => ({
  ...ofCells(described, bytes), rowsPerRay: 1, asks: ["find_places"], take: "take_colors", rounds: 1,
  uses: { find_places: [0, 1, 2, 3, 4], take_colors: [0, 1, 6] },
});

function ofCells({ sampler, fields }, bytes) {
  const { every = 1, cone_steps = 0 } = sampler;
  const cells = bytes(sampler.occupancy);
  const { sides, constants } = ofGrid(sampler, cells);
  const step = sampler.step ?? Math.max(...sides);
  return { cells, constants: { ...constants, step, cone_steps, points: fields[0].points ?? 0, every, least: SAMPLES } };
}
