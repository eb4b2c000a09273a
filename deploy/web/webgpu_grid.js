// A grid's occupied cells (grid.wgsl).

// Constants. bits: of the cells, of each byte the highest first.
// eslint-disable-next-line no-unused-vars -- the page joins its scripts
function ofGrid({ grid_resolution: side, aabb: [low, high] }, bits) {
  const sides = low.map((x, i) => (high[i] - x) / side);
  const inner = occupied(bits, side).map((corner) => corner.map((at, i) => low[i] + at * sides[i]));
  const constants = { side };
  const corners = { low, high, inner_low: inner[0], inner_high: inner[1] };
  for (const name in corners) corners[name].forEach((x, i) => (constants[`${name}_${"xyz"[i]}`] = x));
  return { sides, constants };
}

const isSet = (bits, number) => Boolean((bits[number >> 3] << (number & 7)) & 128);

// Corners of the box of occupied cells, in cells, a tenth of one wider.
function occupied(bits, side) {
  const [low, high] = [[side, side, side], [-1, -1, -1]];
  for (let number = 0; number < side ** 3; number++) {
    if (!isSet(bits, number)) continue;
    [Math.floor(number / side ** 2), Math.floor(number / side) % side, number % side].forEach((at, axis) => {
      low[axis] = Math.min(low[axis], at);
      high[axis] = Math.max(high[axis], at);
    });
  }
  return [low.map((at) => at - 0.1), high.map((at) => at + 1.1)];
}
