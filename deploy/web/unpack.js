// The one script that a page has in plain: takes its program and its model out of the payload, and starts it.

const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

// Of the payload, as deploy/web_page.py has them.
const PARTS = ["page", "worker", "rays", "network", "kernels", "decoder", "model"];
const TEXTS = 4; // of these
const UNSAFE = [0, 13, 60]; // characters that no text of it may have

const $ = (id) => document.getElementById(id);

function say(message) {
  $("message").textContent = message;
  $("message").hidden = !message;
}

// The bytes of a text of `to_text` of deploy/web_page.py.
function bytesOf(text, length) {
  const bytes = new Uint8Array(length);
  let at = 0, bits = 0, held = 0; // bits that are not in bytes yet, and how many
  const push = (seven) => {
    bits = ((bits << 7) | seven) & 0x7fff;
    held += 7;
    if (held >= 8) bytes[at++] = bits >> (held -= 8); // past its end nothing is written
  };
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code > 127) push(UNSAFE[(code >> 7) - 1]);
    push(code & 127);
  }
  return bytes;
}

async function unpacked() {
  const { textContent, dataset } = $("payload");
  const stream = new Blob([bytesOf(textContent, Number(dataset.length))]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
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
