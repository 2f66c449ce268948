// SPDX-License-Identifier: Apache-2.0
"use strict";

const find = (id) => document.getElementById(id);
const drop = find("drop"), file = find("file"), error = find("error"), status = find("status"), result = find("result");
let model = null, pictureUrl = null, running = null;

function fail(message, hint) {
  const sentence = message.charAt(0).toUpperCase() + message.slice(1);
  error.textContent = hint ? `${sentence}: ${hint}.` : `${sentence}.`;
  error.hidden = false;
  status.textContent = "";
}

async function answer(path, options) {
  const response = await fetch(path, options);
  const body = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) {
    throw Object.assign(new Error(body.error), { hint: body.hint });
  }
  return body;
}

async function loadModel() {
  model = await answer("v1/model");
  const rounded = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
  find("model").textContent = `${model.name}, ${model.classes.length} classes, on ${model.run.backend} (${model.run.device})`;
  const { max_body_bytes: bytes, max_pixels: pixels } = model.limits;
  find("limits").textContent = `${model.limits.formats.join(", ")}; up to ${rounded(bytes / 2 ** 20)} MB and ${rounded(pixels / 1e6)} million pixels`;
}

async function segment(image) {
  if (running) {
    running.abort();
  }
  const mine = (running = new AbortController());
  error.hidden = true;
  status.textContent = `Segmenting ${image.name || "the image"} ...`;
  try {
    if (!model) {
      await loadModel();
    }
    const started = performance.now();
    const type = image.type.startsWith("image/") ? image.type : "application/octet-stream";
    const found = await answer("v1/segment?format=json&mask=true", {
      method: "POST", body: image, headers: { "Content-Type": type }, signal: mine.signal,
    });
    show(image, found, performance.now() - started);
  } catch (problem) {
    if (mine === running) {
      result.hidden = true;
      const unreachable = problem instanceof TypeError;
      fail(unreachable ? "The server cannot be reached or ended the connection" : problem.message, problem.hint);
    }
  }
}

function show(image, found, milliseconds) {
  if (pictureUrl) {
    URL.revokeObjectURL(pictureUrl);
  }
  pictureUrl = URL.createObjectURL(image);
  const mask = `data:image/png;base64,${found.mask_png}`;
  find("stack").classList.remove("bare");
  find("picture").src = pictureUrl;
  find("mask").src = mask;
  find("save").href = mask;
  const names = Object.entries(found.areas).map(([name, area]) => `${name} ${percent(area)}`);
  find("mask").alt = `The classes of its pixels, in colours: ${names.join(", ")}`;
  find("caption").textContent =
    `${image.name || "pasted image"}, ${found.width} x ${found.height} pixels, ${Math.round(milliseconds)} ms`;
  find("legend").replaceChildren(...Object.entries(found.areas).map(([name, area]) => row(name, area)));
  result.hidden = false;
  status.textContent = "Done.";
}

const percent = (area) => (area > 0 && area < 0.001 ? "<0.1 %" : `${(area * 100).toFixed(1)} %`);

function row(name, area) {
  const cells = [document.createElement("td"), document.createElement("td"), document.createElement("td")];
  cells[0].append(swatch(model.classes.find((one) => one.name === name).color));
  cells[1].textContent = name;
  cells[2].textContent = percent(area);
  const line = document.createElement("tr");
  line.append(...cells);
  return line;
}

function swatch(color) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg"), square = document.createElementNS(space, "rect");
  picture.setAttribute("viewBox", "0 0 10 10");
  picture.setAttribute("aria-hidden", "true");
  const look = { x: 0.5, y: 0.5, width: 9, height: 9, rx: 2, fill: `rgb(${color.join(" ")})` };
  Object.entries(look).forEach(([key, value]) => square.setAttribute(key, value));
  picture.append(square);
  return picture;
}

function take(files) {
  if (files.length !== 1) {
    fail(files.length ? `One image at a time, not ${files.length}` : "There is no image in that");
    return;
  }
  segment(files[0]);
}

file.addEventListener("change", () => {
  if (file.files.length) {
    take(file.files);
  }
  file.value = "";  // the same file may be chosen again
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) {
    drop.classList.remove("over");
  }
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    take(event.clipboardData.files);
  }
});
find("opacity").addEventListener("input", (event) => {
  find("mask").style.opacity = event.target.value / 100;
  find("percent").textContent = `${event.target.value} %`;
});
// A picture that the browser cannot show (TIFF): its labels alone.
find("picture").addEventListener("error", () => find("stack").classList.add("bare"));
loadModel().catch((problem) => fail(problem.message, problem.hint));
