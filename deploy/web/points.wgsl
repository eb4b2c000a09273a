// Behind rays.wgsl: what networks of points are asked.

fn ask(ray: u32, row: u32, t: f32, half: f32) {
  put(row, 0, rays[ray].o + t * rays[ray].d);
  if (views) { put(row, 3, rays[ray].view); }
}
