// Rays of a piece of the picture: where they go, and what becomes of the answers. Which samples they ask for is said by
// cells.wgsl, hierarchical.wgsl or proposal.wgsl, in which `set_out` makes a ray ready, and what is seen of samples by
// `ask` of points.wgsl or cones.wgsl; network.wgsl answers.

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
  t_in: f32, // where it enters and leaves the grid or its bins begin and end, as multiples of its direction
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
override min_transmittance: f32;
override density_column: u32;
override softplus: bool; // else a ReLU
override density_bias: f32;
override density_scale: f32;
override views: bool; // whether the network sees directions

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
  ray.leaving = 1;
  set_out(&ray);
  if (ray.number < ray.end) { atomicAdd(&counters.alive, 1); }
  rays[at.x] = ray;
}

// Where the length that a sample stands for lies.
fn length_at(row: u32) -> u32 { return arrayLength(&coordinates) - rows + row; }

fn put(row: u32, first: u32, x: vec3f) {
  for (var c = 0u; c < 3; c++) { coordinates[(first + c) * rows + row] = x[c]; }
}

// At a distance, of directions as long as theirs.
fn pixel_width(t: f32) -> f32 {
  return select(t / frame.focal.x, 1 / frame.size.x + 1 / frame.size.y, ndc_near > 0);
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

// log(1 + x) of a small x by its series: an opaque bin multiplies by 1e10 what a sum with 1 would lose.
fn density_of(row: u32) -> f32 {
  let raw = density[density_column * rows + row] + density_bias;
  let z = exp(-abs(raw));
  let rest = select(log(1 + z), z * (1 - z * (0.5 - z / 3)), z < 0.01);
  return density_scale * (max(raw, 0) + select(0, rest, softplus));
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

@compute @workgroup_size(64) fn finish(@builtin(global_invocation_id) at: vec3u) {
  if (at.x >= frame.count) { return; }
  pixels[at.x] = pack4x8unorm(vec4f(rays[at.x].color + rays[at.x].leaving * vec3f(red, green, blue), 1));
}
