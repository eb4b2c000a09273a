// Behind rays.wgsl: a grid of occupied cells, which are those of grid.h.

@group(0) @binding(3) var<storage, read> cells: array<u32>; // bits, of each byte the highest first

override low_x: f32; // corners of the grid
override low_y: f32;
override low_z: f32;
override high_x: f32;
override high_y: f32;
override high_z: f32;
override inner_low_x: f32; // and of the box of its occupied cells, a tenth of a cell wider
override inner_low_y: f32;
override inner_low_z: f32;
override inner_high_x: f32;
override inner_high_y: f32;
override inner_high_z: f32;
override side: i32; // cells

fn low() -> vec3f { return vec3f(low_x, low_y, low_z); }
fn high() -> vec3f { return vec3f(high_x, high_y, high_z); }

// Where a ray enters and leaves a box, within near and far, as multiples of its direction.
fn clip(ray: Ray, low: vec3f, high: vec3f) -> vec2f {
  let d = select(ray.d, vec3f(1e-20), abs(ray.d) < vec3f(1e-20));
  let a = (low - ray.o) / d;
  let b = (high - ray.o) / d;
  let enters = min(a, b);
  let leaves = max(a, b);
  return vec2f(max(near, max(enters.x, max(enters.y, enters.z))), min(far, min(leaves.x, min(leaves.y, leaves.z))));
}

fn clip_to_cells(ray: Ray) -> vec2f {
  return clip(ray, vec3f(inner_low_x, inner_low_y, inner_low_z), vec3f(inner_high_x, inner_high_y, inner_high_z));
}

// Whether what lies on a ray at t is in an occupied cell.
fn occupied(ray: Ray, t: f32) -> bool {
  let cell = (high() - low()) / f32(side);
  let place = (ray.o - low()) / cell + t * (ray.d / cell);
  let at = clamp(vec3i(place), vec3i(), vec3i(side - 1));
  let number = u32((at.x * side + at.y) * side + at.z);
  return ((cells[number >> 5] >> ((number & 31) ^ 7)) & 1) == 1;
}
