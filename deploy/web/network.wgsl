// A network's steps over all rows of a round. A thread has four rows: a vector's components are rows, a matrix's
// columns are columns of the tensor. Tensors lie column by column, so that threads side by side read side by side:
// floats as [columns][rows], codes as [columns / 4][rows], four to a word, less 128 each, for products of signed bytes.
requires packed_4x8_integer_dot_product;

struct Step {
  words: u32, // of the input, of a copy those before it
  relu: u32,
  adds: u32, // NOTHING, CODES or FLOATS
  rounds: u32, // whether codes come out
  scale: f32, // of the rounding: round(x / scale) + zero_point, in 0 to most
  zero_point: f32,
  most: f32,
  added_scale: f32,
  added_zero_point: f32,
  by_row: u32, // whether each row has a step of its own, behind its codes
  normed: f32, // columns that an RMSNorm is over, 0: none
}

// scale (sum - shift) + bias
struct Output {
  scale: f32,
  bias: f32,
  shift: i32, // what zero points add to the sum, and the 128 that codes are stored without
}

// Of an encoding: a coordinate, or its sine at so many turns a unit, so many turns ahead. Behind the last: zeros.
struct Column {
  coordinate: u32,
  frequency: f32, // 0: the coordinate as it is
  phase: f32,
}

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> source: array<vec4u>; // of codes, or of floats by their bits, as the next ones
@group(0) @binding(2) var<storage, read_write> result: array<vec4u>;
@group(0) @binding(3) var<storage, read> added: array<vec4u>;
@group(0) @binding(4) var<storage, read> weights: array<vec4u>; // [outputs / 8][words][8][4], or floats, one each
@group(0) @binding(5) var<storage, read> outputs: array<Output>;
@group(0) @binding(6) var<storage, read> columns: array<Column>;

override rows: u32;

const NOTHING = 0u;
const CODES = 1u;
const FLOATS = 2u;

// Where the four rows of a column, or of a word, lie.
fn place(column: u32, four: u32) -> u32 { return column * (rows / 4) + four; }

// ------------------------------------------------------------------------------------------------ codes and floats

fn code(x: vec4f) -> vec4u {
  return vec4u(clamp(round(x / step.scale) + step.zero_point, vec4f(), vec4f(step.most)));
}

fn packed(x: mat4x4f) -> vec4u {
  let word = code(x[0]) | (code(x[1]) << vec4u(8)) | (code(x[2]) << vec4u(16)) | (code(x[3]) << vec4u(24));
  return word ^ vec4u(0x80808080); // a flipped highest bit takes 128 away
}

fn float_of(word: vec4u, first: u32) -> vec4f {
  return (vec4f(extractBits(word, first, 8)) - step.added_zero_point) * step.added_scale;
}

fn added_floats(group: u32, four: u32) -> mat4x4f {
  if (step.adds == CODES) {
    let word = added[place(group, four)] ^ vec4u(0x80808080);
    return mat4x4f(float_of(word, 0), float_of(word, 8), float_of(word, 16), float_of(word, 24));
  }
  let c = 4 * group;
  let a = bitcast<vec4f>(added[place(c, four)]);
  let b = bitcast<vec4f>(added[place(c + 1, four)]);
  return mat4x4f(a, b, bitcast<vec4f>(added[place(c + 2, four)]), bitcast<vec4f>(added[place(c + 3, four)]));
}

// Four columns of a result.
fn store(group: u32, four: u32, x: mat4x4f) {
  if (step.rounds == 1) {
    result[place(group, four)] = packed(x);
  } else {
    result[place(4 * group, four)] = bitcast<vec4u>(x[0]);
    result[place(4 * group + 1, four)] = bitcast<vec4u>(x[1]);
    result[place(4 * group + 2, four)] = bitcast<vec4u>(x[2]);
    result[place(4 * group + 3, four)] = bitcast<vec4u>(x[3]);
  }
}

