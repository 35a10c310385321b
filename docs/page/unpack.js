// The data blocks of the page: gzip in base64.

/** Bytes of a base64 text. */
export function decode(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** What a block holds. */
export async function unpack(text) {
  const stream = new Blob([decode(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
