// The live picture with its split, the settings, and how it goes.

import { post } from "./api.js";
import { $, attempt, el, isSlow } from "./dom.js";

const KEPT = 120; // reports in the graph: a minute
const QUIET_MS = 1500; // for which a setting that was just changed is not overwritten by an older report
const RETRY_MS = 2000;
const TITLES = {
  idle: "The camera is closed", paused: "The camera is paused",
  recovering: "The camera is away", stopping: "SharpCam ends",
};

export class Live {
  #socket = null;
  #wanted = false; // this tab is seen
  #asked = false; // a picture is on its way
  #share = 0.5;
  #bitmap = null;
  #rows = { after: 0, high: 0 }; // of the bitmap
  #status = null;
  #latencies = [];
  #changed = new Map(); // setting -> until when reports do not count
  #orders = Promise.resolve(); // one after another: two at once could arrive in either order
  #strength = 1; // to come back to

  constructor(about) {
    const names = about.models.filter((model) => !isSlow(model)).map((model) => model.name);
    for (const name of ["auto", ...names]) $("model").append(el("option", { value: name }, name));
    this.#listenSplit();
    this.#listenSettings();
    document.addEventListener("visibilitychange", () => this.#follow());
    new ResizeObserver(() => this.#ask()).observe($("stage"));
    this.#follow();
  }

  // Whether the tab is the one that is seen: pictures come only then.
  show(wanted) {
    this.#wanted = wanted;
    if (wanted) this.#ask();
    else this.#send("rest");
  }

  // The connection lives while the page is visible.
  #follow() {
    if (document.hidden) {
      this.#socket?.close();
    } else if (!this.#socket) {
      this.#connect();
    }
  }

  #connect() {
    const socket = new WebSocket(new URL("live", location.href.replace(/^http/, "ws")));
    socket.binaryType = "blob";
    this.#socket = socket;
    this.#asked = false;
    socket.addEventListener("open", () => this.#ask());
    socket.addEventListener("message", (event) => {
      if (typeof event.data === "string") this.#report(JSON.parse(event.data));
      else this.#show(event.data);
    });
    socket.addEventListener("close", () => {
      this.#socket = null;
      if (document.hidden) return;
      this.#away();
      setTimeout(() => this.#follow(), RETRY_MS);
    });
  }

  #send(text) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(text);
    if (text === "rest") this.#asked = false;
  }

  // Asks for one picture, as wide as it is shown; the next one only when this one has come.
  #ask() {
    const width = Math.round($("stage").clientWidth * (window.devicePixelRatio || 1));
    if (!this.#wanted || this.#asked || !width || this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#asked = true;
    this.#send(`look ${Math.min(width, 9999)}`);
  }

  async #show(blob) {
    this.#asked = false;
    const head = new DataView(await blob.slice(0, 4).arrayBuffer()); // see encode() in web/live.py
    const bitmap = await createImageBitmap(blob.slice(4, blob.size, "image/jpeg")).catch(() => null);
    this.#ask();
    if (!bitmap || !this.#wanted) return;
    this.#bitmap?.close();
    this.#bitmap = bitmap;
    this.#rows = { after: head.getUint16(0), high: head.getUint16(2) };
    $("picture").dataset.frames = Number($("picture").dataset.frames ?? 0) + 1;
    this.#draw();
    this.#cover();
  }

  // Left of the split what lies above in the bitmap (before), right of it what lies below (after).
  #draw() {
    if (!this.#bitmap) return;
    const { width } = this.#bitmap;
    const { after, high: height } = this.#rows;
    const canvas = $("picture");
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    const seam = Math.round(this.#share * width);
    if (seam > 0) pen.drawImage(this.#bitmap, 0, 0, seam, height, 0, 0, seam, height);
    if (seam < width) pen.drawImage(this.#bitmap, seam, after, width - seam, height, seam, 0, width - seam, height);
  }

  // A placeholder where there is no live picture; what was seen before is not kept behind it.
  #cover() {
    const state = this.#status?.state ?? "away";
    const live = state === "live" && this.#bitmap !== null;
    $("veil").hidden = live;
    $("split").hidden = !live;
    if (live) return;
    if (state !== "live") {
      this.#bitmap?.close();
      this.#bitmap = null;
      const canvas = $("picture");
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    }
    $("veil-title").textContent = TITLES[state] ?? "Waiting for the first picture …";
    $("veil-text").textContent = TITLES[state] ? this.#status.reason : "";
  }

  #away() {
    this.#status = null;
    this.#cover();
    $("veil-title").textContent = "SharpCam does not answer";
    $("veil-text").textContent = "It has ended, or the page was closed because nobody used it. Start it with sharpcam run, open the page with sharpcam ui.";
    $("state").textContent = "not connected";
    $("state").dataset.state = "away";
    $("controls").disabled = true;
  }

  #report(status) {
    this.#status = status;
    if ($("state").dataset.state !== status.state) {
      $("state").textContent = status.state; // only on a change: a screen reader reads it out
      $("state").dataset.state = status.state;
    }
    $("controls").disabled = false;
    $("fps").textContent = status.fps ? status.fps.toFixed(1) : "–";
    $("latency").textContent = status.fps ? status.latency_ms.toFixed(1) : "–";
    $("dropped").textContent = status.dropped;
    $("clients").textContent = status.clients ?? "–";
    $("source").textContent = `${status.step ?? status.model} on ${status.provider}: ${status.source} → ${status.sink}`;
    this.#follows("strength", () => {
      if (status.strength > 0) this.#strength = status.strength;
      $("strength").value = status.strength;
      $("on").checked = status.strength > 0;
      this.#tellStrength();
    });
    this.#follows("model", () => this.#tellModel(status.governor === "on" ? "auto" : status.model));
    this.#follows("split", () => { $("meeting-split").checked = status.split; });
    this.#follows("mirror", () => { $("mirror").checked = status.mirror; });
    $("mirror").closest("label").hidden = status.mirror === undefined;
    $("pause").textContent = status.state === "paused" ? "Resume the camera" : "Pause the camera";
    this.#graph(status.fps ? status.latency_ms : 0);
    this.#cover();
  }

  #follows(setting, apply) {
    if (performance.now() > (this.#changed.get(setting) ?? 0)) apply();
  }

  #tellStrength() {
    $("strength-told").textContent = `${Math.round($("strength").value * 100)} %`;
  }

  #tellModel(name) {
    if (![...$("model").options].some((option) => option.value === name)) {
      $("model").append(el("option", { value: name }, name)); // one that was given by its path
    }
    $("model").value = name;
  }

  #graph(latency) {
    this.#latencies.push(latency);
    if (this.#latencies.length > KEPT) this.#latencies.shift();
    const top = Math.max(20, ...this.#latencies) * 1.1;
    const from = KEPT - this.#latencies.length;
    const points = this.#latencies.map((ms, at) => `${from + at},${(40 - (40 * ms) / top).toFixed(2)}`);
    $("graph-line").setAttribute("points", points.join(" "));
    $("graph-area").setAttribute("d", `M${from},40 L${points.join(" L")} L${KEPT - 1},40 Z`);
    $("graph-top").textContent = `0 to ${Math.round(top)} ms`;
    $("graph").setAttribute("aria-label", `Latency over the last minute; now ${latency.toFixed(0)} ms`);
  }

  #listenSplit() {
    const handle = $("split");
    const move = (share) => {
      this.#share = Math.min(Math.max(share, 0), 1);
      handle.style.left = `${this.#share * 100}%`;
      handle.setAttribute("aria-valuenow", Math.round(this.#share * 100));
      handle.setAttribute("aria-valuetext", `${Math.round(this.#share * 100)} % before`);
      this.#draw();
    };
    const drag = (event) => {
      const box = $("stage").getBoundingClientRect();
      move((event.clientX - box.left) / box.width);
    };
    $("stage").addEventListener("pointerdown", (event) => {
      $("stage").setPointerCapture(event.pointerId);
      drag(event);
    });
    $("stage").addEventListener("pointermove", (event) => {
      if ($("stage").hasPointerCapture(event.pointerId)) drag(event);
    });
    handle.addEventListener("keydown", (event) => {
      const to = {
        ArrowLeft: this.#share - 0.02, ArrowDown: this.#share - 0.02, PageDown: this.#share - 0.1, Home: 0,
        ArrowRight: this.#share + 0.02, ArrowUp: this.#share + 0.02, PageUp: this.#share + 0.1, End: 1,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      move(to);
    });
  }

  #listenSettings() {
    const set = (key, value) => {
      this.#changed.set(key, Infinity);
      this.#orders = this.#orders.then(async () => {
        await attempt(() => post("set", { key, value: String(value) }));
        this.#changed.set(key, performance.now() + QUIET_MS);
      });
      return this.#orders;
    };
    let late;
    $("strength").addEventListener("input", () => {
      this.#tellStrength();
      this.#changed.set("strength", Infinity);
      if ($("strength").value > 0) this.#strength = $("strength").value;
      $("on").checked = $("strength").value > 0;
      clearTimeout(late); // what a drag passes by need not be set
      late = setTimeout(() => set("strength", $("strength").value), 80);
    });
    $("on").addEventListener("change", () => {
      clearTimeout(late);
      $("strength").value = $("on").checked ? this.#strength : 0;
      this.#tellStrength();
      set("strength", $("strength").value);
    });
    $("model").addEventListener("change", async () => {
      $("model").disabled = true; // it is loaded meanwhile
      await set("model", $("model").value);
      $("model").disabled = false;
    });
    $("meeting-split").addEventListener("change", () => set("split", $("meeting-split").checked ? "on" : "off"));
    $("mirror").addEventListener("change", () => set("mirror", $("mirror").checked ? "on" : "off"));
    $("pause").addEventListener("click", () => (
      attempt(() => post(this.#status?.state === "paused" ? "resume" : "pause"))
    ));
  }
}
