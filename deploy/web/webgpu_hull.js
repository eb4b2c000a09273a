// A hull, between whose cells on a ray its bins lie (hull.wgsl).

// Grown by half a cell's diagonal. As `ofGrid` has them.
// eslint-disable-next-line no-unused-vars -- the page joins its scripts
function ofHull(hull, bits) {
  const { sides, constants } = ofGrid(hull, bits);
  const side = hull.grid_resolution;
  const grown = Uint8Array.from({ length: side ** 3 }, (_, number) => isSet(bits, number));
  [side ** 2, side, 1].forEach((stride, axis) => {
    const radius = Math.floor(Math.hypot(...sides) / 2 / sides[axis]) + 1;
    grown.slice().forEach((filled, number) => {
      const at = Math.floor(number / stride) % side;
      const [first, last] = filled ? [Math.max(at - radius, 0), Math.min(at + radius, side - 1)] : [0, -1];
      for (let i = first; i <= last; i++) grown[number + (i - at) * stride] = 1;
    });
  });
  const cells = new Uint8Array(bits.length);
  grown.forEach((filled, number) => (cells[number >> 3] |= (128 * filled) >> (number & 7)));
  return { cells, constants };
}
