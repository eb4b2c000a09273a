// What few-bit networks have beside network.wgsl: rows rounded by their own largest, and layers of floats.

const SMALLEST = 1e-5; // of a row's largest
const NORM_EPS = 1e-6;

// Four columns of four rows, times the gains before them. Of a column that only fills up the gain is 0.
fn gained(word: u32, four: u32) -> mat4x4f {
  let c = 4 * word;
  let g = bitcast<vec4f>(weights[word]);
  return mat4x4f(
    g.x * floats(c, four), g.y * floats(c + 1, four), g.z * floats(c + 2, four), g.w * floats(c + 3, four));
}

fn largest(x: mat4x4f) -> vec4f { return max(max(abs(x[0]), abs(x[1])), max(abs(x[2]), abs(x[3]))); }

fn signed_code(x: vec4f) -> vec4u { return vec4u(vec4i(round(x))) & vec4u(255); }

// Codes of four rows, and behind them the rows' steps. The norm's division cancels in codes and is left for the step.
@compute @workgroup_size(64) fn round_rows(@builtin(global_invocation_id) at: vec3u) {
  var most = vec4f();
  var squares = vec4f();
  for (var word = 0u; word < step.words; word++) {
    most = max(most, largest(gained(word, at.x)));
    for (var i = 0u; i < 4; i++) {
      let x = floats(4 * word + i, at.x);
      squares += x * x;
    }
  }
  let size = select(vec4f(1), 1 / sqrt(squares / step.normed + NORM_EPS), step.normed > 0);
  let steps = max(most * size, vec4f(SMALLEST)) / 127;
  let times = size / steps;
  for (var word = 0u; word < step.words; word++) {
    let x = gained(word, at.x);
    result[place(word, at.x)] = signed_code(x[0] * times) | (signed_code(x[1] * times) << vec4u(8))
      | (signed_code(x[2] * times) << vec4u(16)) | (signed_code(x[3] * times) << vec4u(24));
  }
  result[place(step.words, at.x)] = bitcast<vec4u>(steps);
}

fn four_outputs(o: u32, x: mat4x4f) -> mat4x4f {
  return mat4x4f(output(o, x[0]), output(o + 1, x[1]), output(o + 2, x[2]), output(o + 3, x[3]));
}

// Eight outputs of four rows, as `linear`'s.
@compute @workgroup_size(64) fn linear_of_floats(@builtin(global_invocation_id) at: vec3u) {
  var low: mat4x4f;
  var high: mat4x4f;
  var next = 2 * at.y * step.words;
  for (var column = 0u; column < step.words; column++) {
    let x = floats(column, at.x);
    let v = bitcast<vec4f>(weights[next]);
    let w = bitcast<vec4f>(weights[next + 1]);
    low += mat4x4f(x * v.x, x * v.y, x * v.z, x * v.w);
    high += mat4x4f(x * w.x, x * w.y, x * w.z, x * w.w);
    next += 2;
  }
  store(2 * at.y, at.x, four_outputs(8 * at.y, low));
  store(2 * at.y + 1, at.x, four_outputs(8 * at.y + 4, high));
}
