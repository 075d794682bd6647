// The opinion study: unnamed versions of a picture, rated 1 to 5.

import { compare, Failure } from "./api.js";
import { $, attempt, el, modelBoxes, save, takesFiles } from "./dom.js";
import { Panes } from "./panes.js";
import { csv, distinct, plan, summary } from "./plan.js";

const LETTERS = ["A", "B", "C"];
const NAMES = { input: "input", truth: "sharp" };
const SCENES = [40, 100, 160, 190, 220, 300]; // frames of the test card that differ: head turned, hand up
const MOST_FILES = 12;

export class Study {
  #panes = new Panes($("study-panes"), $("study-trial"));
  #files = [];
  #chosen;
  #preparing = null; // AbortController
  #pictures = new Map(); // scene -> version -> Blob
  #versions = [];
  #plan = [];
  #trial = 0;
  #began = 0;
  #ratings = [];

  constructor(about) {
    this.#chosen = modelBoxes($("study-models"), about.models);
    takesFiles($("study-drop"), $("study-files"), (files) => {
      this.#files = files.slice(0, MOST_FILES);
      $("study-files-told").textContent = this.#names().join(", ");
    });
    $("study-setup").addEventListener("change", () => { $("study-drop").hidden = this.#kind() === "scene"; });
    $("study-setup").addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(() => this.#prepare());
    });
    $("study-cancel").addEventListener("click", () => this.#preparing?.abort());
    $("study-form").addEventListener("change", () => { $("study-next").disabled = this.#given().includes(0); });
    $("study-form").addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(() => this.#rate());
    });
    $("study-stop").addEventListener("click", () => this.#finish());
    $("study-csv").addEventListener("click", () => (
      save(new Blob([csv(this.#ratings)], { type: "text/csv" }), "sharpcam-study.csv")
    ));
    $("study-again").addEventListener("click", () => this.#stage("study-setup"));
  }

  #kind() {
    return new FormData($("study-setup")).get("pictures");
  }

  // One for each file: those of two folders may be called the same.
  #names() {
    return distinct(this.#files.map((file) => file.name));
  }

  #stage(name) {
    for (const id of ["study-setup", "study-trial", "study-result"]) $(id).hidden = id !== name;
  }

  // Has every scene's versions made, before the first is shown: rating should not wait for models.
  async #prepare() {
    const kind = this.#kind();
    const scenes = kind === "scene"
      ? SCENES.map((scene) => ({ name: `test card ${scene}`, job: { source: "scene", scene }, files: [] }))
      : this.#names().map((name, at) => ({ name, job: { source: "upload", soften: kind === "sharp" }, files: [this.#files[at]] }));
    const models = this.#chosen();
    const versions = ["input", ...models, ...(kind === "soft" ? [] : ["truth"])];
    if (!scenes.length) throw new Failure("choose some pictures first");
    if (versions.length < 3) throw new Failure("a triplet needs three versions", "choose another model, or sharp pictures");
    const trials = Math.round(Math.min(Math.max($("study-trials").valueAsNumber || 1, 1), 60));
    const used = scenes.slice(0, trials);
    this.#preparing = new AbortController();
    $("study-start").disabled = true;
    $("study-progress").hidden = $("study-cancel").hidden = false;
    this.#pictures.clear();
    try {
      for (const [number, scene] of used.entries()) {
        const made = new Map();
        this.#pictures.set(scene.name, made);
        for await (const record of compare({ ...scene.job, models }, scene.files, this.#preparing.signal)) {
          if (record.kind === "picture") made.set(record.name, record.data);
          if (record.kind === "unable") throw new Failure(`${record.name}: ${record.error}`, record.hint);
          $("study-told").textContent = `Preparing picture ${number + 1} of ${used.length}`;
          $("study-progress").value = (number + made.size / (versions.length + 1)) / used.length;
        }
      }
    } finally {
      this.#preparing = null;
      $("study-told").textContent = "";
      $("study-start").disabled = false;
      $("study-progress").hidden = $("study-cancel").hidden = true;
    }
    this.#versions = versions;
    this.#plan = plan(used.map((scene) => scene.name), versions, trials);
    this.#trial = 0;
    this.#ratings = [];
    this.#stage("study-trial");
    await this.#showTrial();
  }

  async #showTrial() {
    const { scene, versions } = this.#plan[this.#trial];
    const made = this.#pictures.get(scene);
    const bitmaps = await Promise.all(versions.map((version) => createImageBitmap(made.get(version))));
    this.#panes.clear();
    bitmaps.forEach((bitmap, at) => this.#panes.add(bitmap, `Picture ${LETTERS[at]}`, rates(at)));
    this.#panes.zoom("one");
    $("study-count").textContent = `Triplet ${this.#trial + 1} of ${this.#plan.length}`;
    $("study-count").focus();
    $("study-next").disabled = true;
    $("study-next").textContent = this.#trial + 1 < this.#plan.length ? "Next" : "Finish";
    this.#began = performance.now();
  }

  #given() {
    const form = new FormData($("study-form"));
    return LETTERS.map((letter) => Number(form.get(letter) ?? 0));
  }

  async #rate() {
    const { scene, versions } = this.#plan[this.#trial];
    const seconds = ((performance.now() - this.#began) / 1000).toFixed(1);
    const given = this.#given();
    versions.forEach((version, at) => this.#ratings.push({
      rater: $("study-rater").value, trial: this.#trial + 1, scene, position: LETTERS[at],
      version: NAMES[version] ?? version, rating: given[at], seconds,
    }));
    this.#trial += 1;
    if (this.#trial < this.#plan.length) await this.#showTrial();
    else this.#finish();
  }

  #finish() {
    this.#panes.clear();
    this.#stage("study-result");
    const rows = summary(this.#ratings, this.#versions.map((version) => NAMES[version] ?? version));
    rows.sort((a, b) => (b.mean ?? 0) - (a.mean ?? 0));
    $("study-table").tBodies[0].replaceChildren(...rows.map((row) => el(
      "tr", {}, el("th", { scope: "row" }, row.version), el("td", {}, String(row.count)),
      el("td", {}, row.mean?.toFixed(2) ?? "–"), el("td", {}, row.spread?.toFixed(2) ?? "–"),
      el("td", { className: "bars" }, bars(row.counts)),
    )));
    $("study-note").textContent = "Spread is the standard deviation of the ratings. "
      + "“input” is the soft picture as it was, “sharp” the one that the others try to reach.";
    $("study-csv").disabled = !this.#ratings.length;
    $("study-result").querySelector("h2").focus();
  }
}

function rates(at) {
  const letter = LETTERS[at];
  const buttons = [1, 2, 3, 4, 5].map((value) => el(
    "label", {}, el("input", { type: "radio", name: letter, value, className: "hidden", required: true }), String(value),
  ));
  const title = el("figcaption", { id: `rates-${letter}` }, el("b", {}, `Picture ${letter}`), el("span", {}, "1 bad, 5 excellent"));
  return el("div", {}, title, el("div", { className: "rates", role: "radiogroup", "aria-labelledby": `rates-${letter}` }, ...buttons));
}

function bars(counts) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 50 20");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", counts.map((count, at) => `${count} times ${at + 1}`).join(", "));
  const most = Math.max(1, ...counts);
  counts.forEach((count, at) => {
    const bar = document.createElementNS(space, "rect");
    const high = Math.max(1, (20 * count) / most);
    for (const [name, value] of Object.entries({ x: at * 10 + 1, y: 20 - high, width: 8, height: high })) bar.setAttribute(name, value);
    svg.append(bar);
  });
  return svg;
}
