// The page's other engine: WebGPU, whose kernels (rays.wgsl, network.wgsl) render int8 files in rounds. In each one every
// ray that is not done asks for its next few samples, the network takes them all, and their answers are composited.

const MOST_RAYS = 16384; // of a piece of the picture
const FEWEST_RAYS = 256;
const SAMPLES = 4; // of a ray in a round, while no ray is done; LEAST in rays.wgsl
const ROUNDS = 4; // between two looks at whether any ray is left
const PIECE = 30; // milliseconds, about: between two looks at whether a newer picture is asked for
const MOST_BYTES = 2 ** 27; // of a buffer that kernels read: WebGPU's limit where none is asked for
const WORKGROUP = 64; // threads; those of the network have four rows each
const ADDS = { nothing: 0, codes: 1, floats: 2 };

const padded = (columns) => 8 * Math.ceil(columns / 8);
const width = (parts) => parts.reduce((sum, columns) => sum + padded(columns), 0);

// eslint-disable-next-line no-unused-vars -- the page asks for it
class WebGpuEngine {
  static supports({ sampler, fields }) {
    const [field] = fields;
    const samples = sampler.kind === "occupancy" && field.kind === "nerf";
    const places = sampler.kind === "light_field" && sampler.every; // in occupied cells
    return Boolean(samples || places) && field.steps.every(({ layer }) => !layer || layer.kind === "integer");
  }

  // The engine, or null where there is no adapter for it; throws what its device says against its kernels.
  // model: described, and its arrays. shaders: sources. spare: makes the engine to go on with where the device is lost.
  static async on(adapter, model, shaders, spare) {
    const device = await adapter.requestDevice();
    const scopes = ["validation", "out-of-memory"];
    scopes.forEach((scope) => device.pushErrorScope(scope));
    const engine = new WebGpuEngine(adapter, device, model, spare);
    const failed = await engine.build(shaders).then(() => null, (error) => error);
    const errors = await Promise.all(scopes.map(() => device.popErrorScope()));
    const error = [...errors, failed].find(Boolean); // of its own words first
    if (error) throw new Error(error.message);
    return engine;
  }

  constructor(adapter, device, { described, arrays }, spare) {
    const { vendor, architecture, description } = adapter.info;
    this.name = `WebGPU (${description || `${vendor} ${architecture}`.trim()})`;
    this.device = device;
    this.described = described;
    this.arrays = arrays;
    this.makeSpare = spare;
    this.spare = null;
    this.piece = FEWEST_RAYS; // rays, as many as there is time for
    this.id = 0;
    this.turn = Promise.resolve(); // when the picture before has left the device
  }

  // ------------------------------------------------------------------------------------------------ building it

