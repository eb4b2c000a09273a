// The page: workers that draw, a camera that hands move, and how fine a picture may be.

const MOVING_MILLISECONDS = 1000 / 15; // of a picture while the camera moves
const STILL_AFTER = 150; // milliseconds without a move
const COARSEST = 16; // pixels on the shorter side

function readModel(content) {
  const length = new DataView(content).getUint32(0, true);
  const described = JSON.parse(new TextDecoder().decode(new Uint8Array(content, 4, length)));
  const arrays = new Uint8Array(content, 4 + length);
  const [start] = described.arrays[described.path];
  const path = new Float32Array(arrays.slice(start, start + 48 * described.frames).buffer);
  return { described, arrays, pose: (frame) => path.slice(12 * frame, 12 * frame + 12) };
}

// Pictures by several workers; a newer one replaces one that is not finished.
class WasmEngine {
  constructor({ worker, kernels, model }) {
    const url = URL.createObjectURL(new Blob([worker], { type: "text/javascript" }));
    const count = Math.max(1, Math.min(navigator.hardwareConcurrency || 2, 16));
    this.name = `WebAssembly SIMD, ${count} worker${count > 1 ? "s" : ""}`;
    this.workers = Array.from({ length: count }, () => new Worker(url));
    this.ready = Promise.all(
      this.workers.map(
        (one) =>
          new Promise((done, fail) => {
            one.onmessage = ({ data }) => (data.failed ? fail(new Error(data.failed)) : done());
            one.onerror = (event) => fail(new Error(event.message));
            one.postMessage({ kernels, model });
          }),
      ),
    );
    this.id = 0;
  }

  // Whatever is being drawn is of the past.
  stop() {
    this.id++;
    this.overtaken?.(null);
  }

  // Resolves with milliseconds once all of it was given to `show`, or with null where a newer one came between.
  render(camera, show) {
    this.stop();
    const id = this.id;
    const started = performance.now();
    return new Promise((done) => {
      this.overtaken = done;
      let left = this.workers.length;
      this.workers.forEach((one, first) => {
        one.onmessage = ({ data }) => {
          if (data.id !== this.id) return;
          show(data.parts);
          if (data.done && --left === 0) done(performance.now() - started);
        };
        one.postMessage({ id, camera, first, every: this.workers.length });
      });
    });
  }
}

class Page {
  constructor(engine, model, bytes) {
    this.engine = engine;
    this.model = model.described;
    this.pose = model.pose;
    this.bytes = bytes;
    this.camera = new OrbitCamera(this.pose(0), this.model.target, this.model.rays.ndc_near !== null);
    this.canvas = $("picture");
    this.context = this.canvas.getContext("2d");
    this.perPixel = 0.05; // milliseconds, of all workers together; measured with every picture
    this.moved = -Infinity;
    this.playing = false;
    this.frame = 0;
    this.drawing = false;
    this.coarse = false; // whether what is being drawn is to be seen even if the camera has moved on
    this.drawn = 0; // pictures so far
  }

  // Intrinsics for a picture `times` as large as the file's.
  cameraAt(times, pose) {
    const { height, width, K } = this.model.camera;
    const size = { width: Math.max(1, Math.round(times * width)), height: Math.max(1, Math.round(times * height)) };
    const [x, y] = [size.width / width, size.height / height];
    return { ...size, fx: K[0][0] * x, fy: K[1][1] * y, cx: K[0][2] * x, cy: K[1][2] * y, c2w: [...pose] };
  }

  // Draws one picture; coarse ones appear when they are whole, others as they come.
  async draw(times, whole) {
    const camera = this.cameraAt(times, this.camera.pose);
    const picture = new OffscreenCanvas(camera.width, camera.height);
    const target = picture.getContext("2d");
    const put = (parts) => {
      for (const { left, top, width, height, pixels } of parts) {
        target.putImageData(new ImageData(pixels, width, height), left, top);
      }
    };
    this.coarse = whole;
    const milliseconds = await this.engine.render(camera, (parts) => {
      put(parts);
      if (!whole) this.show(picture);
    });
    this.coarse = false;
    if (milliseconds === null) return false;
    this.drawn++;
    this.perPixel = milliseconds / (camera.width * camera.height);
    this.show(picture);
    const [size, kB] = [`${camera.width} × ${camera.height}`, Math.round(this.bytes / 1000)];
    $("status").textContent = `${this.engine.name} · ${size} · ${milliseconds.toFixed(0)} ms · ${kB} kB`;
    document.body.dataset.size = `${camera.width}x${camera.height}`;
    document.body.dataset.first ??= performance.now().toFixed(0); // milliseconds since the page was asked for
    return true;
  }

  show(picture) {
    this.context.imageSmoothingEnabled = true;
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
  }

  // As many pictures as there is reason for: coarse ones while something moves, then the file's size, then the screen's.
  async run() {
    if (this.drawing) return;
    this.drawing = true;
    const { height, width } = this.model.camera;
    for (let level = 0; ; ) {
      if (this.playing) {
        this.camera.pose = [...this.pose(this.frame)];
        this.frame = (this.frame + 1) % this.model.frames;
      }
      if (this.playing || performance.now() - this.moved < STILL_AFTER) {
        level = 0;
        const affordable = Math.sqrt(MOVING_MILLISECONDS / this.perPixel / (height * width));
        const coarsest = COARSEST / Math.min(height, width);
        await this.draw(Math.min(this.finest, Math.max(coarsest, affordable)), true);
        await new Promise(requestAnimationFrame);
        continue;
      }
      const times = level === 0 ? 1 : this.finest;
      if (level === 2 || (level === 1 && times <= 1)) break;
      const finished = await this.draw(times, false);
      level = finished ? level + 1 : 0;
      document.body.dataset.level = String(level);
    }
    this.drawing = false;
    document.body.dataset.still = String(Number(document.body.dataset.still || 0) + 1);
  }

