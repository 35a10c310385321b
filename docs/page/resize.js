// The center square's resize to 32x32, in the arithmetic of the Python library: torch's
// interpolate(mode="bicubic", antialias=True) on float32, then rounding half to even.
// A canvas would resize with a filter of its own, and the network would get another picture.

export const SIZE = 32;
const REACH = 2; // of the cubic, in output pixels when shrinking, in input pixels when enlarging
const round = Math.fround;

/** The cubic convolution kernel with a = -0.5, rounded where torch's float32 is rounded. */
function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return round(round(round(1.5 * x - 2.5) * x) * x + 1);
  if (x < 2) return round(round(round(-0.5 * x + 2.5) * x - 4) * x + 2);
  return 0;
}

/** For each of the 32 outputs: which inputs it is made of, and how much of each. */
function mixtures(length) {
  const scale = length / SIZE;
  const widening = Math.max(scale, 1);
  const narrowing = round(1 / widening);
  return Array.from({ length: SIZE }, (_, output) => {
    const center = round(scale * (output + 0.5));
    const first = Math.max(Math.trunc(center - REACH * widening + 0.5), 0);
    const end = Math.min(Math.trunc(center + REACH * widening + 0.5), length);
    const weights = new Float32Array(end - first);
    let total = 0;
    for (let i = 0; i < weights.length; i++) {
      weights[i] = cubic(round((round(first + i - center) + 0.5) * narrowing));
      total = round(total + weights[i]);
    }
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

/** One weighted sum over inputs that lie `stride` apart, rounded at each step as float32 is. */
function mix(values, start, stride, weights) {
  let sum = 0;
  for (let i = 0; i < weights.length; i++) {
    sum = round(sum + values[start + i * stride] * weights[i]);
  }
  return sum;
}

/** Makes a square 32x32 from rows that arrive in strips, so that no picture is too large. */
export class Resizer {
  /** @param {number} side of the square */
  constructor(side) {
    this.side = side;
    this.mixtures = mixtures(side);
    this.narrow = new Float32Array(side * SIZE * 3);
    this.filled = 0;
  }

  /**
   * Takes the next rows of RGBA pixels.
   *
   * @param {number} rows how many
   * @param {{first: number, nextRow: number, nextColumn: number}} order where the first pixel is,
   *   and how far the next ones are: a picture may be stored turned or mirrored
   */
  push(rgba, rows, order) {
    const nextColumn = 4 * order.nextColumn;
    for (let row = 0; row < rows; row++) {
      const start = 4 * (order.first + row * order.nextRow);
      for (const { first, weights } of this.mixtures) {
        for (let channel = 0; channel < 3; channel++) {
          const left = start + first * nextColumn + channel;
          this.narrow[this.filled++] = mix(rgba, left, nextColumn, weights);
        }
      }
    }
  }

  /** The picture, RGB planes of 32x32, 0...255. */
  finish() {
    const planes = new Uint8ClampedArray(3 * SIZE * SIZE); // it clamps, and rounds half to even
    const width = 3 * SIZE;
    this.mixtures.forEach(({ first, weights }, y) => {
      for (let i = 0; i < width; i++) {
        const plane = (i % 3) * SIZE * SIZE;
        planes[plane + y * SIZE + Math.trunc(i / 3)] = mix(
          this.narrow, first * width + i, width, weights,
        );
      }
    });
    return planes;
  }
}
