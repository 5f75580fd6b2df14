// Bilinear resizing with antialiasing: the filter of tf.image.resize(…, antialias=True), since the
// filters of canvases differ between browsers.

// Values of the source that are held at a time: a phone has little memory for canvases.
const STRIP = 2 ** 21;

/**
 * The colours of a bitmap at another size; transparent pixels lie on white.
 *
 * @param {ImageBitmap} bitmap The source.
 * @param {number} height Rows of the result.
 * @param {number} width Columns of the result.
 * @returns {Float32Array} [height, width, 3] in 0 to 255, flat.
 */
export function resized(bitmap, height, width) {
  const rows = narrowed(bitmap, width);
  const along = filter(bitmap.height, height);
  const found = new Float32Array(height * width * 3);
  const line = new Float64Array(width * 3);
  for (let y = 0; y < height; y += 1) {
    line.fill(0);
    const { start, weights } = along[y];
    for (let k = 0; k < weights.length; k += 1) {
      const from = (start + k) * width * 3;
      for (let i = 0; i < line.length; i += 1) line[i] += weights[k] * rows[from + i];
    }
    found.set(line, y * width * 3);
  }
  return found;
}

/** All rows of a bitmap at another width, [bitmap.height, width, 3]. */
function narrowed(bitmap, width) {
  const high = Math.max(1, Math.min(bitmap.height, Math.floor(STRIP / bitmap.width)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, high];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const along = filter(bitmap.width, width);
  const rows = new Float32Array(bitmap.height * width * 3);
  for (let top = 0; top < bitmap.height; top += high) {
    const part = Math.min(high, bitmap.height - top);
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, part);
    context.drawImage(bitmap, 0, top, bitmap.width, part, 0, 0, bitmap.width, part);
    const { data } = context.getImageData(0, 0, bitmap.width, part);
    for (let y = 0; y < part; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const { start, weights } = along[x];
        let [red, green, blue] = [0, 0, 0];
        let from = (y * bitmap.width + start) * 4;
        for (let k = 0; k < weights.length; k += 1, from += 4) {
          red += weights[k] * data[from];
          green += weights[k] * data[from + 1];
          blue += weights[k] * data[from + 2];
        }
        const to = ((top + y) * width + x) * 3;
        [rows[to], rows[to + 1], rows[to + 2]] = [red, green, blue];
      }
    }
  }
  [canvas.width, canvas.height] = [0, 0]; // which frees its memory at once
  return rows;
}

/** For every place of a side of length `to`, which values of one of length `from` count how much. */
function filter(from, to) {
  const step = from / to;
  const radius = Math.max(step, 1);
  return Array.from({ length: to }, (_, i) => {
    const middle = (i + 0.5) * step;
    const start = Math.max(0, Math.ceil(middle - radius - 0.5));
    const end = Math.min(from - 1, Math.floor(middle + radius - 0.5));
    const weights = new Float64Array(end - start + 1).map((__, k) =>
      Math.max(0, 1 - Math.abs(start + k + 0.5 - middle) / radius),
    );
    const sum = weights.reduce((a, b) => a + b, 0);
    return { start, weights: weights.map((weight) => weight / sum) };
  });
}
