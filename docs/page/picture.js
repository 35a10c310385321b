// From a file to the 32x32 crop that the network gets, as allcnn_zoo.images.to_batch makes it:
// the camera's orientation applied, colors as stored, transparency dropped, the center square.

import { examine } from "./container.js";
import { Resizer } from "./resize.js";

const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
const STRIP = 128; // rows that are read at once

// For each orientation of EXIF, how a pixel of the upright picture is found among the stored ones:
// whether x and y change places, then whether the stored x and y run backward.
const TURNS = [
  [], [0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0],
];

/** Something is not a picture that can be shown; the message is for the reader. */
export class PictureError extends Error {}

/** A decoded picture. Its width and height are those of the upright picture. */
export class Picture {
  /** Decodes a file. @param {Blob} blob @returns {Promise<Picture>} */
  static async open(blob) {
    const { known, whole, orientation, upright } = examine(new Uint8Array(await blob.arrayBuffer()));
    if (!whole) throw new PictureError("This picture is damaged: the file ends too early.");
    try {
      return new Picture(await createImageBitmap(upright, AS_STORED), orientation);
    } catch {
      throw new PictureError(
        known
          ? "This picture is damaged or too large: your browser cannot decode it."
          : "This kind of file is not supported. PNG, JPEG, WebP, GIF, AVIF and BMP pictures work.",
      );
    }
  }

  constructor(bitmap, orientation) {
    this.bitmap = bitmap;
    [this.isTransposed, this.isBackward, this.isUpsideDown] = TURNS[orientation];
    const sides = [bitmap.width, bitmap.height];
    [this.width, this.height] = this.isTransposed ? sides.reverse() : sides;
  }

  /** Where the center square lies. */
  get square() {
    const side = Math.min(this.width, this.height);
    const [left, top] = [this.width, this.height].map((length) => Math.floor((length - side) / 2));
    return { side, left, top };
  }

  /** What the network gets: RGB planes of 32x32, 0...255. @returns {Uint8ClampedArray} */
  async crop() {
    const { side, left, top } = this.square;
    const resizer = new Resizer(side);
    for (let row = 0; row < side; row += STRIP) {
      const rows = Math.min(STRIP, side - row);
      const stored = this.isTransposed
        ? { x: top + row, y: left, width: rows, height: side }
        : { x: left, y: top + row, width: side, height: rows };
      if (this.isBackward) stored.x = this.bitmap.width - stored.x - stored.width;
      if (this.isUpsideDown) stored.y = this.bitmap.height - stored.y - stored.height;
      const { width, height } = stored;
      const right = this.isBackward ? -1 : 1;
      const down = this.isUpsideDown ? -width : width;
      const first = (this.isBackward ? width - 1 : 0) + (this.isUpsideDown ? width * (height - 1) : 0);
      const [nextColumn, nextRow] = this.isTransposed ? [down, right] : [right, down];
      resizer.push(await pixels(this.bitmap, stored), rows, { first, nextRow, nextColumn });
    }
    return resizer.finish();
  }

  /** The picture with no side longer than so many pixels. @returns {ImageBitmap} */
  preview(longest) {
    const scale = Math.min(1, longest / Math.max(this.width, this.height));
    const [width, height] = [this.width, this.height].map((side) => Math.max(1, Math.round(side * scale)));
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    const stored = this.isTransposed ? [height, width] : [width, height];
    const [across, down] = [this.isBackward ? -1 : 1, this.isUpsideDown ? -1 : 1];
    const start = [this.isBackward ? stored[0] : 0, this.isUpsideDown ? stored[1] : 0];
    if (this.isTransposed) context.setTransform(0, across, down, 0, start[1], start[0]);
    else context.setTransform(across, 0, 0, down, ...start);
    context.drawImage(this.bitmap, 0, 0, ...stored);
    return canvas.transferToImageBitmap();
  }

  close() {
    this.bitmap.close();
  }
}

/** RGBA of a part of a bitmap. A canvas forgets colors under transparency; the library keeps them. */
async function pixels(bitmap, part) {
  const { x, y, width, height } = part;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, x, y, width, height, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  for (let i = 3; i < rgba.length; i += 4) {
    if (rgba[i] < 255) {
      return (await throughWebGL(bitmap, part)) ?? (await throughVideoFrame(bitmap, part)) ?? rgba;
    }
  }
  return rgba;
}

/** The same from a texture, which keeps all four values; null where there is no WebGL. */
async function throughWebGL(bitmap, { x, y, width, height }) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const part = await createImageBitmap(bitmap, x, y, width, height, AS_STORED);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, part);
  part.close();
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const rgba = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers allow few at a time
  return rgba;
}

/** The same from a video frame, which keeps them in Firefox; null where there is none. */
async function throughVideoFrame(bitmap, rect) {
  if (!globalThis.VideoFrame) return null;
  const frame = new VideoFrame(bitmap, { timestamp: 0 });
  const rgba = new Uint8Array(4 * rect.width * rect.height);
  await frame.copyTo(rgba, { rect, format: "RGBA" });
  frame.close();
  return rgba;
}
