// The network, from what docs/build_page.py packed into the page.

import * as ort from "onnxruntime-web/wasm";
import { SIZE } from "./resize.js";
import { unpack } from "./unpack.js";

/** Makes the packed network ready to run. @param facts how the build packed it */
export async function load(blocks, facts) {
  const [runtime, graph, packed] = await Promise.all(blocks.map(unpack));
  ort.env.wasm.numThreads = 1; // more would need headers that only a server can send
  ort.env.wasm.wasmBinary = runtime;
  const session = await ort.InferenceSession.create(graph, {
    executionProviders: ["wasm"],
    externalData: [{ path: "tensors", data: restore(packed, facts.tensors) }],
  });

  /** @param {Uint8ClampedArray} planes the crop: RGB planes of 32x32 */
  return async function classify(planes) {
    const images = new ort.Tensor("uint8", Uint8Array.from(planes), [1, 3, SIZE, SIZE]);
    const { probabilities, whitened } = await session.run({ images });
    return { probabilities: probabilities.data, whitened: whitened.data };
  };
}

/** The float32 tensors, one behind the other, from what lift_tensors of the build made of them. */
function restore(packed, tensors) {
  const values = new Float32Array(tensors.reduce((sum, { count }) => sum + count, 0));
  let read = 0, written = 0;
  for (const { count, step } of tensors) {
    for (let i = 0; i < count; i++, read++) {
      const low = packed[read], middle = packed[read + count], high = packed[read + 2 * count];
      const level = low | (middle << 8) | (high << 16);
      values[written++] = step * ((level >> 1) ^ -(level & 1));
    }
    read += 2 * count;
  }
  return new Uint8Array(values.buffer);
}
