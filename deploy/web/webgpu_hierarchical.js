// NeRF's sampler of a coarse and a fine pass (hierarchical.wgsl).

SAMPLERS.hierarchical = ({ sampler: { n_samples: samples, n_importance: importance, lindisp } }) => ({
  rowsPerRay: samples + importance, asks: ["spread", "refine"], take: "composite", rounds: 1,
  uses: { spread: [0, 1, 2, 4], refine: [0, 1, 2, 4, 7], composite: [0, 1, 2, 4, 6, 7] },
  constants: { samples, importance, lindisp: Number(lindisp) },
});
