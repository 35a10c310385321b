// What the reader does, and what the page shows.

import { decode, load } from "./network.js";
import { centreSquare, crop, open, PictureError } from "./picture.js";
import { SIZE } from "./resize.js";

const element = (id) => document.getElementById(id);
const facts = JSON.parse(element("facts").textContent);
const SHOWN = 5;
const PREVIEW = 640; // pixels of the longer side
const VOWEL = /^[aeiou]/;

const network = load(facts);
network.then(
  () => element("answer").classList.contains("waiting") && say("Ready. Choose a picture."),
  () => say("The network cannot start: this browser lacks WebAssembly or DecompressionStream.", true),
);

let latest = 0; // a picture that comes while another is at work replaces it

/** Classifies one file and shows everything about it. */
async function classify(blob, name) {
  const turn = ++latest;
  try {
    say(`Looking at ${name} …`);
    const clock = [performance.now()];
    const bitmap = await open(blob);
    clock.push(performance.now());
    const planes = await crop(bitmap);
    clock.push(performance.now());
    const run = await network;
    clock.push(performance.now());
    const { probabilities, whitened } = await run(planes);
    clock.push(performance.now());
    if (turn !== latest) return;
    showPicture(bitmap, name);
    paint(element("crop"), planes);
    paint(element("whitened"), visible(whitened));
    showAnswer(probabilities);
    showTiming(clock);
    element("results").hidden = false;
    // For those who want the figures behind the pictures, and for the tests.
    const milliseconds = clock[4] - clock[3];
    const { classes } = facts;
    window.allcnn = { name, crop: planes, whitened, probabilities, classes, milliseconds };
  } catch (error) {
    if (turn !== latest) return;
    element("results").hidden = true;
    const reason = error instanceof PictureError ? error.message : "Something went wrong here.";
    say(`${reason} Try another one.`, true);
    if (!(error instanceof PictureError)) console.error(error);
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

const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

/** Draws the picture with all that is outside its centre square faded. */
function showPicture(bitmap, name) {
  const canvas = element("picture");
  const scale = Math.min(1, PREVIEW / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const { side, left, top } = centreSquare(bitmap);
  const square = [left, top, side, side].map((value) => value * scale);
  context.globalAlpha = 0.3;
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  context.clearRect(...square);
  context.globalAlpha = 1;
  context.beginPath();
  context.rect(...square);
  context.clip();
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.classList.toggle("small", Math.max(bitmap.width, bitmap.height) < PREVIEW / 4);
  canvas.setAttribute("aria-label", `Your picture: ${name}`);
  element("size").textContent = `${bitmap.width} × ${bitmap.height} pixels`;
  bitmap.close();
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

/** Whitened values as colours: grey is zero, three deviations are full contrast. */
function visible(whitened) {
  const deviation = Math.sqrt(whitened.reduce((sum, value) => sum + value ** 2, 0) / whitened.length);
  return Uint8ClampedArray.from(whitened, (value) => 127.5 + (value * 127.5) / (3 * deviation || 1));
}

function showTiming([start, opened, cropped, ready, done]) {
  const parts = [["decoding", opened - start], ["crop", cropped - opened], ["network", done - ready]];
  element("timing").textContent = parts
    .map(([what, time]) => `${what} ${time < 10 ? time.toFixed(1) : Math.round(time)} ms`)
    .join(" · ");
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
