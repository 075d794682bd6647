// One picture through every model, side by side.

import { compare, takeFrame } from "./api.js";
import { $, attempt, el, modelBoxes, save, takesFiles } from "./dom.js";
import { Panes } from "./panes.js";

const LABELS = { input: "input", truth: "sharp" };

export class Compare {
  #panes = new Panes($("compare-panes"), $("compare-tools"));
  #soft = null; // a file, or { scene }
  #sharp = null;
  #chosen;
  #running = null; // AbortController

  constructor(about) {
    this.#chosen = modelBoxes($("compare-models"), about.models);
    takesFiles($("drop-soft"), $("soft"), ([file]) => this.#take(file));
    takesFiles($("drop-sharp"), $("sharp"), ([file]) => {
      this.#sharp = file;
      this.#tell();
    });
    $("take").hidden = !about.daemon;
    $("take").addEventListener("click", () => attempt(async () => {
      $("take").disabled = true;
      try {
        this.#take(await takeFrame());
      } finally {
        $("take").disabled = false;
      }
    }));
    $("card").addEventListener("click", () => this.#take({ scene: Math.floor(Math.random() * 360) }));
    $("compare-run").addEventListener("click", () => attempt(() => this.#run()));
    $("compare-cancel").addEventListener("click", () => this.#running?.abort());
    $("strip").addEventListener("click", () => attempt(async () => (
      save(await this.#panes.strip(), "sharpcam-comparison.png")
    )));
    this.#tell();
  }

  #take(soft) {
    if (this.#soft || soft.scene !== undefined) this.#sharp = null; // it was the last one's; a scene brings its own
    this.#soft = soft;
    this.#tell();
    $("compare-run").focus();
  }

  #tell() {
    const scene = this.#soft?.scene;
    $("soft-told").textContent = scene === undefined ? this.#soft?.name ?? "" : `test card, frame ${scene}`;
    const none = scene === undefined ? "optional, for PSNR and SSIM" : "the test card knows its own";
    $("sharp-told").textContent = this.#sharp?.name ?? none;
    $("sharp").disabled = scene !== undefined;
    $("compare-run").disabled = !this.#soft || this.#running !== null;
    $("compare-cancel").disabled = this.#running === null;
  }

  async #run() {
    const { scene } = this.#soft;
    const files = scene === undefined ? [this.#soft, this.#sharp].filter(Boolean) : [];
    const job = scene === undefined ? { source: "upload" } : { source: "scene", scene };
    this.#running = new AbortController();
    this.#tell();
    this.#panes.clear();
    $("compare-table").tBodies[0].replaceChildren();
    $("compare-table").hidden = $("compare-tools").hidden = true;
    $("compare-progress").hidden = false;
    let ended = "cancelled";
    try {
      let count = 1;
      let done = 0;
      for await (const record of compare({ ...job, models: this.#chosen() }, files, this.#running.signal)) {
        if (record.kind === "begin") count = record.names.length;
        if (record.kind === "picture") {
          done += 1;
          await this.#show(record);
        }
        if (record.kind === "unable") this.#row(record.name, record.error);
        const part = record.kind === "progress" ? record.share : 0;
        if (part || record.kind === "progress") $("compare-told").textContent = `${record.name}: ${Math.round(part * 100)} %`;
        $("compare-progress").value = (done + part) / count;
        if (record.kind === "end") ended = "done";
      }
    } catch (error) {
      if (error.name !== "AbortError") ended = error.message;
    } finally {
      this.#running = null;
      $("compare-told").textContent = ended;
      $("compare-progress").hidden = true;
      this.#tell();
    }
  }

  async #show({ name, data, psnr, ssim, seconds }) {
    const bitmap = await createImageBitmap(data);
    const label = LABELS[name] ?? name;
    const facts = psnr === undefined ? `${bitmap.width} × ${bitmap.height}` : `${decibels(psnr)}${ssim === undefined ? "" : `, ${ssim.toFixed(4)}`}`;
    if (!this.#panes.count) $("compare-panes").replaceChildren();
    this.#panes.add(bitmap, label, el("figcaption", {}, el("b", {}, label), el("span", {}, facts)));
    this.#row(
      label, psnr === undefined ? "–" : decibels(psnr), ssim?.toFixed(4) ?? "–",
      seconds === undefined ? "–" : `${seconds.toFixed(2)} s`,
    );
    $("compare-table").hidden = $("compare-tools").hidden = false;
  }

  #row(name, ...cells) {
    const row = el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell)));
    if (cells.length === 1) row.lastChild.colSpan = 3; // why it could not be
    $("compare-table").tBodies[0].append(row);
    $("compare-table").hidden = false;
  }
}

function decibels(psnr) {
  return psnr === null ? "identical" : `${psnr.toFixed(2)} dB`;
}
