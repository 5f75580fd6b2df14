// Maps as pictures: the colours of tfgrad.figures and its scale "contrast".

// matplotlib's inferno and RdBu reversed, at even distances.
const SEQUENTIAL =
  "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 " +
  "fcac11 f9cb35 f2ea69 fcffa4";
const DIVERGING =
  "053061 2065ab 4393c3 90c4dd d1e5f0 f7f6f6 fddbc7 f3a481 d6604d b1182b 67001f";
const PERCENTILE = 0.99;

const parse = (stops) =>
  stops.split(" ").map((stop) => [0, 2, 4].map((i) => parseInt(stop.slice(i, i + 2), 16)));
const SCALES = { sequential: parse(SEQUENTIAL), diverging: parse(DIVERGING) };

/**
 * How a map's values become colours.
 *
 * @param {Float32Array} values The map; signed if any value is negative.
 * @returns {{stops: number[][], low: number, high: number}} Colours from low to high.
 */
export function scaleOf(values) {
  const signed = values.some((value) => value < 0);
  const sizes = values.map(Math.abs).sort();
  const place = PERCENTILE * (sizes.length - 1);
  const below = sizes[Math.floor(place)];
  const above = sizes[Math.ceil(place)];
  const smallest = signed ? 0 : sizes[0];
  const most = below + (above - below) * (place % 1);
  // A sparse map ends at its largest value, and one of a single value somewhere above it.
  const high = [most, sizes[sizes.length - 1], smallest + 1].find((value) => value > smallest);
  if (signed) return { stops: SCALES.diverging, low: -high, high };
  return { stops: SCALES.sequential, low: smallest, high };
}

/** Draw values [height, width] on a canvas, which takes that size. */
export function draw(canvas, values, height, width, { stops, low, high }) {
  [canvas.width, canvas.height] = [width, height];
  const picture = new ImageData(width, height);
  values.forEach((value, i) => {
    const place = Math.min(Math.max((value - low) / (high - low), 0), 1) * (stops.length - 1);
    const [from, to] = [stops[Math.floor(place)], stops[Math.ceil(place)]];
    for (let c = 0; c < 3; c += 1) picture.data[4 * i + c] = from[c] + (to[c] - from[c]) * (place % 1);
    picture.data[4 * i + 3] = 255;
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** In words, in which ninth of a picture the values [height, width] are strongest. */
export function strongest(values, height, width) {
  const sums = new Float64Array(9);
  values.forEach((value, i) => {
    const row = Math.floor((3 * Math.floor(i / width)) / height);
    const column = Math.floor((3 * (i % width)) / width);
    sums[3 * row + column] += Math.abs(value);
  });
  const most = sums.indexOf(Math.max(...sums));
  const row = ["upper", "middle", "lower"][Math.floor(most / 3)];
  const column = ["left", "middle", "right"][most % 3];
  if (row === column) return "in the middle";
  if (column === "middle") return `at the ${row === "upper" ? "top" : "bottom"}`;
  return row === "middle" ? `at the ${column}` : `at the ${row} ${column}`;
}
