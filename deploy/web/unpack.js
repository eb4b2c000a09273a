// The one script that a page has in plain: takes its program and its model out of the payload, and starts it.

const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

// Of the payload, as deploy/web_page.py has them.
const PARTS = ["page", "worker", "rays", "network", "kernels", "model"];
const TEXTS = 4; // of these

const $ = (id) => document.getElementById(id);

function say(message) {
  $("message").textContent = message;
  $("message").hidden = !message;
}

async function unpacked() {
  const text = $("payload").textContent;
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const content = await new Response(stream).arrayBuffer();
  const lengths = new Uint32Array(content, 0, PARTS.length);
  const parts = {};
  let start = lengths.byteLength;
  lengths.forEach((length, i) => {
    parts[PARTS[i]] = content.slice(start, start + length);
    start += length;
  });
  for (const text of PARTS.slice(0, TEXTS)) parts[text] = new TextDecoder().decode(parts[text]);
  return parts;
}

async function start() {
  if (!window.WebAssembly || !WebAssembly.validate(new Uint8Array(SIMD))) {
    throw new Error("This browser has no WebAssembly SIMD, which renders here; any of 2023 or later has.");
  }
  if (!window.DecompressionStream || !window.OffscreenCanvas) {
    throw new Error("This browser is too old to unpack the page; any of 2023 or later can.");
  }
  say("unpacking");
  const parts = await unpacked();
  const script = document.createElement("script");
  script.textContent = parts.page;
  document.head.append(script);
  await main(parts);
}

start().catch((error) => say(error.message));
