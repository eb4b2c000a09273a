// A few-bit network's layers on the device (few_bits.wgsl): their input is floats, rounded by rows or as it is.

KERNELS.push("round_rows", "linear_of_floats");

LAYERS.float = (network, { from, to, given, layer }) => {
  const [weights, outputs] = network.layer(layer, given[0]);
  const step = network.step({ words: width(given[0]), relu: layer.relu });
  const numbers = { 0: step, 1: network.buffers[from[0]], 2: network.buffers[to], 4: weights, 5: outputs };
  return [network.bound("linear_of_floats", numbers, padded(layer.outputs) / 8)];
};

LAYERS.by_row = (network, { from, to, given, layer }) => {
  const columns = width(given[0]);
  const words = columns / 4;
  network.codes ??= room(network.device, (Math.max(...network.widths) + 4) * network.rows); // and steps of rows
  const gains = new Float32Array(columns);
  const ofNorm = network.array(layer.gains, Float32Array);
  network.columnsOf(given[0]).forEach((column, i) => (gains[column] = ofNorm ? ofNorm[i] : 1));
  const rounds = network.step({ words, normed: ofNorm ? layer.inputs : 0 });
  const rounded = { 0: rounds, 1: network.buffers[from[0]], 2: network.codes, 4: filled(network.device, gains) };
  const [weights, outputs] = network.layer(layer, given[0]);
  const sums = network.step({ words, relu: layer.relu, byRow: true });
  const numbers = { 0: sums, 1: network.codes, 2: network.buffers[to], 3: network.codes, 4: weights, 5: outputs };
  return [network.bound("round_rows", rounded, 1), network.bound("linear", numbers, padded(layer.outputs) / 8)];
};
