// The page's other engine: WebGPU, whose kernels (rays.wgsl, network.wgsl) render files of integers in rounds. In each
// of them every ray that is not done asks for its next samples, the network takes all, and the answers are composited.

const MOST_RAYS = 16384; // of a piece of the picture
const FEWEST_RAYS = 256;
const MOST_ROWS = 65536; // of a network at once
const PIECE = 30; // milliseconds, about: between two looks at whether a newer picture is asked for
const MOST_BYTES = 2 ** 27; // of a buffer that kernels read: WebGPU's limit where none is asked for
const WORKGROUP = 64; // threads
const RAY_BYTES = 96;

// By kind, from a model and its arrays of bytes by their numbers: a ray's rows in a round, the kernels that ask each
// network and the one that takes the last one's answers, the buffers that these use, rounds between two looks at
// whether any ray is left, and constants; where there is such, constants by the network, and bytes that a ray hands on
// from one to the next. webgpu_cells.js, webgpu_hierarchical.js and webgpu_proposal.js fill it in.
const SAMPLERS = {};

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
    this.id = 0;
    this.turn = Promise.resolve(); // when the picture before has left the device
  }

  // ------------------------------------------------------------------------------------------------ building it

  async build(model, { rays, network }) {
    const { sampler, fields } = this.described;
    this.views = fields.some((field) => field.use_viewdirs);
    const coordinates = ENCODERS[fields[0].kind].coordinates(fields[0]) + (this.views ? 3 : 0);
    this.networks = fields.map((field) => new GpuNetwork(this.device, model, field, coordinates));
    this.sampler = SAMPLERS[sampler.kind](this.described, (number) => this.networks[0].array(number, Uint8Array));
    const mostRows = Math.min(MOST_ROWS, MOST_BYTES / Math.max(...this.networks.map((one) => one.bytesPerRow)));
    this.mostRays = MOST_RAYS;
    while (this.mostRays * this.sampler.rowsPerRay > mostRows) this.mostRays /= 2;
    this.piece = this.fewestRays = Math.min(FEWEST_RAYS, this.mostRays);
    this.rows = 256 * Math.ceil((this.mostRays * this.sampler.rowsPerRay) / 256); // as many are taken at once
    this.seen = room(this.device, 4 * (coordinates + 1) * this.rows); // and the length that each sample stands for
    for (const one of this.networks) await one.build(network, this.rows, this.seen);
    await this.buildRays(rays);
  }

  // Kernels of rays: what asks each network, and what takes the last one's answers.
  async buildRays(code) {
    const { device, networks } = this;
    const { asks, take, cells, uses, handed } = this.sampler;
    const { STORAGE, UNIFORM, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    this.frame = room(device, 96, UNIFORM | COPY_DST);
    this.counters = room(device, 8, STORAGE | COPY_SRC | COPY_DST);
    this.pixels = room(device, 4 * this.mostRays, STORAGE | COPY_SRC);
    this.read = room(device, 8 + 4 * this.mostRays, MAP_READ | COPY_DST);
    const rays = room(device, RAY_BYTES * this.mostRays);
    const all = [this.frame, rays, this.counters, cells && filled(device, cells), this.seen];
    const [one, other] = list(2, () => handed && room(device, handed * this.mostRays));
    const numbers = { begin: [0, 1, 2], plan: [2, 5], finish: [0, 1, 8], ...uses };
    // The kernel of a turn, by a network whose steps are planned, or whose answers are read.
    const kernel = async (name, turn, { field, dispatches, outputs: [rgb, density] }) => {
      const handedOn = turn % 2 ? [one, other] : [other, one];
      const buffers = [...all, dispatches, rgb, density ?? rgb, this.pixels, ...handedOn];
      const used = numbers[name].map((number) => [number, buffers[number]]);
      const pipelines = await compiled(device, code, this.constants(field, turn), [name]);
      return bound(device, pipelines[name], Object.fromEntries(used));
    };
    const last = networks.length - 1;
    this.begin = await kernel("begin", 0, networks[0]);
    this.turns = await Promise.all(networks.map(async (network, i) => {
      const ask = await kernel(asks[i], i, networks[i - 1] ?? network);
      return { network, ask, plan: await kernel("plan", i, network) };
    }));
    this.take = await kernel(take, last, networks[last]);
    this.finish = await kernel("finish", last, networks[last]);
  }

  // Of rays.wgsl, by their names there. field: whose answers are read.
  constants(field, turn) {
    const { rays, sampler } = this.described;
    const [red, green, blue] = rays.background;
    return {
      rows: this.rows, near: rays.near, far: rays.far, ndc_near: rays.ndc_near ?? 0, pixel_offset: rays.pixel_offset,
      red, green, blue, min_transmittance: sampler.min_transmittance ?? 0,
      density_column: field.outputs.length > 1 ? 0 : 3, softplus: Number(field.density_activation === "softplus"),
      density_bias: field.density_bias ?? 0, density_scale: field.density_scale ?? 1, views: Number(this.views),
      ...this.sampler.constants, ...this.sampler.turns?.[turn],
    };
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
    if (milliseconds > 2 * PIECE) this.piece = Math.max(this.fewestRays, this.piece / 2);
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
    const run = ({ pipeline, group }) => {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      return pass;
    };
    if (first) run(this.begin).dispatchWorkgroups(groups);
    for (let round = 0; round < this.sampler.rounds; round++) {
      for (const { network, ask, plan } of this.turns) {
        run(ask).dispatchWorkgroups(groups);
        run(plan).dispatchWorkgroups(1);
        network.steps.forEach((step, i) => run(step).dispatchWorkgroupsIndirect(network.dispatches, 12 * i));
      }
      run(this.take).dispatchWorkgroups(groups);
    }
    run(this.finish).dispatchWorkgroups(groups);
    pass.end();
  }
}
