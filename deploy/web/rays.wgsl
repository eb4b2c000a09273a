// Rays of a piece of the picture: where they go, which samples they ask for, and what becomes of the answers.
// Points and cells are those of grid.h; the network between `march` and `composite` is network.wgsl's.

struct Frame {
  c2w: array<vec4f, 3>, // by rows, OpenGL's axes
  focal: vec2f, // pixels, as the next two
  center: vec2f,
  size: vec2f,
  corner: vec2u, // of the piece
  columns: u32, // of the piece
  count: u32, // of its rays
}

struct Ray {
  o: vec3f,
  t_in: f32, // where it enters and leaves the grid, as multiples of its direction
  d: vec3f,
  t_out: f32,
  view: vec3f,
  dt: f32, // between two points
  color: vec3f,
  leaving: f32, // light
  number: i32, // of the next point, of what lies behind the last, and of the one that runs count from
  end: i32,
  start: i32,
  first: u32, // rows of its samples in this round
  found: u32,
}

struct Counters {
  alive: atomic<u32>, // rays that are not done
  rows: atomic<u32>, // samples of this round
}

@group(0) @binding(0) var<uniform> frame: Frame;
@group(0) @binding(1) var<storage, read_write> rays: array<Ray>;
@group(0) @binding(2) var<storage, read_write> counters: Counters;
@group(0) @binding(3) var<storage, read> cells: array<u32>; // bits, of each byte the highest first
@group(0) @binding(4) var<storage, read_write> coordinates: array<f32>; // [what is seen, lengths last][rows]
@group(0) @binding(5) var<storage, read_write> dispatches: array<u32>; // of the network's steps: [steps][3]
@group(0) @binding(6) var<storage, read> rgb: array<f32>; // [columns][rows], as the next one
@group(0) @binding(7) var<storage, read> density: array<f32>;
@group(0) @binding(8) var<storage, read_write> pixels: array<u32>;

override rows: u32;
override near: f32;
override far: f32;
override ndc_near: f32; // 0: world space
override pixel_offset: f32;
override red: f32; // of the background
override green: f32;
override blue: f32;
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
override cone_steps: f32; // widths of a pixel that a sample may be long, where that is more than a step
override step: f32; // between points, in units of the grid
override min_transmittance: f32;
override density_column: u32;
override softplus: bool; // else a ReLU
override density_bias: f32;
override density_scale: f32;
override views: bool; // whether the network sees directions
override points: u32; // a light field's places on a ray, one of `every` in occupied cells
override every: u32;

override least: u32; // samples of a ray in a round

const MOST = 16u; // of them, once few rays are left
const LOOKS = 1024; // at points of a ray in a round
const RUN = 8; // points that may be taken together

fn low() -> vec3f { return vec3f(low_x, low_y, low_z); }
fn high() -> vec3f { return vec3f(high_x, high_y, high_z); }

// ------------------------------------------------------------------------------------------------ where rays go

// NeRF's appendix C: from the plane z = -near to infinity as t goes from 0 to 1.
fn to_ndc(ray: ptr<function, Ray>) {
  let d = (*ray).d;
  let o = (*ray).o - (ndc_near + (*ray).o.z) / d.z * d;
  let scale = -2 * frame.focal.x / vec2f(frame.size.x, frame.size.y * (frame.focal.x / frame.focal.y));
  let near_oz = 2 * ndc_near / o.z;
  (*ray).o = vec3f(scale * (o.xy / o.z), 1 + near_oz);
  (*ray).d = vec3f(scale * (d.xy / d.z - o.xy / o.z), -near_oz);
}

// Where a ray enters and leaves a box, within near and far, as multiples of its direction.
fn clip(ray: Ray, low: vec3f, high: vec3f) -> vec2f {
  let d = select(ray.d, vec3f(1e-20), abs(ray.d) < vec3f(1e-20));
  let a = (low - ray.o) / d;
  let b = (high - ray.o) / d;
  let enters = min(a, b);
  let leaves = max(a, b);
  return vec2f(max(near, max(enters.x, max(enters.y, enters.z))), min(far, min(leaves.x, min(leaves.y, leaves.z))));
}

