// What a page holds coded or packed, written out once for all that render it: a grid's cells, a VQ-TensoRF's whole
// numbers, weights of few bits.

const DECODERS = {
  cells: ({ side }) => ["decode_cells", [side], Math.ceil(side ** 3 / 8)],
  table: ({ columns, channels, range }) => ["decode_table", [columns, channels, ...range], columns * channels],
  plane: ({ rows, columns, ranks, codes, most, range }) => [
    "decode_plane",
    [rows, columns, ...ranks, codes, most, ...range],
    rows * columns * (ranks[0] + ranks[1]),
  ],
};

// content: a page's model, as deploy/web_model.py has it. program: of range_coder.c, or empty where nothing is coded.
// Resolves with a model of the same form that has all arrays as they are.
// eslint-disable-next-line no-unused-vars -- the page joins its scripts
async function unfold(content, program) {
  const { described, arrays } = readModel(content);
  const pieces = described.arrays.map(([start, length]) => arrays.slice(start, start + length));
  for (const one of described.packed) pieces[one.number] = unpackedWeights(pieces[one.number], one);
  if (described.coded.length) await decode(described.coded, pieces, program);
  return modelOf({ ...described, coded: [], packed: [] }, pieces);
}

// Several to a byte, the first its lowest digit.
function unpackedWeights(bytes, { low, base, together, length }) {
  const weights = new Int8Array(length);
  for (let i = 0; i < length; i++) {
    weights[i] = low + (Math.floor(bytes[Math.floor(i / together)] / base ** (i % together)) % base);
  }
  return new Uint8Array(weights.buffer);
}

async function decode(coded, pieces, program) {
  const coder = (await WebAssembly.instantiate(program)).instance.exports;
  for (const { stream, parts } of coded) {
    const place = coder.take(pieces[stream].length);
    new Uint8Array(coder.memory.buffer).set(pieces[stream], place);
    const decoder = coder.new_decoder(place, pieces[stream].length);
    for (const part of parts) {
      const [name, values, bytes] = DECODERS[part.kind](part);
      const found = coder[name](decoder, ...values); // memory may have grown, and be another buffer, after it
      const numbers = new Int8Array(coder.memory.buffer, found, bytes);
      const floats = part.step && Float32Array.from(numbers, (number) => number * part.step);
      pieces[part.to] = new Uint8Array((floats || numbers.slice()).buffer);
    }
    pieces[stream] = new Uint8Array(0);
  }
}

function modelOf(described, pieces) {
  let end = 0;
  const places = pieces.map((piece) => {
    const place = [end, piece.length];
    end += 4 * Math.ceil(piece.length / 4);
    return place;
  });
  const text = JSON.stringify({ ...described, arrays: places }); // ASCII
  const header = new TextEncoder().encode(text.padEnd(4 * Math.ceil(text.length / 4)));
  const content = new Uint8Array(4 + header.length + end);
  new DataView(content.buffer).setUint32(0, header.length, true);
  content.set(header, 4);
  pieces.forEach((piece, i) => content.set(piece, 4 + header.length + places[i][0]));
  return content.buffer;
}
