// Behind hull.wgsl or whole_rays.wgsl: bins of a network, drawn from what the one before saw in its own. They are
// steps.h's, found in walks along the ray.

struct Bin {
  start: f32, // in shares of the ray, as the warp has them; where the last bin ends one more starts
  height: f32, // weight of what is seen in it, over its width
}

@group(0) @binding(9) var<storage, read_write> before: array<Bin>; // the last network's, [bins + 1][rays]
@group(0) @binding(10) var<storage, read_write> drawn: array<Bin>; // this one's

override seen: u32; // bins of the last network; 1: there is none
override bins: u32;
override reach: f32; // of what was seen, to either side
override curve: u32;
override opaque: bool; // whether nothing is seen behind the last bin

const RECIPROCAL = 1u;
const LOGARITHMIC = 2u;
const PIECEWISE = 3u;
const EPS = 1.1920929e-7;
const PADDING = 1e-5; // of a mass
const BEYOND = 3e38;
const BEHIND = 1e10; // what the last sample stands for

fn set_out(ray: ptr<function, Ray>) {
  let ends = span(*ray);
  (*ray).t_in = ends.x;
  (*ray).t_out = ends.y;
}

fn bent(t: f32) -> f32 {
  switch curve {
    case RECIPROCAL: { return 1 / t; }
    case LOGARITHMIC: { return log(t); }
    case PIECEWISE: { return select(0.5 / t, 1 - 0.5 * t, t < 1); }
    default: { return t; }
  }
}

fn straight(x: f32) -> f32 {
  switch curve {
    case RECIPROCAL: { return 1 / x; }
    case LOGARITHMIC: { return exp(x); }
    case PIECEWISE: { return select(0.5 / x, 2 * (1 - x), x > 0.5); }
    default: { return x; }
  }
}

fn distance_at(ray: u32, share: f32) -> f32 {
  return straight(bent(rays[ray].t_in) * (1 - share) + bent(rays[ray].t_out) * share);
}

// What a bin between two distances stands for.
fn extent(ray: u32, start: f32, end: f32, is_last: bool) -> f32 {
  return select((end - start) * length(rays[ray].d), BEHIND, opaque && is_last);
}

fn slot(bin: u32, ray: u32) -> u32 { return bin * arrayLength(&rays) + ray; }

fn edge(ray: u32, number: u32) -> f32 { return before[slot(min(number, seen), ray)].start; }

// What the last network saw; before the first one all of the ray is alike.
fn weigh(ray: u32) {
  if (seen == 1) {
    before[slot(0, ray)] = Bin(0, 1);
    before[slot(1, ray)] = Bin(1, 0);
    return;
  }
  var leaving = 1.;
  var start = distance_at(ray, edge(ray, 0));
  for (var bin = 0u; bin < seen; bin++) {
    let end = distance_at(ray, edge(ray, bin + 1));
    let passes = exp(-density_of(rays[ray].first + bin) * extent(ray, start, end, bin + 1 == seen));
    let width = edge(ray, bin + 1) - edge(ray, bin);
    before[slot(bin, ray)].height = leaving * (1 - passes) / max(width, EPS * EPS);
    leaving *= passes;
    start = end;
  }
}

// ------------------------------------------------------------------------ the step function, widened by `reach`

// On from piece to piece, between neighbours of all edges, all starts moved back and all ends moved on.
struct Walk {
  start: f32,
  end: f32,
  mass: f32, // by the highest bin that reaches there
  edges: u32, // that lie behind, of each kind
  starts: u32,
  ends: u32,
  first: u32, // bin that reaches the piece
  behind: u32, // the last one that does
}

fn advance(ray: u32, walk: ptr<function, Walk>) {
  var w = *walk;
  let x = select(BEYOND, edge(ray, w.edges), w.edges <= seen);
  let y = select(BEYOND, edge(ray, w.starts) - reach, w.starts < seen);
  let z = select(BEYOND, edge(ray, w.ends + 1) + reach, w.ends < seen);
  let next = min(x, min(y, z));
  w.start = w.end;
  w.end = clamp(next, 0, 1);
  if (next == x) { w.edges++; } else if (next == y) { w.starts++; } else { w.ends++; }
  while (w.first < seen && edge(ray, w.first + 1) + reach <= w.start) { w.first++; }
  while (w.behind < seen && edge(ray, w.behind) - reach <= w.start) { w.behind++; }
  var height = 0.;
  for (var bin = w.first; bin < w.behind; bin++) { height = max(height, before[slot(bin, ray)].height); }
  w.mass = height * (w.end - w.start);
  *walk = w;
}

// Of pieces between the first and the last one: what divides masses, and what padded ones add up to.
fn totals(ray: u32) -> vec2f {
  var walk: Walk;
  advance(ray, &walk); // to the first edge
  var total = 0.;
  var inner = 0.;
  var filled = 0.;
  for (var i = 1u; i <= 3 * seen; i++) {
    advance(ray, &walk);
    total += walk.mass;
    if (i > 1 && i < 3 * seen && walk.end > walk.start) {
      inner += walk.mass;
      filled += 1;
    }
  }
  let by = select(1, max(total, EPS * EPS), reach > 0);
  return vec2f(by, inner / by + PADDING * filled);
}

fn padded(walk: Walk, totals: vec2f) -> f32 {
  return select(0, (walk.mass / totals.x + PADDING) / totals.y, walk.end > walk.start);
}

// Edges half way between centres, which are quantiles of what is seen; as they ascend, one walk finds all.
fn draw(ray: u32) {
  let all = totals(ray);
  let pad = 0.5 / f32(bins);
  let gap = (1 - 2 * pad - EPS) / f32(bins - 1);
  var walk: Walk;
  for (var i = 0; i < 3; i++) { advance(ray, &walk); } // into the second piece
  var left = 3 * seen - 3; // pieces but for the last
  var low = 0.; // the mass before the piece, and with it
  var high = select(padded(walk, all), 1, left == 0);
  var centre = 0.;
  for (var bin = 0u; bin < bins; bin++) {
    let u = pad + f32(bin) * gap;
    while (left > 0 && high <= u) {
      advance(ray, &walk);
      left--;
      low = high;
      high = select(min(low + padded(walk, all), 1), 1, left == 0);
    }
    let share = select(0, clamp((u - low) / (high - low), 0, 1), high > low);
    let last = centre;
    centre = walk.start + share * (walk.end - walk.start);
    drawn[slot(bin, ray)].start = 0.5 * (last + centre);
    if (bin == 1) { drawn[slot(0, ray)].start = clamp(2 * last - 0.5 * (last + centre), 0, 1); }
  }
  drawn[slot(bins, ray)].start = clamp(2 * centre - drawn[slot(bins - 1, ray)].start, 0, 1);
}

@compute @workgroup_size(64) fn propose(@builtin(global_invocation_id) at: vec3u) {
  let ray = at.x;
  if (ray >= frame.count || rays[ray].t_in >= rays[ray].t_out) { return; }
  weigh(ray);
  draw(ray);
  let first = atomicAdd(&counters.rows, bins);
  var start = distance_at(ray, drawn[slot(0, ray)].start);
  for (var bin = 0u; bin < bins; bin++) {
    let end = distance_at(ray, drawn[slot(bin + 1, ray)].start);
    ask(ray, first + bin, 0.5 * (start + end), 0.5 * (end - start));
    coordinates[length_at(first + bin)] = extent(ray, start, end, bin + 1 == bins);
    start = end;
  }
  rays[ray].first = first;
  rays[ray].found = bins;
}
