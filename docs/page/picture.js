// From a file to the 32x32 crop that the network gets, as allcnn_zoo.images.to_batch makes it:
// the camera's orientation applied, colours as stored, transparency dropped, the centre square.

import { Resizer } from "./resize.js";

const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
const MOST_MEGAPIXELS = 100;
const STRIP = 256; // rows that are read at once

/** Something is not a picture that can be shown; the message is for the reader. */
export class PictureError extends Error {}

/** Decodes a file. @returns {Promise<ImageBitmap>} */
export async function open(blob) {
  const [width, height] = await measure(blob);
  const megapixels = (width * height) / 1e6;
  if (megapixels > MOST_MEGAPIXELS) {
    throw new PictureError(
      `This picture has ${Math.round(megapixels)} megapixels; a page has room for ${MOST_MEGAPIXELS}.`,
    );
  }
  try {
    return await createImageBitmap(blob, { ...AS_STORED, imageOrientation: "from-image" });
  } catch {
    throw new PictureError("This picture is damaged: your browser cannot decode it.");
  }
}

/** Where the centre square of a picture lies. */
export function centreSquare({ width, height }) {
  const side = Math.min(width, height);
  return { side, left: Math.floor((width - side) / 2), top: Math.floor((height - side) / 2) };
}

/** What the network gets: RGB planes of 32x32, 0...255. @returns {Promise<Uint8ClampedArray>} */
export async function crop(bitmap) {
  const { side, left, top } = centreSquare(bitmap);
  const resizer = new Resizer(side);
  for (let y = 0; y < side; y += STRIP) {
    const rows = Math.min(STRIP, side - y);
    const strip = await createImageBitmap(bitmap, left, top + y, side, rows, AS_STORED);
    resizer.push(pixels(strip));
    strip.close();
  }
  return resizer.finish();
}

/** Width and height without decoding: a huge picture must not even be begun. */
async function measure(blob) {
  const image = new Image();
  const url = URL.createObjectURL(blob);
  try {
    await new Promise((resolve, reject) => {
      Object.assign(image, { onload: resolve, onerror: reject, src: url });
    });
    return [image.naturalWidth, image.naturalHeight];
  } catch {
    throw new PictureError(
      "This is not a picture that your browser can open. PNG, JPEG, WebP and GIF work.",
    );
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** RGBA of a bitmap. A canvas forgets the colours under transparency, which the library keeps. */
function pixels(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const transparent = rgba.some((value, i) => i % 4 === 3 && value < 255);
  return (transparent && pixelsUnderTransparency(bitmap)) || rgba;
}

/** The same through WebGL, whose textures keep all four values; null where there is no WebGL. */
function pixelsUnderTransparency(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const rgba = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers allow few at a time
  return rgba;
}
