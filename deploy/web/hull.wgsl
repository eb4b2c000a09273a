// Behind grid.wgsl, whose cells hold all there is and are grown by half a diagonal: grid.h's `span`.

// Between where a ray meets occupied cells for the first and the last time; an empty one where it meets none.
fn span(ray: Ray) -> vec2f {
  let ends = clip_to_cells(ray);
  let gap = (ends.y - ends.x) / f32(side);
  var first = side;
  var last = -1;
  for (var i = 0; i < side && gap > 0; i++) {
    if (!occupied(ray, ends.x + (f32(i) + 0.5) * gap)) { continue; }
    first = min(first, i);
    last = i;
  }
  return select(vec2f(), ends.x + vec2f(f32(first), f32(last + 1)) * gap, last >= 0);
}
