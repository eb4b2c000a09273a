// A network on the device: its buffers, and what is dispatched to take all rows of a round through it (network.wgsl).

const ADDS = { nothing: 0, codes: 1, floats: 2 }; // as network.wgsl has them
const PER_WORD = { codes: 4, floats: 1 }; // columns
const KERNELS = ["encode", "linear", "combine", "copy"];

// What is dispatched for a network's layer of each kind, from a step with the parts of what it is given.
// webgpu_few_bits.js has other kinds.
const LAYERS = {
  integer(network, { from, to, given, layer, rounding, added }) {
    const [one, two] = from.map((buffer) => network.buffers[buffer]);
    const words = width(given[0]) / 4;
    const adds = network.kindOf(from[1]);
    const [weights, outputs] = network.layer(layer, given[0]);
    const step = network.step({ words, relu: layer.relu, adds, rounding, added });
    const numbers = { 0: step, 1: one, 2: network.buffers[to], 3: two ?? one, 4: weights, 5: outputs };
    return [network.bound("linear", numbers, padded(layer.outputs) / 8)];
  },
};

const list = (count, of) => Array.from({ length: count }, (_, i) => of(i));

// What columns of an encoding are: coordinates as they are, and waves of them: the sine of an octave, or a quarter turn
// ahead its cosine.
const plain = (first, count) => list(count, (c) => ({ coordinate: first + c }));
const waves = (first, count, octave, ahead) => list(count, (c) => ({ coordinate: first + c, octave, ahead }));
const fourier = (first, octaves) => [
  plain(first, 3),
  list(octaves, (k) => list(2, (ahead) => waves(first, 3, k, ahead))),
];

// By a field's kind: how many coordinates it has beside directions, constants of its shader, and what is dispatched to
// encode them. webgpu_gaussians.js has another kind.
const ENCODERS = {
  nerf: {
    coordinates: () => 3,
    constants: () => ({}),
    steps(network) {
      const { i_embed, multires, inputs } = network.field;
      const columns = fourier(0, i_embed === -1 ? 0 : multires);
      return [network.encoding({ ...inputs.quant_pts, columns }), ...network.views()];
    },
  },
  light_field: {
    coordinates: ({ points }) => 3 * points,
    constants: () => ({}),
    steps(network) {
      const { points, i_embed, multires, multires_views, inputs } = network.field;
      const [octaves, ofViews] = i_embed === -1 ? [0, 0] : [multires, multires_views];
      const rows = (first, count, octaves) => list(2, (ahead) => list(octaves, (k) => waves(first, count, k, ahead)));
      const columns = [rows(0, 3 * points, octaves), rows(3 * points, network.coordinates - 3 * points, ofViews)];
      const places = { ...inputs.quant_places, columns: plain(0, network.coordinates) };
      return [network.encoding(places), network.encoding({ ...inputs.quant_waves, columns })];
    },
  },
};

const padded = (columns) => 8 * Math.ceil(columns / 8);
const width = (parts) => parts.reduce((sum, columns) => sum + padded(columns), 0);

function room(device, bytes, usage = GPUBufferUsage.STORAGE) {
  return device.createBuffer({ size: bytes, usage });
}

function filled(device, content, usage = GPUBufferUsage.STORAGE) {
  const buffer = device.createBuffer({ size: content.byteLength, usage, mappedAtCreation: true });
  new Uint8Array(buffer.getMappedRange()).set(new Uint8Array(content.buffer));
  buffer.unmap();
  return buffer;
}

// Pipelines of one source's functions, by their names.
async function compiled(device, code, constants, names) {
  const module = device.createShaderModule({ code });
  const compile = (entryPoint) =>
    device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint, constants } });
  const made = await Promise.all(names.map(compile));
  return Object.fromEntries(names.map((name, i) => [name, made[i]]));
}

// A pipeline with its buffers, by their numbers in the source.
function bound(device, pipeline, buffers) {
  const entries = Object.entries(buffers).map(([number, buffer]) => ({ binding: +number, resource: { buffer } }));
  return { pipeline, group: device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }) };
}

// eslint-disable-next-line no-unused-vars -- the page joins its scripts
class GpuNetwork {
  // coordinates: that encodings are made of.
  constructor(device, { described, arrays }, field, coordinates) {
    this.device = device;
    this.field = field;
    this.places = described.arrays;
    this.arrays = arrays;
    this.coordinates = coordinates;
    this.plans = this.plan();
    this.bytes = this.field.buffers.map(([kind], i) => (4 / PER_WORD[kind]) * this.widths[i]);
  }

  // Of the largest buffer.
  get bytesPerRow() {
    return Math.max(4 * this.coordinates + 4, ...this.bytes);
  }

  // seen: the coordinates of so many rows.
  async build(code, rows, seen) {
    this.buffers = this.bytes.map((perRow) => room(this.device, perRow * rows));
    this.seen = seen;
    this.rows = rows;
    const encoder = ENCODERS[this.field.kind];
    this.kernels = await compiled(this.device, code, { rows, ...encoder.constants(this.field) }, KERNELS);
    this.steps = [...encoder.steps(this), ...this.products()];
    const groups = new Uint32Array(this.steps.flatMap(({ groups }) => [0, groups, 1])); // of rows, of columns
    this.dispatches = filled(this.device, groups, GPUBufferUsage.STORAGE | GPUBufferUsage.INDIRECT);
  }

  get outputs() {
    return this.field.outputs.map((buffer) => this.buffers[buffer]);
  }

