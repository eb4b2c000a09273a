// Behind rays.wgsl: what networks of cones are asked: Gaussians of frusta, see rendering/cones.py for the equations.

const PIXEL_RADIUS = 0.57735027; // of a disc of a pixel's variance, widths of the pixel
const LEAST_SCALE = 1.1920929e-7;

// From `half` before the middle to `half` behind it. A row has the mean, the direction, and the variances along it, in
// multiples of it, and across it.
fn ask(ray: u32, row: u32, middle: f32, half: f32) {
  let h2 = half * half;
  var t_mean = middle;
  var t_var = h2 / 3;
  var spread = 0.25;
  if (ndc_near == 0) {
    let m2 = middle * middle;
    let ratio = h2 / max(3 * m2 + h2, LEAST_SCALE);
    t_mean += 2 * middle * ratio;
    t_var -= 4. / 15 * ratio * ratio * (12 * m2 - h2);
    spread = m2 / 4 + 5. / 12 * h2 - 4. / 15 * ratio * h2;
  }
  let radius = PIXEL_RADIUS * pixel_width(1);
  put(row, 0, rays[ray].o + t_mean * rays[ray].d);
  put(row, 3, rays[ray].d);
  coordinates[6 * rows + row] = t_var;
  coordinates[7 * rows + row] = radius * radius * spread;
  if (views) { put(row, 8, rays[ray].view); }
}