  get finest() {
    return Math.max(1, Math.min(8, this.canvas.height / this.model.camera.height));
  }

  changed() {
    this.moved = performance.now();
    if (!this.coarse) this.engine.stop();
    this.run();
  }

  fit() {
    const { height, width } = this.model.camera;
    const box = this.canvas.parentElement.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height);
    [this.canvas.style.width, this.canvas.style.height] = [`${scale * width}px`, `${scale * height}px`];
    const ratio = window.devicePixelRatio || 1;
    [this.canvas.width, this.canvas.height] = [Math.round(ratio * scale * width), Math.round(ratio * scale * height)];
    this.changed();
  }

  play(on = !this.playing) {
    this.playing = on;
    $("play").setAttribute("aria-pressed", String(on));
    this.changed();
  }

  // Whoever moves the camera holds it.
  pause() {
    if (this.playing) this.play(false);
  }

  reset() {
    this.pause();
    this.frame = 0;
    this.camera.reset();
    this.changed();
  }

  listen() {
    const fingers = new Map();
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return b ? Math.hypot(a.x - b.x, a.y - b.y) : 0;
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      this.pause();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    }
    this.canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const apart = spread();
      const [dx, dy] = [event.clientX - before.x, event.clientY - before.y].map((d) => d / this.canvas.clientHeight);
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (fingers.size > 1) {
        if (apart && spread()) this.camera.zoom(apart / spread());
        this.camera.pan(-dx / 2, dy / 2);
      } else if (event.shiftKey || event.buttons & 6) {
        this.camera.pan(-dx, dy);
      } else {
        this.camera.orbit(-4 * dx, -4 * dy);
      }
      this.changed();
    });
    this.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    this.canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.pause();
        this.camera.zoom(Math.exp(Math.sign(event.deltaY) * Math.min(0.2, Math.abs(event.deltaY) / 500)));
        this.changed();
      },
      { passive: false },
    );
    document.addEventListener("keydown", (event) => this.key(event));
    $("play").addEventListener("click", () => this.play());
    $("reset").addEventListener("click", () => this.reset());
    window.addEventListener("resize", () => this.fit());
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const zooms = { "+": 0.9, "=": 0.9, "-": 1 / 0.9 };
    if (arrows[event.key]) {
      const [x, y] = arrows[event.key];
      if (event.shiftKey) this.camera.pan(0.05 * x, 0.05 * y);
      else this.camera.orbit(0.1 * x, -0.1 * y);
    } else if (zooms[event.key]) {
      this.camera.zoom(zooms[event.key]);
    } else if (event.key === "0" || event.key === "Home") {
      return this.reset();
    } else if (event.key === " " && event.target.tagName !== "BUTTON") {
      return this.play();
    } else {
      return;
    }
    event.preventDefault();
    this.pause();
    this.changed();
  }

  // A frame of the file's path, `times` as large as the file has it, RGBA bytes, for whoever wants to hold it against
  // another renderer's.
  async picture(frame, times = 1) {
    const camera = this.cameraAt(times, this.pose(frame));
    const pixels = new Uint8ClampedArray(4 * camera.width * camera.height);
    const milliseconds = await this.engine.render(camera, (parts) => {
      for (const part of parts) {
        for (let row = 0; row < part.height; row++) {
          const from = part.pixels.subarray(4 * row * part.width, 4 * (row + 1) * part.width);
          pixels.set(from, 4 * ((part.top + row) * camera.width + part.left));
        }
      }
    });
    return { ...camera, pixels, milliseconds };
  }
}

// WebGPU, where there is a device for it and it knows the file. A device of software is slower than WebAssembly and has
// to be asked for, by an address that ends in #webgpu; #wasm says never.
async function chooseEngine(parts, model) {
  const wasm = () => new WasmEngine(parts);
  const packed = navigator.gpu?.wgslLanguageFeatures.has("packed_4x8_integer_dot_product");
  if (!packed || location.hash === "#wasm" || !model.described.webgpu) return wasm();
  try {
    const adapter = await navigator.gpu.requestAdapter();
    const software = adapter?.info.isFallbackAdapter || adapter?.info.architecture === "swiftshader";
    if (!adapter || (software && location.hash !== "#webgpu")) return wasm();
    return await WebGpuEngine.on(adapter, model, parts, wasm);
  } catch (error) {
    console.info(`WebGPU: ${error.message}; on with WebAssembly`);
    return wasm();
  }
}

// eslint-disable-next-line no-unused-vars -- unpack.js calls it
async function main(parts) {
  let model = readModel(parts.model);
  if (model.described.coded.length || model.described.packed.length) {
    say("decoding");
    parts.model = await unfold(parts.model, parts.decoder);
    model = readModel(parts.model);
  }
  const engine = await chooseEngine(parts, model);
  await engine.ready;
  const page = new Page(engine, model, Number(document.body.dataset.bytes));
  window.page = page;
  say("");
  page.listen();
  page.moved = -Infinity;
  page.fit();
}
