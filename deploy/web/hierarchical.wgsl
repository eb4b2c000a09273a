// Behind rays.wgsl: NeRF's coarse samples of a ray, and fine ones where these saw something.

override samples: u32; // of the coarse pass
override importance: u32; // that the fine one has more
override lindisp: bool;

const PADDING = 1e-5; // of a bin's weight, and the least share that is divided by
const BEHIND = 1e10; // what the last sample stands for

fn set_out(ray: ptr<function, Ray>) {}

fn coarse(number: u32) -> f32 {
  let u = f32(number) / f32(samples - 1);
  if (lindisp) { return 1 / ((1 - u) / near + u / far); }
  return near + (far - near) * u;
}

fn middle(number: u32) -> f32 { return 0.5 * (coarse(number) + coarse(number + 1)); }

fn gap(number: u32) -> f32 { return select(coarse(number + 1) - coarse(number), BEHIND, number + 1 == samples); }

@compute @workgroup_size(64) fn spread(@builtin(global_invocation_id) at: vec3u) {
  let ray = at.x;
  if (ray >= frame.count) { return; }
  let first = atomicAdd(&counters.rows, samples);
  for (var i = 0u; i < samples; i++) {
    ask(ray, first + i, coarse(i), 0);
    coordinates[length_at(first + i)] = gap(i) * length(rays[ray].d);
  }
  rays[ray].first = first;
  rays[ray].found = samples;
}

// The padded weight of a coarse sample, of the light that those before it leave.
fn weight(ray: u32, number: u32, leaving: ptr<function, f32>) -> f32 {
  let passes = exp(-density_of(rays[ray].first + number) * gap(number) * length(rays[ray].d));
  let before = *leaving;
  *leaving *= passes;
  return before * (1 - passes) + PADDING;
}

// Both passes' samples in order. Those of the fine one lie between the coarse ones' middles, evenly by the mass of the
// weights, the outermost left out: as both ascend, one walk over the bins finds all.
@compute @workgroup_size(64) fn refine(@builtin(global_invocation_id) at: vec3u) {
  let ray = at.x;
  if (ray >= frame.count) { return; }
  var leaving = 1.;
  weight(ray, 0, &leaving);
  var total = 0.;
  for (var i = 1u; i < samples - 1; i++) { total += weight(ray, i, &leaving); }
  leaving = 1;
  weight(ray, 0, &leaving);
  var bin = 0u;
  var low = 0.; // the mass before it, and with it
  var high = weight(ray, 1, &leaving) / total;
  let first = atomicAdd(&counters.rows, samples + importance);
  let norm = length(rays[ray].d);
  var drawn = 0u;
  var before = 0.;
  for (var i = 0u; i < samples + importance; i++) {
    let u = f32(drawn) / f32(max(importance, 2) - 1);
    while (bin + 3 < samples && high <= u) {
      bin++;
      low = high;
      high += weight(ray, bin + 1, &leaving) / total;
    }
    let share = clamp((u - low) / max(high - low, PADDING), 0, 1);
    var t = middle(bin) + share * (middle(bin + 1) - middle(bin));
    let kept = i - drawn; // coarse samples so far
    if (drawn == importance || (kept < samples && coarse(kept) <= t)) { t = coarse(kept); } else { drawn++; }
    ask(ray, first + i, t, 0);
    if (i > 0) { coordinates[length_at(first + i - 1)] = (t - before) * norm; }
    before = t;
  }
  coordinates[length_at(first + samples + importance - 1)] = BEHIND * norm;
  rays[ray].first = first;
  rays[ray].found = samples + importance;
}
