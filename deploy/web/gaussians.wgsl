// What networks of cones have beside network.wgsl: Gaussians seen along the directions of a basis, and their encoding.

@group(0) @binding(7) var<storage, read> basis: array<f32>; // [directions][3]

override directions: u32;
override unit: f32; // of the network's space, in the world's
override contracted: bool;

const LEAST_LENGTH = 1e-10;
const TURN = 6.28318530718;

fn vectors(first: u32, four: u32) -> mat3x4f {
  return mat3x4f(floats(first, four), floats(first + 1, four), floats(first + 2, four));
}

fn products(a: mat3x4f, b: mat3x4f) -> vec4f { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// One direction's: means, and `directions` columns on variances.
@compute @workgroup_size(64) fn project(@builtin(global_invocation_id) at: vec3u) {
  let b = vec3f(basis[3 * at.y], basis[3 * at.y + 1], basis[3 * at.y + 2]);
  let mean = vectors(0, at.x) * (1 / unit);
  let d = vectors(3, at.x) * (1 / unit);
  var seen = mean * b;
  var along = d * b;
  var stretch = vec4f(1);
  if (contracted) {
    let inverse = 1 / sqrt(max(products(mean, mean), vec4f(1))); // 1 inside, where all below leaves things as they are
    let across = (2 - inverse) * inverse;
    let radial = inverse * inverse;
    let towards = seen * inverse;
    along = across * along + (radial - across) * towards * (products(mean, d) * inverse);
    stretch = across * across + (radial * radial - across * across) * towards * towards;
    seen *= across;
  }
  let square = along * along;
  let length = max(products(d, d), vec4f(LEAST_LENGTH));
  let r_var = floats(7, at.x) / (unit * unit);
  let variance = floats(6, at.x) * square + r_var * max(stretch - square / length, vec4f());
  result[place(at.y, at.x)] = bitcast<vec4u>(seen);
  result[place(directions + at.y, at.x)] = bitcast<vec4u>(variance);
}

// What is expected of a wave over a Gaussian: the wider that is, the less.
fn faded(number: u32, four: u32) -> vec4f {
  if (number >= arrayLength(&columns)) { return vec4f(); }
  let column = columns[number];
  let frequency = TURN * column.frequency;
  let variance = floats(directions + column.coordinate, four);
  return wave(number, four) * exp(-0.5 * frequency * frequency * variance);
}

@compute @workgroup_size(64) fn encode_gaussians(@builtin(global_invocation_id) at: vec3u) {
  let c = 4 * at.y;
  store(at.y, at.x, mat4x4f(faded(c, at.x), faded(c + 1, at.x), faded(c + 2, at.x), faded(c + 3, at.x)));
}
