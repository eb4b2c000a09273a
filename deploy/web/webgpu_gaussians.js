// A network of cones on the device (gaussians.wgsl): it is given the Gaussians that cones.wgsl makes of frusta.

KERNELS.push("project", "encode_gaussians");

ENCODERS.mip = {
  coordinates: () => 8, // mean, direction, two variances
  constants: ({ directions, ball }) => ({ directions, unit: ball || 1, contracted: Number(ball > 0) }),
  steps(network) {
    const { field, device, rows } = network;
    const { directions, multires } = field;
    const projected = room(device, 8 * directions * rows);
    const basis = filled(device, network.array(field.basis, Float32Array));
    const project = network.bound("project", { 1: network.seen, 2: projected, 7: basis }, directions);
    const columns = list(multires, (k) => list(2, (ahead) => waves(0, directions, k, ahead)));
    const encode = network.encoding({ ...field.inputs.quant_pts, columns }, "encode_gaussians", projected);
    return [project, encode, ...network.views()];
  },
};
