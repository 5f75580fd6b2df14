// Photographs from files: what a file is and how large, then its pixels, then the network's input.
import { resized } from "./resizing.js";
import { Refusal, quoted } from "./refusal.js";

// Browsers have no larger canvas along a side.
const LONGEST_SIDE = 16384;
const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const PNG_HEADER = 24;
const FORMATS = "Choose a photograph that is a JPEG or a PNG.";

/**
 * Check a file and decode it.
 *
 * @param {Blob} file The file.
 * @param {string} name Its name, for sentences.
 * @param {{bytes: number, pixels: number}} limits The largest file, and the largest width × height.
 * @returns {Promise<ImageBitmap>} Its pixels, upright.
 * @throws {Refusal} It is no JPEG or PNG image, too large, or damaged.
 */
export async function read(file, name, limits) {
  if (file.size > limits.bytes) {
    throw new Refusal(
      `${quoted(name)} has ${megabytes(file.size)}; at most ${megabytes(limits.bytes)} can be ` +
        "read. Choose a smaller copy of it.",
    );
  }
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Refusal(`${quoted(name)} could not be read. Choose it again, or a copy of it.`);
  }
  check(bytes, name, limits);
  const content = new Blob([bytes], { type: bytes[0] === PNG[0] ? "image/png" : "image/jpeg" });
  try {
    // The colours as they are stored, which is how other programs feed networks.
    return await createImageBitmap(content, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
    });
  } catch {
    throw new Refusal(`${quoted(name)} is damaged: the browser cannot decode it. ${FORMATS}`);
  }
}

/**
 * The network's input for a photograph.
 *
 * @param {ImageBitmap} bitmap The photograph.
 * @param {{height: number, width: number, channels: number, channels_first: boolean,
 *   image_range: number[]}} model What the network takes.
 * @returns {Float32Array} [height, width, channels] or [channels, height, width], flat.
 */
export function input(bitmap, model) {
  const { height, width, channels } = model;
  const [low, high] = model.image_range;
  const colours = resized(bitmap, height, width);
  const values = new Float32Array(height * width * channels);
  for (let pixel = 0; pixel < height * width; pixel += 1) {
    const [red, green, blue] = colours.subarray(3 * pixel, 3 * pixel + 3);
    const found = channels === 1 ? [0.299 * red + 0.587 * green + 0.114 * blue] : [red, green, blue];
    for (let channel = 0; channel < channels; channel += 1) {
      const place = model.channels_first
        ? channel * height * width + pixel
        : pixel * channels + channel;
      values[place] = low + ((high - low) * Math.min(found[channel], 255)) / 255;
    }
  }
  return values;
}

/** Refuse bytes that are no image of at most so many pixels; nothing is decoded for that. */
function check(bytes, name, limits) {
  const size = sizeOf(bytes);
  if (size === null) {
    throw new Refusal(`${quoted(name)} is ${kindOf(bytes)}, not a JPEG or PNG image. ${FORMATS}`);
  }
  const { width, height } = size;
  if (!width || !height) {
    throw new Refusal(`${quoted(name)} is damaged: it does not tell its size. ${FORMATS}`);
  }
  if (width * height > limits.pixels || Math.max(width, height) > LONGEST_SIDE) {
    throw new Refusal(
      `${quoted(name)} has ${count(width)} × ${count(height)} pixels; at most ` +
        `${count(limits.pixels)} in all, and ${count(LONGEST_SIDE)} along a side, can be read. ` +
        "Choose a smaller copy of it.",
    );
  }
}

/** Width and height from the header of a JPEG or PNG; 0 where it is damaged; null for others. */
function sizeOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (PNG.every((byte, i) => bytes[i] === byte)) {
    if (bytes.length < PNG_HEADER) return { width: 0, height: 0 };
    return { width: view.getUint32(16), height: view.getUint32(20) };
  }
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8 || bytes[2] !== 0xff) return null;
  let place = 2;
  while (place + 9 <= bytes.length && bytes[place] === 0xff) {
    const marker = bytes[place + 1];
    if (marker === 0xff) {
      place += 1; // a fill byte
    } else if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      place += 2; // a marker without a length
    } else if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      return { width: view.getUint16(place + 7), height: view.getUint16(place + 5) };
    } else {
      place += 2 + view.getUint16(place + 2);
    }
  }
  return { width: 0, height: 0 };
}

/** In words, what a file that is no photograph seems to be. */
function kindOf(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 32));
  if (!bytes.length) return "an empty file";
  if (head.startsWith("GIF8")) return "a GIF";
  if (head.startsWith("RIFF") && head.slice(8, 12) === "WEBP") return "a WebP image";
  if (head.startsWith("BM")) return "a BMP image";
  if (head.startsWith("II*\0") || head.startsWith("MM\0*")) return "a TIFF image";
  if (head.startsWith("%PDF")) return "a PDF document";
  if (head.slice(4, 8) === "ftyp") {
    return /^(heic|heix|mif1|avif)/.test(head.slice(8)) ? "a HEIC or AVIF image" : "a video";
  }
  const start = bytes.subarray(0, 4096);
  const isText = start.every((byte) => byte >= 32 || (byte >= 9 && byte <= 13));
  return isText ? "a text file" : "a file of another kind";
}

function megabytes(bytes) {
  return `${Math.max(bytes / 2 ** 20, 0.1).toFixed(1).replace(/\.0$/, "")} MiB`;
}

function count(number) {
  return number.toLocaleString("en");
}
