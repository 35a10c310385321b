// What the reader does, and what the page shows. The work itself is done by worker.js.

import { SIZE } from "./resize.js";
import { decode, unpack } from "./unpack.js";

const element = (id) => document.getElementById(id);
const facts = JSON.parse(element("facts").textContent);
const SHOWN = 5;
const MOST_MEGAPIXELS = 80; // as in the library
const SMALL = 160; // pixels of the longer side, below which they are shown as squares
const VOWEL = /^[aeiou]/i;

/** A picture cannot be shown; the message is for the reader. */
class Refusal extends Error {}

// --- the worker ---

/** Starts the worker. @returns {Promise<Function>} asks it to do a job, and returns the result */
async function start() {
  const [code, ...blocks] = ["worker", "runtime", "graph", "tensors"].map((id) => {
    const { textContent } = element(id);
    element(id).remove(); // the text may go once it is unpacked
    return textContent;
  });
  // From a blob, as a page that was opened from a file may not load a worker from another file.
  const script = new Blob([await unpack(code)], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(script));
  const waiting = new Map();
  let asked = 0;
  const ask = (job, given) =>
    new Promise((resolve, reject) => {
      const id = ++asked;
      waiting.set(id, { resolve, reject });
      worker.postMessage({ id, job, ...given });
    });
  worker.onmessage = ({ data: { id, result, refusal, message } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (result) resolve(result);
    else reject(refusal ? new Refusal(message) : new Error(message));
  };
  worker.onerror = ({ message }) => {
    for (const { reject } of waiting.values()) reject(new Error(message || "it ended at once"));
    waiting.clear();
  };
  await ask("start", { blocks, facts });
  return ask;
}

const worker = start().catch((error) => {
  throw new Refusal(
    `The network cannot start in this browser (${error.message}). Current versions of Chrome, Edge, Firefox and Safari can run it.`,
  );
});
worker.then(
  () => element("answer").classList.contains("waiting") && say("Ready. Choose a picture."),
  ({ message }) => say(message, true),
);

// --- a picture, and what is shown of it ---

let latest = 0; // a picture that comes while another is at work replaces it

/** Classifies one file and shows everything about it. */
async function classify(blob, name) {
  const turn = ++latest;
  try {
    say(`Looking at ${name} …`);
    await checkSize(blob);
    const ask = await worker;
    const result = await ask("classify", { blob });
    if (turn !== latest) return;
    showPicture(result.shown, name);
    paint(element("crop"), result.crop);
    paint(element("whitened"), visible(result.whitened));
    showAnswer(result.probabilities);
    element("timing").textContent = Object.entries(result.milliseconds)
      .map(([what, time]) => `${what}\u00a0${time < 10 ? time.toFixed(1) : Math.round(time)}\u00a0ms`)
      .join(" · ");
    element("results").hidden = false;
    // For those who want the figures behind the pictures, and for the tests.
    window.allcnn = { ...result, name, classes: facts.classes };
  } catch (error) {
    if (turn !== latest) return;
    element("results").hidden = true;
    if (error instanceof Refusal) return say(error.message, true);
    say(`This picture cannot be classified here (${error.message}).`, true);
    console.error(error);
  }
}

/** Refuses a huge picture before it is decoded. What is no picture is left to the decoder. */
async function checkSize(blob) {
  const image = new Image();
  const url = URL.createObjectURL(blob);
  await new Promise((resolve) => Object.assign(image, { onload: resolve, onerror: resolve, src: url }));
  URL.revokeObjectURL(url);
  const megapixels = (image.naturalWidth * image.naturalHeight) / 1e6;
  if (megapixels > MOST_MEGAPIXELS) {
    throw new Refusal(
      `This picture has ${Math.round(megapixels)} megapixels; the limit is ${MOST_MEGAPIXELS}.`,
    );
  }
}

function say(text, isError = false) {
  element("answer").textContent = text;
  element("answer").className = isError ? "error" : "waiting";
}

function showAnswer(probabilities) {
  const best = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  const label = facts.classes[best[0]];
  say(`${VOWEL.test(label) ? "An" : "A"} ${label}, ${percent(probabilities[best[0]])}`);
  element("answer").className = "";
  element("top").replaceChildren(
    ...best.slice(0, SHOWN).map((index) => {
      const row = element("row").content.cloneNode(true);
      row.querySelector(".label").textContent = facts.classes[index];
      row.querySelector(".percent").textContent = percent(probabilities[index]);
      row.querySelector(".bar").style.setProperty("--part", probabilities[index]);
      return row;
    }),
  );
}

/** With a space that does not break. */
const percent = (probability) => `${(100 * probability).toFixed(1)}\u00a0%`;

/** Draws the picture with all that is outside its center square faded. */
function showPicture({ preview, width, height, square: { side, left, top } }, name) {
  const canvas = element("picture");
  [canvas.width, canvas.height] = [preview.width, preview.height];
  const context = canvas.getContext("2d");
  const scale = preview.width / width;
  const area = [left, top, side, side].map((value) => value * scale);
  context.globalAlpha = 0.3;
  context.drawImage(preview, 0, 0);
  context.clearRect(...area);
  context.globalAlpha = 1;
  context.beginPath();
  context.rect(...area);
  context.clip();
  context.drawImage(preview, 0, 0);
  canvas.classList.toggle("small", Math.max(width, height) < SMALL);
  canvas.setAttribute("aria-label", `Your picture: ${name}`);
  element("size").textContent = `${width} × ${height} pixels`;
  preview.close();
}

/** Shows RGB planes of 32x32 on a canvas. */
function paint(canvas, planes) {
  const image = new ImageData(SIZE, SIZE);
  const area = SIZE * SIZE;
  for (let i = 0; i < area; i++) {
    image.data.set([planes[i], planes[area + i], planes[2 * area + i], 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Whitened values as colors: gray is zero, three deviations are full contrast. */
function visible(whitened) {
  const deviation = Math.sqrt(whitened.reduce((sum, value) => sum + value ** 2, 0) / whitened.length);
  return Uint8ClampedArray.from(whitened, (value) => 127.5 + (value * 127.5) / (3 * deviation || 1));
}

// --- choosing, dropping, pasting, examples ---

function take(files) {
  const [file] = files;
  if (file) classify(file, file.name);
}

element("choose").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", ({ target }) => {
  take(target.files);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault(); // or the browser would leave the page and open the file
  element("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
for (const button of document.querySelectorAll("#examples button")) {
  const [, data] = button.querySelector("img").src.split(",");
  button.addEventListener("click", () => classify(new Blob([decode(data)]), `${button.name}.png`));
}
