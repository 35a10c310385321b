// What a picture's file states around its pixels: where it ends, and how the camera was held.
//
// Browsers disagree about both. Some show the first half of a truncated file as if it were all of
// it, and some leave out the orientation in WebP files, or lose it in later steps.

const ORIENTATION = 0x0112; // a tag of EXIF
const LONG = 4; // a type of EXIF, 32 bits; other numbers here have 16

/**
 * Reads the structure of a file, if it is of a format that is known here.
 *
 * @param {Uint8Array} bytes
 * @returns {{known: boolean, whole: boolean, orientation: number, upright: Blob}} whether the file
 *   reaches its own end, the orientation (1 to 8), and the file without it: a browser decodes that
 *   as it is stored
 */
export function examine(bytes) {
  const format = FORMATS.find(({ starts, at }) => text(bytes, at, starts.length) === starts);
  const file = { bytes, view: new DataView(bytes.buffer), exif: [] };
  let whole = true;
  try {
    whole = format?.isWhole(file) ?? true;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    whole = false; // a length pointed outside the file
  }
  const orientation = file.exif.length > 0 ? orientationOf(file.view, file.exif[0].data) : 1;
  return { known: Boolean(format), whole, orientation, upright: without(bytes, file.exif) };
}

const FORMATS = [
  { starts: "\x89PNG", at: 0, isWhole: readPng },
  { starts: "\xff\xd8\xff", at: 0, isWhole: readJpeg },
  { starts: "GIF8", at: 0, isWhole: readGif },
  { starts: "WEBP", at: 8, isWhole: readWebp },
  { starts: "BM", at: 0, isWhole: readBmp },
  { starts: "ftypavi", at: 4, isWhole: () => true }, // AVIF: browsers refuse what ends early
];

function text(bytes, at, length) {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

function readPng({ bytes, view, exif }) {
  for (let at = 8; ; ) {
    const end = at + 12 + view.getUint32(at);
    const kind = text(bytes, at + 4, 4);
    if (kind === "eXIf") exif.push({ data: at + 8, from: at, to: end });
    if (kind === "IEND") return end <= bytes.length;
    at = end;
  }
}

function readJpeg({ bytes, view, exif }) {
  for (let at = 2; ; ) {
    at = bytes.indexOf(0xff, at); // past the compressed pixels, where they are
    const marker = at < 0 ? undefined : bytes[at + 1];
    if (marker === undefined) return false;
    if (marker === 0xd9) return true;
    if (marker === 0xff) at += 1; // filling
    else if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) at += 2; // no length follows
    else {
      const end = at + 2 + view.getUint16(at + 2);
      if (marker === 0xe1 && text(bytes, at + 4, 6) === "Exif\0\0") {
        exif.push({ data: at + 10, from: at, to: end });
      }
      at = end;
    }
  }
}

/** The first frame of a GIF is all that is used of it. */
function readGif({ bytes, view }) {
  const table = (flags) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  let at = 13 + table(view.getUint8(10));
  for (;;) {
    const kind = view.getUint8(at);
    at += kind === 0x2c ? 11 + table(view.getUint8(at + 9)) : 2;
    while (view.getUint8(at) > 0) at += 1 + view.getUint8(at);
    at += 1;
    if (kind !== 0x21) return kind === 0x2c; // an extension may precede it, nothing else
  }
}

function readWebp({ bytes, view, exif }) {
  const end = 8 + view.getUint32(4, true);
  for (let at = 12; at + 8 <= end; ) {
    const length = view.getUint32(at + 4, true);
    if (text(bytes, at, 4) === "EXIF") {
      const data = at + (text(bytes, at + 8, 4) === "Exif" ? 14 : 8);
      exif.push({ data, from: at, to: at + 4, instead: "none" }); // its length is in the file's
    }
    at += 8 + length + (length % 2);
  }
  return end <= bytes.length;
}

function readBmp({ bytes, view }) {
  const compression = view.getUint32(14, true) < 40 ? undefined : view.getUint32(30, true);
  if (compression !== 0 && compression !== 3) return true; // the length of its pixels is not known
  const row = 4 * Math.ceil((view.getInt32(18, true) * view.getUint16(28, true)) / 32);
  return view.getUint32(10, true) + Math.abs(view.getInt32(22, true)) * row <= bytes.length;
}

function orientationOf(view, start) {
  try {
    const little = view.getUint16(start) === 0x4949;
    const directory = start + view.getUint32(start + 4, little);
    for (let i = 0; i < view.getUint16(directory, little); i++) {
      const entry = directory + 2 + 12 * i;
      if (view.getUint16(entry, little) !== ORIENTATION) continue;
      const isLong = view.getUint16(entry + 2, little) === LONG;
      const value = isLong ? view.getUint32(entry + 8, little) : view.getUint16(entry + 8, little);
      return value >= 1 && value <= 8 ? value : 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // damaged EXIF is no EXIF
  }
  return 1;
}

function without(bytes, pieces) {
  const parts = [];
  let kept = 0;
  for (const { from, to, instead = "" } of pieces) {
    parts.push(bytes.subarray(kept, from), instead);
    kept = to;
  }
  return new Blob([...parts, bytes.subarray(kept)]);
}