  async build({ rays, network }) {
    const { device } = this;
    const [field] = this.described.fields;
    this.lightField = this.described.sampler.kind === "light_field";
    const plans = this.plan(field);
    this.fit(field);
    const kernels = (code, constants, names) => {
      const module = device.createShaderModule({ code });
      const made = names.map((entryPoint) =>
        device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint, constants } }),
      );
      return Promise.all(made).then((pipelines) => Object.fromEntries(names.map((name, i) => [name, pipelines[i]])));
    };
    const asks = this.lightField ? ["find_places", "take_colors"] : ["march", "composite"];
    const ofRays = ["begin", asks[0], "plan", asks[1], "finish"];
    const made = await Promise.all([
      kernels(rays, this.constants(field), ofRays),
      kernels(network, { rows: this.rows }, ["encode", "linear", "combine", "copy"]),
    ]);
    this.steps = this.network(field, plans, made[1]);
    this.kernels = this.ofRays(field, made[0], ofRays);
  }

  // What each step of the network is given and gives, by parts: each tensor that a concatenation joined starts at a
  // multiple of eight columns, so that joining is copying.
  plan(field) {
    const parts = field.buffers.map(([, columns]) => [columns]);
    this.widths = parts.map(width);
    return field.steps.map((step) => {
      const given = step.from.map((buffer) => parts[buffer]);
      const ofLayer = step.layer && [step.layer.outputs];
      const gives = ofLayer ?? (step.kind === "concat" ? given.flat() : given[0]);
      if (step.kind !== "concat" && given[1] && String(given[1]) !== String(gives)) throw new Error("a sum of unlike parts");
      parts[step.to] = gives;
      this.widths[step.to] = Math.max(this.widths[step.to], width(gives));
      return { ...step, given };
    });
  }

  // Room for as many rays as the device has.
  fit(field) {
    this.coordinates = this.lightField ? 3 * field.points : 3;
    if (field.use_viewdirs) this.coordinates += 3;
    const bytes = field.buffers.map(([kind], i) => (kind === "floats" ? 4 : 1) * this.widths[i]);
    const perRay = (this.lightField ? 1 : SAMPLES) * Math.max(4 * this.coordinates, ...bytes);
    this.mostRays = MOST_RAYS;
    while (this.mostRays * perRay > MOST_BYTES) this.mostRays /= 2;
    this.rows = this.mostRays * (this.lightField ? 1 : SAMPLES);
    this.buffers = bytes.map((ofRow) => this.room(ofRow * this.rows));
    this.seen = this.room(4 * this.coordinates * this.rows);
  }

  constants(field) {
    const { rays, sampler } = this.described;
    const [low, high] = sampler.aabb;
    const cells = low.map((x, i) => (high[i] - x) / sampler.grid_resolution);
    const [red, green, blue] = rays.background;
    return {
      rows: this.rows, near: rays.near, far: rays.far, ndc_near: rays.ndc_near ?? 0, pixel_offset: rays.pixel_offset,
      red, green, blue, low_x: low[0], low_y: low[1], low_z: low[2], high_x: high[0], high_y: high[1], high_z: high[2],
      side: sampler.grid_resolution, step: sampler.step ?? Math.max(...cells),
      min_transmittance: sampler.min_transmittance ?? 0, density_column: field.outputs.length > 1 ? 0 : 3,
      softplus: Number(field.density_activation === "softplus"), density_bias: field.density_bias ?? 0,
      density_scale: field.density_scale ?? 1, views: Number(field.use_viewdirs), points: field.points ?? 0,
      every: sampler.every ?? 1,
    };
  }

  room(bytes, usage = GPUBufferUsage.STORAGE) {
    return this.device.createBuffer({ size: bytes, usage });
  }

  filled(content, usage = GPUBufferUsage.STORAGE) {
    const buffer = this.device.createBuffer({ size: content.byteLength, usage, mappedAtCreation: true });
    const bytes = new Uint8Array(content.buffer ?? content, content.byteOffset ?? 0, content.byteLength);
    new Uint8Array(buffer.getMappedRange()).set(bytes);
    buffer.unmap();
    return buffer;
  }

  array(number, Kind) {
    const [start, length] = this.described.arrays[number];
    return new Kind(this.arrays.slice(start, start + 4 * Math.ceil(length / 4)).buffer); // as they are padded
  }

  // A pipeline with its buffers, by their numbers in the source.
  bound(pipeline, buffers) {
    const entries = Object.entries(buffers).map(([number, buffer]) => ({ binding: Number(number), resource: { buffer } }));
    return { pipeline, group: this.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }) };
  }

  // What is dispatched for a network: its encodings, then its steps. groups: of columns, in y.
  network(field, plans, kernels) {
    const made = this.encodings(field).map(({ buffer, rounding, columns }) => {
      const [result, table] = [this.buffers[buffer], this.columns(columns, this.widths[buffer])];
      const numbers = { 0: this.step({ rounding }), 1: this.seen, 2: result, 6: table };
      return { ...this.bound(kernels.encode, numbers), groups: this.widths[buffer] / 4 };
    });
    for (const { kind, from, to, given, layer, rounding, added } of plans) {
      const [one, two] = from.map((buffer) => this.buffers[buffer]);
      const result = this.buffers[to];
      const kindOf = (buffer) => ADDS[field.buffers[buffer]?.[0] ?? "nothing"];
      if (kind === "linear") {
        const words = width(given[0]) / 4;
        const step = this.step({ words, relu: layer.relu, adds: kindOf(from[1]), rounding, added });
        const [weights, outputs] = this.layer(layer, given[0], words);
        const numbers = { 0: step, 1: one, 2: result, 3: two ?? one, 4: weights, 5: outputs };
        made.push({ ...this.bound(kernels.linear, numbers), groups: padded(layer.outputs) / 8 });
      } else if (kind === "concat") {
        let words = 0;
        from.forEach((buffer, i) => {
          const numbers = { 0: this.step({ words }), 1: this.buffers[buffer], 2: result };
          made.push({ ...this.bound(kernels.copy, numbers), groups: width(given[i]) / 4 });
          words += width(given[i]) / 4;
        });
      } else {
        const step = this.step({ adds: kind === "add" ? kindOf(from[0]) : ADDS.nothing, rounding, added });
        const numbers = { 0: step, 1: two ?? one, 2: result, 3: one };
        made.push({ ...this.bound(kernels.combine, numbers), groups: width(given[0]) / 4 });
      }
    }
    return made;
  }

  step({ words = 0, relu = false, adds = ADDS.nothing, rounding, added }) {
    const numbers = new Uint32Array(9);
    numbers.set([words, Number(relu), adds, Number(Boolean(rounding))]);
    new Float32Array(numbers.buffer).set([...(rounding ?? [1, 0, 0]), ...(added ?? [1, 0]).slice(0, 2)], 4);
    return this.filled(numbers, GPUBufferUsage.UNIFORM);
  }

  // Weights by blocks of eight outputs, four inputs to a word; outputs as network.wgsl has them.
  layer(layer, parts, words) {
    const [weight, zeros] = [this.array(layer.weight, Int8Array), this.array(layer.zero_points, Uint8Array)];
    const [scale, bias] = [this.array(layer.scale, Float32Array), this.array(layer.bias, Float32Array)];
    const packed = new Int8Array(4 * words * padded(layer.outputs));
    const outputs = new Int32Array(3 * padded(layer.outputs));
    const floats = new Float32Array(outputs.buffer);
    const columns = []; // of the inputs, in their buffer
    let start = 0;
    for (const part of parts) {
      for (let i = 0; i < part; i++) columns.push(start + i);
      start += padded(part);
    }
    for (let o = 0; o < layer.outputs; o++) {
      floats.set([scale[o], bias[o]], 3 * o);
      columns.forEach((column, i) => {
        const w = weight[o * layer.inputs + i];
        packed[(((o >> 3) * words + (column >> 2)) * 8 + (o & 7)) * 4 + (column & 3)] = w;
        outputs[3 * o + 2] += w * (zeros[i] - 128);
      });
    }
    return [this.filled(packed), this.filled(outputs)];
  }

  // What encodings give, by buffers: coordinates as they are, and waves of them: the sine of each octave, or a quarter
  // turn ahead its cosine.
  encodings(field) {
    const { quant_pts, quant_views, quant_places, quant_waves } = field.inputs;
    const list = (count, of) => Array.from({ length: count }, (_, i) => of(i));
    const plain = (first, count) => list(count, (c) => ({ coordinate: first + c }));
    const waves = (first, count, octave, ahead) => list(count, (c) => ({ coordinate: first + c, octave, ahead }));
    const [octaves, ofViews] = field.i_embed === -1 ? [0, 0] : [field.multires, field.multires_views];
    if (quant_places) {
      const places = 3 * field.points;
      const rows = (first, count, octaves) => list(2, (ahead) => list(octaves, (k) => waves(first, count, k, ahead)));
      const all = [rows(0, places, octaves), rows(places, this.coordinates - places, ofViews)];
      return [{ ...quant_places, columns: plain(0, this.coordinates) }, { ...quant_waves, columns: all }];
    }
    const fourier = (first, octaves) => [
      plain(first, 3),
      list(octaves, (k) => list(2, (ahead) => waves(first, 3, k, ahead))),
    ];
    const made = [{ ...quant_pts, columns: fourier(0, octaves) }];
    if (quant_views) made.push({ ...quant_views, columns: fourier(3, ofViews) });
    return made;
  }

  columns(columns, count) {
    const numbers = new Uint32Array(3 * count);
    const floats = new Float32Array(numbers.buffer);
    columns.flat(Infinity).forEach(({ coordinate, octave, ahead }, i) => {
      numbers[3 * i] = coordinate;
      if (octave !== undefined) floats.set([2 ** octave / (2 * Math.PI), ahead / 4], 3 * i + 1);
    });
    return this.filled(numbers);
  }

  ofRays(field, pipelines, names) {
    const { STORAGE, UNIFORM, INDIRECT, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    const { sampler } = this.described;
    this.frame = this.room(96, UNIFORM | COPY_DST);
    this.counters = this.room(8, STORAGE | COPY_SRC | COPY_DST);
    this.pixels = this.room(4 * this.mostRays, STORAGE | COPY_SRC);
    this.read = this.room(8 + 4 * this.mostRays, MAP_READ | COPY_DST);
    this.dispatches = this.filled(new Uint32Array(this.steps.flatMap(({ groups }) => [0, groups, 1])), STORAGE | INDIRECT);
    const rays = this.room(80 * this.mostRays);
    const cells = this.filled(this.array(sampler.occupancy, Uint8Array));
    const [rgb, density] = field.outputs.map((buffer) => this.buffers[buffer]);
    const all = [this.frame, rays, this.counters, cells, this.seen, this.dispatches, rgb, density ?? rgb, this.pixels];
    const uses = {
      begin: [0, 1, 2], march: [0, 1, 2, 3, 4], find_places: [0, 1, 2, 3, 4], plan: [2, 5],
      composite: [0, 1, 2, 6, 7], take_colors: [0, 1, 6], finish: [0, 1, 8],
    };
    return names.map((name) =>
      this.bound(pipelines[name], Object.fromEntries(uses[name].map((number) => [number, all[number]]))),
    );
  }

  // ------------------------------------------------------------------------------------------------- running it

  // As WasmEngine's: milliseconds, or null where a newer picture was asked for. Pictures take turns on the device.
  render(camera, show) {
    const id = ++this.id;
    const draws = () => (this.spare || this.id !== id ? null : this.draw(id, camera, show));
    this.turn = this.turn.then(draws).catch((error) => this.giveUp(error));
    return this.turn.then((milliseconds) => (this.spare && this.id === id ? this.spare.render(camera, show) : milliseconds));
  }

  overtake() {
    this.id++;
    this.spare?.overtake();
  }

  // The device is lost: on with the spare.
  async giveUp(error) {
    console.info(`WebGPU: ${error.message}; on with WebAssembly`);
    const spare = this.makeSpare();
    await spare.ready;
    this.spare = spare;
    this.name = spare.name;
    return null;
  }

  async draw(id, camera, show) {
    const started = performance.now();
    for (let top = 0; top < camera.height; ) {
      let height = 1;
      for (let left = 0; left < camera.width; ) {
        const before = performance.now();
        const width = Math.min(camera.width - left, this.piece);
        if (width === camera.width) height = Math.min(camera.height - top, Math.floor(this.piece / width));
        const part = { left, top, width, height };
        const pixels = await this.ask(camera, part);
        if (this.id !== id) return null;
        show([{ ...part, pixels }]);
        this.adapt(performance.now() - before, width * height);
        left += width;
      }
      top += height;
    }
    return performance.now() - started;
  }

  // Pieces twice or half as large, where they take too little or too much time.
  adapt(milliseconds, rays) {
    if (milliseconds > 2 * PIECE) this.piece = Math.max(FEWEST_RAYS, this.piece / 2);
    else if (milliseconds < PIECE / 2 && 2 * rays > this.piece) this.piece = Math.min(this.mostRays, 2 * this.piece);
  }

  // RGBA bytes of a part of the picture.
  async ask(camera, { left, top, width, height }) {
    const { device, read } = this;
    const count = width * height;
    const frame = new Float32Array(24);
    frame.set([...camera.c2w, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]);
    new Uint32Array(frame.buffer).set([left, top, width, count], 18);
    device.queue.writeBuffer(this.frame, 0, frame);
    for (let alive = 1, first = true; alive; first = false) {
      const encoder = device.createCommandEncoder();
      if (first) encoder.clearBuffer(this.counters);
      this.encode(encoder.beginComputePass(), Math.ceil(count / WORKGROUP), first);
      encoder.copyBufferToBuffer(this.counters, 0, read, 0, 8);
      encoder.copyBufferToBuffer(this.pixels, 0, read, 8, 4 * count);
      device.queue.submit([encoder.finish()]);
      await read.mapAsync(GPUMapMode.READ, 0, 8 + 4 * count);
      const content = read.getMappedRange(0, 8 + 4 * count).slice();
      read.unmap();
      [alive] = new Uint32Array(content, 0, 1);
      if (!alive) return new Uint8ClampedArray(content, 8);
    }
  }

  // Some rounds, and the pixels as they are then.
  encode(pass, groups, first) {
    const [begin, ask, plan, take, finish] = this.kernels;
    const run = ({ pipeline, group }) => {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      return pass;
    };
    if (first) run(begin).dispatchWorkgroups(groups);
    for (let round = 0; round < (this.lightField ? 1 : ROUNDS); round++) {
      run(ask).dispatchWorkgroups(groups);
      run(plan).dispatchWorkgroups(1);
      this.steps.forEach((step, i) => run(step).dispatchWorkgroupsIndirect(this.dispatches, 12 * i));
      run(take).dispatchWorkgroups(groups);
    }
    run(finish).dispatchWorkgroups(groups);
    pass.end();
  }
}