  // Steps with the parts of what each is given: each part that a concatenation joins starts at a multiple of eight
  // columns, so that joining is copying. Notes how wide every buffer has to be.
  plan() {
    const { field } = this;
    const parts = field.buffers.map(([, columns]) => [columns]);
    this.widths = parts.map(width);
    return field.steps.map((step) => {
      const given = step.from.map((buffer) => parts[buffer]);
      const joins = step.kind === "concat";
      const gives = joins ? given.flat() : step.layer ? [step.layer.outputs] : given[0];
      if (!joins && given[1] && String(given[1]) !== String(gives)) throw new Error("a sum of unlike parts");
      parts[step.to] = gives;
      this.widths[step.to] = Math.max(this.widths[step.to], width(gives));
      return { ...step, given };
    });
  }

  // A kernel with its buffers, and how many groups of columns it takes.
  bound(name, buffers, groups) {
    return { ...bound(this.device, this.kernels[name], buffers), groups };
  }

  encoding({ buffer, rounding, columns }, kernel = "encode", source = this.seen) {
    const table = this.columns(columns);
    const step = this.step(this.kindOf(buffer) === ADDS.codes ? { rounding } : {});
    const numbers = { 0: step, 1: source, 2: this.buffers[buffer], 6: table };
    return this.bound(kernel, numbers, this.widths[buffer] / 4);
  }

  // What becomes of the encodings, in order.
  products() {
    return this.plans.flatMap((plan) => {
      const { kind, from, to, given, layer, rounding, added } = plan;
      if (layer) return LAYERS[layer.kind](this, plan);
      const [one, two] = from.map((buffer) => this.buffers[buffer]);
      const result = this.buffers[to];
      if (kind === "concat") {
        const perWord = PER_WORD[this.field.buffers[to][0]];
        return from.map((buffer, i) => {
          const step = this.step({ words: width(given.slice(0, i).flat()) / perWord });
          return this.bound("copy", { 0: step, 1: this.buffers[buffer], 2: result }, width(given[i]) / perWord);
        });
      }
      // Of a sum the second is floats, to which the first is added, codes or floats.
      const step = this.step({ adds: kind === "add" ? this.kindOf(from[0]) : ADDS.nothing, rounding, added });
      return [this.bound("combine", { 0: step, 1: two ?? one, 2: result, 3: one }, width(given[0]) / 4)];
    });
  }

  // What a step adds that adds this buffer.
  kindOf(buffer) {
    return ADDS[buffer === undefined ? "nothing" : this.field.buffers[buffer][0]];
  }

  step({ words = 0, relu = false, adds = ADDS.nothing, rounding, added, byRow = false, normed = 0 }) {
    const numbers = new Uint32Array(11);
    numbers.set([words, Number(relu), adds, Number(Boolean(rounding))]);
    numbers[9] = Number(byRow);
    const floats = new Float32Array(numbers.buffer);
    floats.set([...(rounding ?? [1, 0, 0]), ...(added ?? [1, 0]).slice(0, 2)], 4);
    floats[10] = normed;
    return filled(this.device, numbers, GPUBufferUsage.UNIFORM);
  }

  // Without a number: undefined.
  array(number, Kind) {
    if (number === undefined) return number;
    const [start, length] = this.places[number];
    return new Kind(this.arrays.slice(start, start + 4 * Math.ceil(length / 4)).buffer); // to where the next one starts
  }

  // Where the inputs of a layer lie in their buffer.
  columnsOf(parts) {
    let start = 0;
    return parts.flatMap((part) => {
      const columns = Array.from({ length: part }, (_, i) => start + i);
      start += padded(part);
      return columns;
    });
  }

  // Weights by blocks of eight outputs, floats or four inputs to a word; outputs as network.wgsl has them.
  layer(layer, parts) {
    const [Kind, perWord] = layer.scale === undefined ? [Float32Array, 1] : [Int8Array, 4];
    const words = width(parts) / perWord;
    const weight = this.array(layer.weight, Kind);
    const zeros = this.array(layer.zero_points, Uint8Array);
    const [scale, bias] = [this.array(layer.scale, Float32Array), this.array(layer.bias, Float32Array)];
    const packed = new Kind(perWord * words * padded(layer.outputs));
    const outputs = new Int32Array(3 * padded(layer.outputs));
    const floats = new Float32Array(outputs.buffer);
    const columns = this.columnsOf(parts);
    for (let o = 0; o < layer.outputs; o++) {
      floats.set([scale?.[o], bias[o]], 3 * o);
      columns.forEach((column, i) => {
        const w = weight[o * layer.inputs + i];
        const word = (o >> 3) * words + Math.floor(column / perWord);
        packed[(word * 8 + (o & 7)) * perWord + (column % perWord)] = w;
        if (zeros) outputs[3 * o + 2] += w * (zeros[i] - 128);
      });
    }
    return [filled(this.device, packed), filled(this.device, outputs)];
  }

  // Directions, which are the last coordinates.
  views() {
    const { i_embed, multires_views, inputs } = this.field;
    const columns = fourier(this.coordinates - 3, i_embed === -1 ? 0 : multires_views);
    return inputs.quant_views ? [this.encoding({ ...inputs.quant_views, columns })] : [];
  }

  // A table of what network.wgsl's `encode` puts into each column.
  columns(columns) {
    const all = columns.flat(Infinity);
    const numbers = new Uint32Array(3 * all.length);
    const floats = new Float32Array(numbers.buffer);
    all.forEach(({ coordinate, octave, ahead }, i) => {
      numbers[3 * i] = coordinate;
      if (octave !== undefined) floats.set([2 ** octave / (2 * Math.PI), ahead / 4], 3 * i + 1);
    });
    return filled(this.device, numbers);
  }
}
