// Pictures side by side that are zoomed and moved together.

import { el } from "./dom.js";

const MOST = 16; // screen pixels for one of the picture
const KEYS = { "+": "in", "=": "in", "-": "out", "0": "fit", "1": "one" };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Panes {
  // The part that is seen: its middle as a share of the picture's sides, and screen pixels per picture pixel (0: fit).
  #view = { x: 0.5, y: 0.5, scale: 0 };
  #panes = [];
  #place;
  #pointers = new Map();

  constructor(place, tools) {
    this.#place = place;
    new ResizeObserver(() => this.#draw()).observe(place);
    tools.addEventListener("click", (event) => {
      const how = event.target.dataset.zoom;
      if (how) this.zoom(how);
    });
  }

  clear() {
    for (const pane of this.#panes) pane.bitmap.close();
    this.#panes = [];
    this.#place.replaceChildren();
    this.#view = { x: 0.5, y: 0.5, scale: 0 };
  }

  // Adds a picture under `name`; `below` are elements that stand under it. All pictures have one size.
  add(bitmap, name, ...below) {
    const canvas = el("canvas", { tabIndex: 0, role: "img", "aria-label": `${name}; + and - zoom, arrows move` });
    const figure = el("figure", {}, canvas, ...below);
    this.#place.style.setProperty("--shape", `${bitmap.width} / ${bitmap.height}`);
    this.#place.append(figure);
    this.#panes.push({ bitmap, name, canvas });
    this.#listen(canvas);
    this.#draw();
  }

  get count() {
    return this.#panes.length;
  }

  zoom(how, at = { x: 0.5, y: 0.5 }) {
    if (!this.#panes.length) return;
    const now = this.#scale();
    if (how === "fit") this.#view.scale = 0;
    else this.#grow({ one: 1, in: now * 1.5, out: now / 1.5 }[how], at);
    this.#draw();
  }

  // What is seen now, all pictures beside each other in their own pixels, with their names.
  strip() {
    const { left, top, width, height } = this.#seen();
    const bar = 28;
    const gap = 8;
    const canvas = new OffscreenCanvas((width + gap) * this.#panes.length - gap, height + bar);
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.font = "16px system-ui, sans-serif";
    this.#panes.forEach(({ bitmap, name }, number) => {
      const at = number * (width + gap);
      pen.drawImage(bitmap, left, top, width, height, at, bar, width, height);
      pen.fillStyle = "#111";
      pen.fillText(name, at + 4, 20, width - 8);
    });
    return canvas.convertToBlob({ type: "image/png" });
  }

  #seen() {
    const { bitmap, canvas } = this.#panes[0];
    const scale = this.#scale();
    const width = Math.min(bitmap.width, Math.round(canvas.width / scale));
    const height = Math.min(bitmap.height, Math.round(canvas.height / scale));
    return {
      left: Math.round(clamp(this.#view.x * bitmap.width - width / 2, 0, bitmap.width - width)),
      top: Math.round(clamp(this.#view.y * bitmap.height - height / 2, 0, bitmap.height - height)),
      width, height,
    };
  }

  #fit() {
    const { bitmap, canvas } = this.#panes[0];
    return Math.min(canvas.width / bitmap.width, canvas.height / bitmap.height) || 1;
  }

  #scale() {
    return this.#panes.length ? this.#view.scale || this.#fit() : 0;
  }

  // Zooms to `scale` so that what lies at `at`, a share of the pane's sides, stays there.
  #grow(scale, at) {
    const { bitmap, canvas } = this.#panes[0];
    const before = this.#scale();
    const after = clamp(scale, Math.min(this.#fit(), 1), MOST);
    const shift = (side, length, share) => (share - 0.5) * side * (1 / before - 1 / after) / length;
    this.#view.x += shift(canvas.width, bitmap.width, at.x);
    this.#view.y += shift(canvas.height, bitmap.height, at.y);
    this.#view.scale = after === this.#fit() ? 0 : after; // what fits goes on fitting when the window changes
  }

  #move(dx, dy) { // in screen pixels
    const { bitmap } = this.#panes[0];
    const scale = this.#scale();
    this.#view.x += dx / scale / bitmap.width;
    this.#view.y += dy / scale / bitmap.height;
    this.#draw();
  }

  // No part beside the picture is seen: the next zoom begins at what is shown, not at what was asked for.
  #stayInside() {
    const { bitmap, canvas } = this.#panes[0];
    const half = (side, length) => Math.min(0.5, side / this.#scale() / length / 2);
    const [x, y] = [half(canvas.width, bitmap.width), half(canvas.height, bitmap.height)];
    this.#view.x = clamp(this.#view.x, x, 1 - x);
    this.#view.y = clamp(this.#view.y, y, 1 - y);
  }

  #draw() {
    const density = window.devicePixelRatio || 1;
    for (const { canvas } of this.#panes) {
      const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * density));
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
    }
    if (this.#panes.length) this.#stayInside();
    for (const { bitmap, canvas } of this.#panes) {
      const pen = canvas.getContext("2d");
      const scale = this.#scale();
      pen.imageSmoothingEnabled = scale < 2;
      pen.imageSmoothingQuality = "high";
      const left = canvas.width / 2 - this.#view.x * bitmap.width * scale;
      const top = canvas.height / 2 - this.#view.y * bitmap.height * scale;
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(bitmap, Math.round(left), Math.round(top), bitmap.width * scale, bitmap.height * scale);
    }
  }

  #listen(canvas) {
    const share = (event) => {
      const box = canvas.getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#grow(this.#scale() * Math.exp(-event.deltaY / 400), share(event));
      this.#draw();
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => this.zoom(this.#view.scale ? "fit" : "one", share(event)));
    canvas.addEventListener("keydown", (event) => {
      if (KEYS[event.key]) this.zoom(KEYS[event.key]);
      else if (ARROWS[event.key]) this.#move(...ARROWS[event.key].map((way) => way * 40));
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, event);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    }
    canvas.addEventListener("pointermove", (event) => {
      const last = this.#pointers.get(event.pointerId);
      if (!last) return;
      const others = [...this.#pointers.values()].filter((other) => other.pointerId !== event.pointerId);
      this.#pointers.set(event.pointerId, event);
      if (others.length) { // two fingers
        const apart = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
        this.#grow(this.#scale() * apart(event) / Math.max(1, apart(last)), share(event));
        this.#draw();
      } else {
        const density = window.devicePixelRatio || 1;
        this.#move((last.clientX - event.clientX) * density, (last.clientY - event.clientY) * density);
      }
    });
  }
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), Math.max(low, high));
}
