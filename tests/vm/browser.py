"""A meeting page in headless Chromium: opens a camera by its label and reports what it sees."""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PAGE = b"""<!doctype html><title>meeting</title><video id=video autoplay muted playsinline></video><script>
const query = new URLSearchParams(location.search);
const tell = (what) => fetch('/', {method: 'POST', body: JSON.stringify(what)});
const pause = (ms) => new Promise(done => setTimeout(done, ms));
const devices = () => navigator.mediaDevices.enumerateDevices();
const cameras = async () => (await devices()).filter(d => d.kind === 'videoinput');

// mean colour in the middle of each of N upright bars, and the variance of the luma's Laplacian
function look(pixels, width, height, bars) {
  const colors = [];
  for (let bar = 0; bar < bars; bar++) {
    const sum = [0, 0, 0]; let n = 0;
    const left = Math.floor(width * (bar + 0.3) / bars), right = Math.floor(width * (bar + 0.7) / bars);
    for (let y = height >> 2; y < height * 3 >> 2; y += 4)
      for (let x = left; x < right; x++, n++)
        for (let c = 0; c < 3; c++) sum[c] += pixels[(y * width + x) * 4 + c];
    colors.push(sum.map(s => s / n));
  }
  const luma = new Float32Array(width * height);
  for (let i = 0; i < luma.length; i++)
    luma[i] = 0.299 * pixels[4 * i] + 0.587 * pixels[4 * i + 1] + 0.114 * pixels[4 * i + 2];
  let sum = 0, squares = 0, n = 0;
  for (let y = 1; y < height - 1; y++)
    for (let x = 1; x < width - 1; x++, n++) {
      const i = y * width + x;
      const l = luma[i - 1] + luma[i + 1] + luma[i - width] + luma[i + width] - 4 * luma[i];
      sum += l; squares += l * l;
    }
  return {colors, sharpness: squares / n - (sum / n) ** 2};
}

(async () => {
  try {
    let camera;
    for (let i = 0; i < 100 && !camera; i++) {
      camera = (await cameras()).find(d => d.label.includes(query.get('label')));
      if (!camera) await pause(100);
    }
    await tell({step: 'devices', labels: (await cameras()).map(d => d.label)});
    const [w, h] = [+query.get('w'), +query.get('h')];
    const ideal = {width: {ideal: w}, height: {ideal: h}, frameRate: {ideal: 30}};
    const exact = camera ? {deviceId: {exact: camera.deviceId}} : {};
    const stream = await navigator.mediaDevices.getUserMedia({video: {...ideal, ...exact}});
    const track = stream.getVideoTracks()[0];
    for (const name of ['ended', 'mute'])
      track.addEventListener(name, () => tell({step: 'track ' + name}));
    await tell({step: 'opened', label: track.label, settings: track.getSettings()});
    const video = document.getElementById('video');
    video.srcObject = stream;
    await video.play();
    let frames = 0;
    const count = () => { frames++; video.requestVideoFrameCallback(count); };
    video.requestVideoFrameCallback(count);
    for (;;) {
      const [from, since] = [frames, performance.now()];
      await pause(1000);
      const fps = (frames - from) * 1000 / (performance.now() - since);
      const [width, height] = [video.videoWidth, video.videoHeight];
      const canvas = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});
      canvas.drawImage(video, 0, 0);
      const seen = look(canvas.getImageData(0, 0, width, height).data, width, height, +query.get('bars'));
      await tell({step: 'sample', size: [width, height], fps, state: track.readyState, muted: track.muted,
                  listed: (await cameras()).some(d => d.label.includes(query.get('label'))), ...seen});
    }
  } catch (error) { await tell({step: 'error', error: error.name + ': ' + error.message}); }
})();
</script>"""
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio"),
    *(
        "--disable-dev-shm-usage",
        "--use-fake-ui-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
    ),
)


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


class Page:
    """The reports of a page that is open."""

    def __init__(self, reports: queue.Queue[dict[str, Any]]) -> None:
        self._reports = reports
        self.all: list[dict[str, Any]] = []

    def next(self, step: str, timeout: float = 40) -> dict[str, Any]:
        """The next report of `step`; raises RuntimeError when the page fails or says nothing."""
        end = time.monotonic() + timeout
        while True:
            try:
                report = self._reports.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise RuntimeError(f"the page did not come to {step!r}; it said {self.all}") from None
            self.all.append(report)
            if report["step"] == step:
                return report
            if report["step"] == "error":
                raise RuntimeError(report["error"])


@contextmanager
def page(label: str, size: tuple[int, int], bars: int) -> Iterator[Page]:
    """A page that looks at the camera whose name contains `label`, until the block ends."""
    reports: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, body: bytes = b"") -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(PAGE if self.path.startswith("/?") else b"")

        def do_POST(self) -> None:
            report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer()
            reports.put(report)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    query = urllib.parse.urlencode({"label": label, "w": size[0], "h": size[1], "bars": bars})
    url = f"http://127.0.0.1:{server.server_port}/?{query}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        program = [chromium() or "chromium", *FLAGS, f"--user-data-dir={profile}", url]
        browser = subprocess.Popen(program, stdin=-3, stdout=-3, stderr=-3)
        try:
            yield Page(reports)
        finally:
            browser.terminate()
            try:
                browser.wait(5)
            except subprocess.TimeoutExpired:
                browser.kill()
            server.shutdown()
