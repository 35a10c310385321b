// Decoding, cropping and the network, away from the page, which stays responsive meanwhile.

import { load } from "./network.js";
import { Picture, PictureError } from "./picture.js";

const PREVIEW = 640; // pixels of the longer side

let network;

const jobs = {
  async start({ blocks, facts }) {
    network = await load(blocks, facts);
    return [{}];
  },

  async classify({ blob }) {
    const clock = [performance.now()];
    const lap = () => clock.push(performance.now());
    const picture = await Picture.open(blob);
    lap();
    const crop = await picture.crop();
    lap();
    const { probabilities, whitened } = await network(crop);
    lap();
    const { width, height, square } = picture;
    const preview = picture.preview(PREVIEW);
    picture.close();
    const milliseconds = Object.fromEntries(
      ["decoding", "crop", "network"].map((what, i) => [what, clock[i + 1] - clock[i]]),
    );
    const shown = { preview, width, height, square };
    return [{ crop, whitened, probabilities, milliseconds, shown }, [preview]];
  },
};

onmessage = async ({ data: { id, job, ...given } }) => {
  try {
    const [result, transfer] = await jobs[job](given);
    postMessage({ id, result }, transfer);
  } catch (error) {
    if (!(error instanceof PictureError)) console.error(error);
    postMessage({ id, refusal: error instanceof PictureError, message: error.message });
  }
};
