// Behind grid.wgsl: samples and places in occupied cells.

override cone_steps: f32; // widths of a pixel that a sample may be long, where that is more than a step
override step: f32; // between points, in units of the grid
override points: u32; // a light field's places on a ray, one of `every` in occupied cells
override every: u32;

override least: u32; // samples of a ray in a round

const MOST = 16u; // of them, once few rays are left
const LOOKS = 1024; // at points of a ray in a round
const RUN = 8; // points that may be taken together

// From where a ray meets occupied cells on.
fn set_out(ray: ptr<function, Ray>) {
  let whole = clip(*ray, low(), high());
  let inner = clip_to_cells(*ray);
  (*ray).t_in = whole.x;
  (*ray).t_out = whole.y;
  (*ray).dt = step / length((*ray).d);
  if (inner.x < inner.y) {
    (*ray).start = max(i32(floor((inner.x - whole.x) / (*ray).dt)) - 1, 0);
    (*ray).number = (*ray).start;
    (*ray).end = i32(ceil((min(inner.y, whole.y) - whole.x) / (*ray).dt)) + 1;
  }
}

fn point(ray: u32, number: i32) -> f32 { return rays[ray].t_in + (f32(number) + 0.5) * rays[ray].dt; }

// Whether a point of a ray lies in an occupied cell.
fn counts(ray: u32, t: f32) -> bool { return t < rays[ray].t_out && occupied(rays[ray], t); }

// How many points from this one on are one sample: a power of two, all of one run.
fn together(ray: u32, number: i32) -> i32 {
  let run = number - (number - rays[ray].start) % RUN;
  let middle = 0.5 * (point(ray, run) + point(ray, run + RUN - 1));
  var count = 1;
  while (count < RUN && 2 * f32(count) <= cone_steps * pixel_width(middle) / step) { count *= 2; }
  return count;
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
  let norm = length(rays[ray].d);
  for (var i = 0u; i < found; i++) {
    ask(ray, first + i, t[i], 0.5 * lengths[i] / norm);
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

// A light field's answer is the colour.
@compute @workgroup_size(64) fn take_colors(@builtin(global_invocation_id) at: vec3u) {
  if (at.x >= frame.count || rays[at.x].found == 0) { return; }
  rays[at.x].color = color_of(rays[at.x].first);
  rays[at.x].leaving = 0;
}
