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
  const { grid_resolution: side, every = 1, cone_steps = 0 } = sampler;
  const [low, high] = sampler.aabb;
  const cells = bytes(sampler.occupancy);
  const sides = low.map((x, i) => (high[i] - x) / side);
  const inner = occupied(cells, side).map((corner) => corner.map((at, i) => low[i] + at * sides[i]));
  const constants = {
    side, step: sampler.step ?? Math.max(...sides), cone_steps, points: fields[0].points ?? 0, every, least: SAMPLES,
  };
  const corners = { low, high, inner_low: inner[0], inner_high: inner[1] };
  for (const name in corners) corners[name].forEach((x, i) => (constants[`${name}_${"xyz"[i]}`] = x));
  return { cells, constants };
}

// Corners of the box of occupied cells, in cells, a tenth of one wider.
function occupied(bits, side) {
  const [low, high] = [[side, side, side], [-1, -1, -1]];
  for (let number = 0; number < side ** 3; number++) {
    if (!((bits[number >> 3] << (number & 7)) & 128)) continue;
    [Math.floor(number / side ** 2), Math.floor(number / side) % side, number % side].forEach((at, axis) => {
      low[axis] = Math.min(low[axis], at);
      high[axis] = Math.max(high[axis], at);
    });
  }
  return [low.map((at) => at - 0.1), high.map((at) => at + 1.1)];
}
