// Small helpers around the document.

export const $ = (id) => document.getElementById(id);

// An element with properties (a name with a dash is an attribute) and children.
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

let hiding;

// Tells what went wrong for some seconds; screen readers say it at once.
export function toast(text) {
  const place = $("toast");
  place.textContent = text;
  place.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { place.hidden = true; }, 7000);
}

// Runs what a button or field asks for, and tells when it fails.
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message);
    return undefined;
  }
}

export function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Has the browser open nothing in place of this page that is dropped beside the zones. Text fields take text.
export function keepsPage() {
  const keep = (event) => {
    const isText = event.target.matches?.("input[type=text], input[type=number]") && !event.dataTransfer.types.includes("Files");
    if (event.defaultPrevented || isText) return; // a zone takes it, or the field
    event.preventDefault();
    event.dataTransfer.dropEffect = "none";
  };
  window.addEventListener("dragover", keep);
  window.addEventListener("drop", keep);
}

// Lets files be dropped on `zone` or chosen with `input`, while that is not disabled.
export function takesFiles(zone, input, taken) {
  const over = (event) => {
    if (input.disabled) return;
    event.preventDefault();
    zone.classList.toggle("over", event.type === "dragover");
  };
  zone.addEventListener("dragover", over);
  zone.addEventListener("dragleave", over);
  zone.addEventListener("drop", (event) => {
    over(event);
    if (event.dataTransfer.files.length && !input.disabled) taken([...event.dataTransfer.files]);
  });
  input.addEventListener("change", () => {
    if (input.files.length) taken([...input.files]);
    input.value = ""; // the same file may be chosen again
  });
}

// Whether a model is too costly for live pictures: multiply-accumulates per pixel.
export function isSlow(model) {
  return model.macs_per_pixel > 50_000;
}

// Boxes to choose models by, all chosen at first but those that take long.
export function modelBoxes(place, models) {
  const boxes = models.map((model) => {
    const cost = model.macs_per_pixel / 1000;
    const slow = isSlow(model);
    const note = slow ? `${cost.toFixed(0)} kMAC/px, slow` : `${cost.toFixed(1)} kMAC/px`;
    const box = el("input", { type: "checkbox", value: model.name, checked: !slow });
    place.append(el("label", {}, box, el("span", {}, model.name, " ", el("small", {}, cost ? note : ""))));
    return box;
  });
  place.classList.add("models");
  return () => boxes.filter((box) => box.checked).map((box) => box.value);
}