@compute @workgroup_size(64) fn begin(@builtin(global_invocation_id) at: vec3u) {
  if (at.x >= frame.count) { return; }
  let pixel = frame.corner + vec2u(at.x % frame.columns, at.x / frame.columns);
  let on = (vec2f(pixel) + pixel_offset - frame.center) / frame.focal;
  let toward = vec4f(on.x, -on.y, -1, 0);
  var ray: Ray;
  ray.d = vec3f(dot(frame.c2w[0], toward), dot(frame.c2w[1], toward), dot(frame.c2w[2], toward));
  ray.o = vec3f(frame.c2w[0].w, frame.c2w[1].w, frame.c2w[2].w);
  ray.view = normalize(ray.d);
  if (ndc_near > 0) { to_ndc(&ray); }
  let whole = clip(ray, low(), high());
  let inner = clip(
    ray, vec3f(inner_low_x, inner_low_y, inner_low_z), vec3f(inner_high_x, inner_high_y, inner_high_z));
  ray.t_in = whole.x;
  ray.t_out = whole.y;
  ray.dt = step / length(ray.d);
  ray.leaving = 1;
  if (inner.x < inner.y) {
    ray.start = max(i32(floor((inner.x - ray.t_in) / ray.dt)) - 1, 0);
    ray.number = ray.start;
    ray.end = i32(ceil((min(inner.y, ray.t_out) - ray.t_in) / ray.dt)) + 1;
    atomicAdd(&counters.alive, 1);
  }
  rays[at.x] = ray;
}

fn point(ray: u32, number: i32) -> f32 { return rays[ray].t_in + (f32(number) + 0.5) * rays[ray].dt; }

// Whether a point of a ray lies in an occupied cell.
fn counts(ray: u32, t: f32) -> bool {
  let cell = (high() - low()) / f32(side);
  let place = (rays[ray].o - low()) / cell + t * (rays[ray].d / cell);
  let at = clamp(vec3i(place), vec3i(), vec3i(side - 1));
  let number = u32((at.x * side + at.y) * side + at.z);
  return t < rays[ray].t_out && ((cells[number >> 5] >> ((number & 31) ^ 7)) & 1) == 1;
}

// How many points from this one on are one sample: a power of two, all of one run.
fn together(ray: u32, number: i32) -> i32 {
  let run = number - (number - rays[ray].start) % RUN;
  let middle = 0.5 * (point(ray, run) + point(ray, run + RUN - 1));
  let width = select(middle / frame.focal.x, 1 / frame.size.x + 1 / frame.size.y, ndc_near > 0);
  var count = 1;
  while (count < RUN && 2 * f32(count) <= cone_steps * width / step) { count *= 2; }
  return count;
}

fn length_at(row: u32) -> u32 { return arrayLength(&coordinates) - rows + row; }

fn put(row: u32, first: u32, x: vec3f) {
  for (var c = 0u; c < 3; c++) { coordinates[(first + c) * rows + row] = x[c]; }
}

