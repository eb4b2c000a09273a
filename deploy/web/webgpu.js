// The page's other engine: WebGPU, whose kernels (rays.wgsl, network.wgsl) render files of integers in rounds. In each
// of them every ray that is not done asks for its next samples, the network takes all, and the answers are composited.

const MOST_RAYS = 16384; // of a piece of the picture
const FEWEST_RAYS = 256;
const SAMPLES = 4; // of a ray in a round, while no ray is done
const ROUNDS = 4; // between two looks at whether any ray is left
const PIECE = 30; // milliseconds, about: between two looks at whether a newer picture is asked for
const MOST_BYTES = 2 ** 27; // of a buffer that kernels read: WebGPU's limit where none is asked for
const WORKGROUP = 64; // threads
const RAY_BYTES = 96;

// eslint-disable-next-line no-unused-vars -- the page joins its scripts
class WebGpuEngine {
  // The engine. Throws what its device has against it.
  // shaders: their sources. spare: makes the engine to go on with where the device is lost.
  static async on(adapter, model, shaders, spare) {
    const device = await adapter.requestDevice();
    const scopes = ["validation", "out-of-memory"];
    scopes.forEach((scope) => device.pushErrorScope(scope));
    const engine = new WebGpuEngine(adapter, device, model, spare);
    const failed = await engine.build(model, shaders).then(() => null, (error) => error);
    const errors = await Promise.all(scopes.map(() => device.popErrorScope()));
    const error = [...errors, failed].find(Boolean); // what the device says tells more
    if (error) throw new Error(error.message);
    return engine;
  }

  constructor(adapter, device, { described }, spare) {
    const { vendor, architecture, description } = adapter.info;
    this.name = `WebGPU (${description || `${vendor} ${architecture}`.trim()})`;
    this.device = device;
    this.described = described;
    this.makeSpare = spare;
    this.spare = null;
    this.piece = FEWEST_RAYS; // rays, as many as there is time for
    this.id = 0;
    this.turn = Promise.resolve(); // when the picture before has left the device
  }

  // ------------------------------------------------------------------------------------------------ building it

  async build(model, { rays, network }) {
    const [field] = this.described.fields;
    this.lightField = this.described.sampler.kind === "light_field";
    const coordinates = (this.lightField ? 3 * field.points : 3) + (field.use_viewdirs ? 3 : 0);
    this.network = new GpuNetwork(this.device, model, coordinates);
    const rowsPerRay = this.lightField ? 1 : SAMPLES;
    this.mostRays = MOST_RAYS;
    while (this.mostRays * rowsPerRay * this.network.bytesPerRow > MOST_BYTES) this.mostRays /= 2;
    this.rows = this.mostRays * rowsPerRay;
    await this.network.build(network, this.rows);
    const [ask, take] = this.lightField ? ["find_places", "take_colors"] : ["march", "composite"];
    await this.buildRays(rays, ["begin", ask, "plan", take, "finish"]);
  }

  // Kernels of rays, in the order of `names`, which is that of a round between the first and the last.
  async buildRays(code, names) {
    const { device, network } = this;
    const { STORAGE, UNIFORM, INDIRECT, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    this.frame = room(device, 96, UNIFORM | COPY_DST);
    this.counters = room(device, 8, STORAGE | COPY_SRC | COPY_DST);
    this.pixels = room(device, 4 * this.mostRays, STORAGE | COPY_SRC);
    this.read = room(device, 8 + 4 * this.mostRays, MAP_READ | COPY_DST);
    const groups = new Uint32Array(network.steps.flatMap(({ groups }) => [0, groups, 1]));
    this.dispatches = filled(device, groups, STORAGE | INDIRECT);
    const rays = room(device, RAY_BYTES * this.mostRays);
    const cells = filled(device, network.array(this.described.sampler.occupancy, Uint8Array));
    const [rgb, density] = network.outputs;
    const all = [this.frame, rays, this.counters, cells, network.seen, this.dispatches];
    all.push(rgb, density ?? rgb, this.pixels);
    const uses = {
      begin: [0, 1, 2], march: [0, 1, 2, 3, 4], find_places: [0, 1, 2, 3, 4], plan: [2, 5],
      composite: [0, 1, 2, 4, 6, 7], take_colors: [0, 1, 6], finish: [0, 1, 8],
    };
    const pipelines = await compiled(device, code, this.constants(), names);
    const buffers = (name) => Object.fromEntries(uses[name].map((number) => [number, all[number]]));
    this.kernels = names.map((name) => bound(device, pipelines[name], buffers(name)));
  }

  // Of rays.wgsl, by their names there.
  constants() {
    const { rays, sampler, fields } = this.described;
    const [field] = fields;
    const [low, high] = sampler.aabb;
    const cells = low.map((x, i) => (high[i] - x) / sampler.grid_resolution);
    const [innerLow, innerHigh] = this.occupied().map((corner) => corner.map((at, i) => low[i] + at * cells[i]));
    const of = (name, corner) => Object.fromEntries(corner.map((x, i) => [`${name}_${"xyz"[i]}`, x]));
    const [red, green, blue] = rays.background;
    return {
      rows: this.rows, near: rays.near, far: rays.far, ndc_near: rays.ndc_near ?? 0, pixel_offset: rays.pixel_offset,
      red, green, blue, ...of("low", low), ...of("high", high), ...of("inner_low", innerLow),
      ...of("inner_high", innerHigh), cone_steps: sampler.cone_steps ?? 0,
      side: sampler.grid_resolution, step: sampler.step ?? Math.max(...cells),
      min_transmittance: sampler.min_transmittance ?? 0, density_column: field.outputs.length > 1 ? 0 : 3,
      softplus: Number(field.density_activation === "softplus"), density_bias: field.density_bias ?? 0,
      density_scale: field.density_scale ?? 1, views: Number(field.use_viewdirs), points: field.points ?? 0,
      every: sampler.every ?? 1, least: SAMPLES,
    };
  }

  // Corners of the box of occupied cells, in cells, a tenth of one wider.
  occupied() {
    const { occupancy, grid_resolution: side } = this.described.sampler;
    const bits = this.network.array(occupancy, Uint8Array);
    const [low, high] = [[side, side, side], [-1, -1, -1]];
    for (let number = 0; number < side ** 3; number++) {
      if (!((bits[number >> 3] << (number & 7)) & 128)) continue;
      [Math.floor(number / side ** 2), Math.floor(number / side) % side, number % side].forEach((at, axis) => {
        low[axis] = Math.min(low[axis], at);
        high[axis] = Math.max(high[axis], at);
      });
    }
    return [low.map((at) => at - 0.1), high.map((at) => at + 1.1)];
  }

  // ------------------------------------------------------------------------------------------------- running it

  // As WasmEngine's: milliseconds, or null where a newer picture was asked for. Pictures take turns on the device.
  render(camera, show) {
    const id = ++this.id;
    const draws = () => (this.spare || this.id !== id ? null : this.draw(id, camera, show));
    this.turn = this.turn.then(draws).catch((error) => this.giveUp(error));
    return this.turn.then((drawn) => (this.spare && this.id === id ? this.spare.render(camera, show) : drawn));
  }

  stop() {
    this.id++;
    this.spare?.stop();
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
      this.network.steps.forEach((step, i) => run(step).dispatchWorkgroupsIndirect(this.dispatches, 12 * i));
      run(take).dispatchWorkgroups(groups);
    }
    run(finish).dispatchWorkgroups(groups);
    pass.end();
  }
}
