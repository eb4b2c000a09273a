// A page's model, put together inside the WebAssembly kernels: see deploy/web_model.py for what it holds.

// eslint-disable-next-line no-unused-vars -- the page joins its scripts
class Model {
  // described: the model's header. arrays: bytes that its numbers stand for. exports: of the kernels.
  constructor(described, arrays, exports) {
    this.described = described;
    this.arrays = arrays;
    this.kernels = exports;
    this.places = new Map();
    this.build();
  }

  static read(content) {
    const length = new DataView(content).getUint32(0, true);
    const described = JSON.parse(new TextDecoder().decode(new Uint8Array(content, 4, length)));
    return { described, arrays: new Uint8Array(content, 4 + length) };
  }

  // Where an array is in the kernels' memory, which it is copied to once. Without a number: nowhere.
  at(number) {
    if (number === undefined) return 0;
    if (!this.places.has(number)) {
      const [start, length] = this.described.arrays[number];
      this.places.set(number, this.copy(this.arrays.subarray(start, start + length)));
    }
    return this.places.get(number);
  }

  copy(bytes) {
    const place = this.kernels.take(bytes.byteLength);
    new Uint8Array(this.kernels.memory.buffer, place, bytes.byteLength).set(
      new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength),
    );
    return place;
  }

  floats(values) {
    return this.copy(new Float32Array(values));
  }

  build() {
    const { kernels } = this;
    const { rays, sampler, fields } = this.described;
    kernels.set_rays(rays.near, rays.far, rays.ndc_near ?? 0, rays.pixel_offset, ...rays.background);
    const byName = new Map(fields.map((field) => [field.name, field]));
    const built = (name) => this.field(byName.get(name));
    if (sampler.kind === "occupancy") {
      kernels.add_field(built("network_fn"), 0);
      kernels.use_occupancy(this.grid(sampler), sampler.step, sampler.min_transmittance, sampler.cone_steps ?? 0);
    } else if (sampler.kind === "hierarchical") {
      kernels.add_field(built("network_fn"), sampler.n_samples);
      if (sampler.n_importance) kernels.add_field(built("network_fine"), sampler.n_importance);
      kernels.use_hierarchical(Number(sampler.lindisp));
    } else if (sampler.kind === "proposal") {
      const proposals = sampler.bins.slice(0, -1).map((_, i) => `proposal_${i}`);
      [...proposals, "network_fn"].forEach((name, i) => kernels.add_field(built(name), sampler.bins[i]));
      const hull = sampler.hull ? this.grid(sampler.hull) : 0;
      kernels.use_proposal(hull, CURVES[sampler.ray_warp], Number(sampler.opaque), Number(sampler.dilates ?? true));
    } else {
      this.lightField(byName.get("network_fn"), sampler);
    }
  }

  grid(described) {
    return this.kernels.new_grid(described.grid_resolution, this.at(described.occupancy), this.floats(described.aabb.flat()));
  }

  network(described) {
    const { kernels } = this;
    const network = kernels.new_network();
    for (const [kind, columns] of described.buffers) kernels.add_buffer(network, Number(kind === "floats"), columns);
    for (const step of described.steps) {
      const made = kernels.add_step(network, STEPS[step.kind], step.to);
      for (const buffer of step.from) kernels.add_source(made, buffer);
      if (step.rounding) kernels.set_rounding(made, ...step.rounding);
      if (step.added) kernels.set_added(made, step.added[0], step.added[1]);
      if (step.layer) this.layer(network, made, step.layer);
    }
    return network;
  }

  layer(network, step, layer) {
    const shape = [layer.inputs, layer.outputs, Number(layer.relu)];
    const [weight, scale, bias] = [layer.weight, layer.scale, layer.bias].map((number) => this.at(number));
    if (layer.kind === "integer") {
      this.kernels.set_integer_layer(step, ...shape, weight, this.at(layer.zero_points), scale, bias);
    } else if (layer.kind === "by_row") {
      this.kernels.set_row_layer(network, step, ...shape, weight, scale, bias, this.at(layer.gains));
    } else {
      this.kernels.set_float_layer(step, ...shape, weight, bias);
    }
  }

  field(described) {
    const { kernels } = this;
    const network = this.network(described);
    const octaves = described.i_embed === -1 ? 0 : described.multires;
    const viewOctaves = described.i_embed === -1 ? 0 : described.multires_views;
    const [rgb, density] = described.outputs;
    const outputs = [rgb, density ?? rgb, density === undefined ? 3 : 0];
    const activation = [Number(described.density_activation === "softplus"), described.density_bias, described.density_scale];
    const kind = FIELDS[described.kind];
    const field = kernels.new_field(kind, network, octaves, viewOctaves, ...outputs, ...activation);
    const { quant_pts: points, quant_views: views } = described.inputs;
    kernels.set_points(field, points.buffer, ...points.rounding);
    if (views) kernels.set_views(field, views.buffer, ...views.rounding);
    if (kind === 1) {
      const parallel = Number(this.described.rays.ndc_near !== null);
      kernels.set_cones(field, described.directions, this.at(described.basis), described.ball, parallel);
    }
    if (described.kind === "tensor") this.tensor(field, described);
    return field;
  }

  tensor(field, described) {
    const { kernels } = this;
    const { features, resolution, ranks, aabb, planes, lines } = described;
    const words = (values) => this.copy(new Int32Array(values));
    const steps = this.floats(described.steps_of_factors);
    const how = [words(resolution), words(ranks), this.floats(aabb), steps, features, described.multires];
    kernels.set_tensor(field, this.network(described.mix), ...how);
    planes.forEach((plane, i) => kernels.set_factors(field, i, this.at(plane), this.at(lines[i])));
  }

  lightField(described, sampler) {
    const { kernels } = this;
    const network = this.network(described);
    const viewOctaves = described.use_viewdirs ? described.multires_views : -1;
    const field = kernels.new_field(0, network, described.multires, viewOctaves, described.outputs[0], 0, 0, 0, 0, 1);
    const { quant_places: places, quant_waves: waves } = described.inputs;
    kernels.set_points(field, waves.buffer, ...waves.rounding);
    kernels.add_field(field, 1);
    const grid = sampler.every ? this.grid(sampler) : 0;
    const how = [sampler.every ?? 1, CURVES[sampler.ray_warp ?? "linear"], sampler.ball ?? 0];
    kernels.use_light_field(grid, described.points, ...how, network, places.buffer, ...places.rounding);
  }

  // Of pixels as a picture of that size has them. K: of the file's camera. c2w: 12 numbers, by rows.
  setCamera({ width, height, fx, fy, cx, cy, c2w }) {
    const camera = new Float32Array(this.kernels.memory.buffer, this.kernels.the_camera(), 18);
    camera.set([width, height, fx, fy, cx, cy, ...c2w]);
  }

  // RGBA bytes of a part of the picture, of at most 256 pixels.
  render(left, top, width, height) {
    const place = this.kernels.render(left, top, width, height);
    return new Uint8ClampedArray(this.kernels.memory.buffer, place, 4 * width * height).slice();
  }
}

const STEPS = { linear: 0, concat: 1, add: 2, round: 3 };
const FIELDS = { nerf: 0, mip: 1, tensor: 2 };
const CURVES = { linear: 0, reciprocal: 1, log: 2, piecewise: 3 };