// The next samples of every ray that is not done: the fewer are left, the more of each.
@compute @workgroup_size(64) fn march(@builtin(global_invocation_id) at: vec3u) {
  let ray = at.x;
  if (ray >= frame.count) { return; }
  var number = rays[ray].number;
  var last = min(rays[ray].end, number + LOOKS);
  if (rays[ray].leaving <= min_transmittance) { last = 0; }
  let each = clamp(least * frame.count / max(atomicLoad(&counters.alive), 1), least, MOST);
  var t: array<f32, MOST>;
  var lengths: array<f32, MOST>;
  var found = 0u;
  while (found < each && number < last) {
    let count = together(ray, number);
    var any = false;
    for (var i = 0; i < count && !any; i++) { any = counts(ray, point(ray, number + i)); }
    t[found] = point(ray, number) + 0.5 * f32(count - 1) * rays[ray].dt;
    lengths[found] = step * f32(count);
    found += u32(any);
    number += count;
  }
  let first = atomicAdd(&counters.rows, found);
  for (var i = 0u; i < found; i++) {
    put(first + i, 0, rays[ray].o + t[i] * rays[ray].d);
    if (views) { put(first + i, 3, rays[ray].view); }
    coordinates[length_at(first + i)] = lengths[i];
  }
  rays[ray].number = number;
  rays[ray].first = first;
  rays[ray].found = found;
}

// A light field's places: of the first points in occupied cells, the last one repeated; of rays that meet none nothing.
@compute @workgroup_size(64) fn find_places(@builtin(global_invocation_id) at: vec3u) {
  let ray = at.x;
  if (ray >= frame.count) { return; }
  let middle = 0.5 * (low() + high());
  let half = 0.5 * (high() - low());
  var row = 0u;
  var found = 0u;
  var seen = 0u;
  var x = vec3f();
  for (var number = rays[ray].start; number < rays[ray].end && found < points; number++) {
    let t = point(ray, number);
    if (!counts(ray, t)) { continue; }
    if (seen == 0) { row = atomicAdd(&counters.rows, 1); }
    if (seen % every == 0) {
      x = (rays[ray].o + t * rays[ray].d - middle) / half;
      put(row, 3 * found, x);
      found++;
    }
    seen++;
  }
  rays[ray].first = row;
  rays[ray].found = found;
  if (found == 0) { return; }
  for (; found < points; found++) { put(row, 3 * found, x); }
  if (views) { put(row, 3 * points, rays[ray].view); }
}

// How many rows the network has to take, 256 at a time.
@compute @workgroup_size(1) fn plan() {
  let groups = (atomicExchange(&counters.rows, 0) + 255) / 256;
  atomicStore(&counters.alive, 0);
  for (var i = 0u; i < arrayLength(&dispatches); i += 3) { dispatches[i] = groups; }
}

// -------------------------------------------------------------------------------------------- what they are answered

fn color_of(row: u32) -> vec3f {
  return 1 / (1 + exp(-vec3f(rgb[row], rgb[rows + row], rgb[2 * rows + row])));
}

fn density_of(row: u32) -> f32 {
  let raw = density[density_column * rows + row] + density_bias;
  return density_scale * (max(raw, 0) + select(0, log(1 + exp(-abs(raw))), softplus));
}

@compute @workgroup_size(64) fn composite(@builtin(global_invocation_id) at: vec3u) {
  if (at.x >= frame.count) { return; }
  let ray = &rays[at.x];
  var color = (*ray).color;
  var leaving = (*ray).leaving;
  for (var row = (*ray).first; row < (*ray).first + (*ray).found; row++) {
    let passes = exp(-density_of(row) * coordinates[length_at(row)]);
    color += leaving * (1 - passes) * color_of(row);
    leaving *= passes;
  }
  (*ray).color = color;
  (*ray).leaving = leaving;
  if ((*ray).number < (*ray).end && leaving > min_transmittance) { atomicAdd(&counters.alive, 1); }
}

// A light field's answer is the colour.
@compute @workgroup_size(64) fn take_colors(@builtin(global_invocation_id) at: vec3u) {
  if (at.x >= frame.count || rays[at.x].found == 0) { return; }
  rays[at.x].color = color_of(rays[at.x].first);
  rays[at.x].leaving = 0;
}

@compute @workgroup_size(64) fn finish(@builtin(global_invocation_id) at: vec3u) {
  if (at.x >= frame.count) { return; }
  pixels[at.x] = pack4x8unorm(vec4f(rays[at.x].color + rays[at.x].leaving * vec3f(red, green, blue), 1));
}