// The same, once what is to be added to them is.
fn finish(group: u32, four: u32, y: mat4x4f) {
  var x = y;
  if (step.adds != NOTHING) { x += added_floats(group, four); }
  store(group, four, x);
}

// --------------------------------------------------------------------------------------------------------- the steps

fn dots(x: vec4u, w: u32) -> vec4i {
  return vec4i(dot4I8Packed(x.x, w), dot4I8Packed(x.y, w), dot4I8Packed(x.z, w), dot4I8Packed(x.w, w));
}

fn output(number: u32, sums: vec4f) -> vec4f {
  let y = sums + outputs[number].bias;
  return select(y, max(y, vec4f()), step.relu == 1);
}

// Of whole numbers, in steps of four rows.
fn scaled(number: u32, sums: vec4i, steps: vec4f) -> vec4f {
  let its = outputs[number];
  return output(number, vec4f(sums - its.shift) * its.scale * steps);
}

// Eight outputs of four rows, whose sums stay in registers.
@compute @workgroup_size(64) fn linear(@builtin(global_invocation_id) at: vec3u) {
  var a: vec4i; var b: vec4i; var c: vec4i; var d: vec4i;
  var e: vec4i; var f: vec4i; var g: vec4i; var h: vec4i;
  var next = 2 * at.y * step.words;
  for (var word = 0u; word < step.words; word++) {
    let x = source[place(word, at.x)];
    let v = weights[next];
    let w = weights[next + 1];
    a += dots(x, v.x); b += dots(x, v.y); c += dots(x, v.z); d += dots(x, v.w);
    e += dots(x, w.x); f += dots(x, w.y); g += dots(x, w.z); h += dots(x, w.w);
    next += 2;
  }
  let o = 8 * at.y;
  var s = vec4f(1);
  if (step.by_row == 1) { s = floats(step.words, at.x); }
  finish(2 * at.y, at.x, mat4x4f(scaled(o, a, s), scaled(o + 1, b, s), scaled(o + 2, c, s), scaled(o + 3, d, s)));
  finish(
    2 * at.y + 1, at.x, mat4x4f(scaled(o + 4, e, s), scaled(o + 5, f, s), scaled(o + 6, g, s), scaled(o + 7, h, s)));
}

fn floats(column: u32, four: u32) -> vec4f { return bitcast<vec4f>(source[place(column, four)]); }

// Sums and roundings of floats.
@compute @workgroup_size(64) fn combine(@builtin(global_invocation_id) at: vec3u) {
  let c = 4 * at.y;
  finish(at.y, at.x, mat4x4f(floats(c, at.x), floats(c + 1, at.x), floats(c + 2, at.x), floats(c + 3, at.x)));
}

// One part of a concatenation.
@compute @workgroup_size(64) fn copy(@builtin(global_invocation_id) at: vec3u) {
  result[place(step.words + at.y, at.x)] = source[place(at.y, at.x)];
}

// Of turns, to the last bits of float32: a device's own sine may be off by a tenth of a code.
fn sine(turns: vec4f) -> vec4f {
  var r = turns - round(turns);
  r = select(r, sign(r) * 0.5 - r, abs(r) > vec4f(0.25));
  let x = 6.28318530718 * r;
  let z = x * x;
  return x * (1 + z * (-1. / 6 + z * (1. / 120 + z * (-1. / 5040 + z * (1. / 362880 - z / 39916800)))));
}

fn wave(number: u32, four: u32) -> vec4f {
  if (number >= arrayLength(&columns)) { return vec4f(); }
  let column = columns[number];
  let x = floats(column.coordinate, four);
  let turns = x * column.frequency;
  return select(x, sine(turns - round(turns) + column.phase), column.frequency > 0);
}

@compute @workgroup_size(64) fn encode(@builtin(global_invocation_id) at: vec3u) {
  let c = 4 * at.y;
  store(at.y, at.x, mat4x4f(wave(c, at.x), wave(c + 1, at.x), wave(c + 2, at.x), wave(c + 3, at.x)));
}
