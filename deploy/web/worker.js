// A worker: its share of every picture, given out in slices so that a newer picture may overtake.

const TILE = 16; // pixels on each side, at most 256 in all
const SLICE = 30; // milliseconds between two looks at what is asked for

let model = null;
let wanted = null; // the newest picture asked for

const nextTurn = () =>
  new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = done;
    port2.postMessage(0);
  });

// picture: { id, camera, first, every }: its tiles number first, first + every, ...
async function render(picture) {
  const { id, camera, first, every } = picture;
  const columns = Math.ceil(camera.width / TILE);
  const tiles = columns * Math.ceil(camera.height / TILE);
  const started = performance.now();
  model.setCamera(camera);
  let parts = [];
  let since = started;
  for (let tile = first; tile < tiles; tile += every) {
    const left = (tile % columns) * TILE;
    const top = Math.floor(tile / columns) * TILE;
    const width = Math.min(TILE, camera.width - left);
    const height = Math.min(TILE, camera.height - top);
    parts.push({ left, top, width, height, pixels: model.render(left, top, width, height) });
    if (performance.now() - since > SLICE) {
      postMessage({ id, parts });
      parts = [];
      await nextTurn();
      if (wanted !== picture) return;
      since = performance.now();
    }
  }
  postMessage({ id, parts, done: true, milliseconds: performance.now() - started });
}

onmessage = async ({ data }) => {
  if (data.kernels) {
    try {
      const instance = new WebAssembly.Instance(new WebAssembly.Module(data.kernels));
      const { described, arrays } = Model.read(data.model);
      model = new Model(described, arrays, instance.exports);
      postMessage({ ready: true });
    } catch (error) {
      postMessage({ failed: String(error) });
    }
    return;
  }
  wanted = data;
  await nextTurn(); // what has been asked for since replaces it
  if (wanted === data) render(data);
};
