"""The page in a real Chromium, with a real daemon behind it that sharpens the test card."""

from __future__ import annotations

import csv
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from chrome import LIMIT, Chrome, browser, chromium
from page_rig import noise

from sharpcam.daemon.control import ask
from sharpcam.quality import psnr, ssim

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="no Chromium here"),
    pytest.mark.skipif(sys.platform != "linux", reason="Chromium is driven through inherited pipes"),
]
SIZE = (480, 270)
PROGRAM = (sys.executable, "-m", "sharpcam")

# the halves of one and the same live picture, read while nothing else can happen
HALVES = """(() => {
  if (!document.getElementById("veil").hidden) return null;
  const [canvas, split] = ["picture", "split"].map((id) => document.getElementById(id));
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const at = (key) => {
    split.dispatchEvent(new KeyboardEvent("keydown", { key }));
    return pen.getImageData(0, 0, canvas.width, canvas.height).data;
  };
  const [after, before] = [at("Home"), at("End")];
  split.dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
  for (let i = 0; i < 25; i++) split.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  const both = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  let [apart, left, right, sum] = [0, 0, 0, 0];
  for (let i = 0; i < both.length; i += 4) {
    sum += before[i];
    apart += Math.abs(before[i] - after[i]);
    const isLeft = (i / 4) % canvas.width < canvas.width / 2;
    if (isLeft) left += Math.abs(both[i] - before[i]);
    else right += Math.abs(both[i] - after[i]);
  }
  const pixels = both.length / 4;
  return { apart: apart / pixels, left: left / pixels, right: right / pixels, mean: sum / pixels,
           at: split.getAttribute("aria-valuenow") };
})()"""


class App(NamedTuple):
    """A browser that shows the page of a daemon."""

    chrome: Chrome

    def status(self) -> dict[str, Any]:
        return dict(ask("status", LIMIT))

    def tab(self, name: str) -> None:
        self.chrome.click(f"#tab-{name}")
        self.chrome.until(f"!document.getElementById('{name}').hidden")

    def halves(self, condition: str = "true") -> dict[str, Any]:
        """What `HALVES` tells, once `condition` on it, `seen`, holds."""
        script = f"(() => {{ const seen = {HALVES}; return seen && ({condition}) ? seen : null; }})()"
        return dict(self.chrome.until(script))

    def frames(self, more: int = 3) -> None:
        """Waits for so many new live pictures."""
        count = "Number(document.getElementById('picture').dataset.frames ?? 0)"
        before = self.chrome.run(count)
        self.chrome.until(f"{count} >= {before + more}")


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    folder = tempfile.mkdtemp(prefix="sc-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        patch.setenv("XDG_CONFIG_HOME", folder)
        yield from _app()
    shutil.rmtree(folder)


def _app() -> Iterator[App]:
    size = f"{SIZE[0]}x{SIZE[1]}"
    command = [*PROGRAM, "run", "--source", "testcard", "--sink", "null", "--size", size, "--model", "m"]
    with subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE) as daemon:
        try:
            assert daemon.stdout is not None
            while not (line := daemon.stdout.readline()).startswith(b"sink:"):
                assert line, "the daemon has ended"
            with browser() as chrome:
                made = App(chrome)
                chrome.look(1280, 800)
                open_page(made)
                yield made
                assert chrome.complaints() == []
        finally:
            daemon.terminate()
            daemon.wait(LIMIT)


def open_page(app: App) -> str:
    link = str(ask("ui", LIMIT)["url"])
    app.chrome.open(link)
    app.chrome.until("document.documentElement.dataset.ready")
    return link


def picture_file(path: Path, rgb: Any) -> Path:
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
    return path


def downloaded(chrome: Chrome, name: str) -> Path:
    path = chrome.downloads / name
    end = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < end, f"{name} was not saved"
        time.sleep(0.05)
    return path


# -- Live


def test_the_link_is_used_up_and_gone(app: App) -> None:
    link = open_page(app)
    code = link.partition("#")[2]
    assert code not in app.chrome.run("location.href")
    assert app.chrome.run("document.cookie") == ""  # no script can read it
    assert code not in app.chrome.run("JSON.stringify(performance.getEntries().map((e) => e.name))")
    app.chrome.open(link)
    app.chrome.until("document.body.innerText.includes('this link was used already')")
    open_page(app)
    app.chrome.call("Page.reload")
    app.chrome.until("document.documentElement.dataset.ready")  # the cookie is still good


def test_live_pictures_move(app: App) -> None:
    app.tab("live")
    app.frames()
    seen = [app.halves()]
    for _ in range(5):
        app.frames(1)
        seen.append(app.halves())
    assert len({round(s["mean"], 6) for s in seen}) > 1  # the caller moves, and the noise
    assert all(40 < s["mean"] < 220 for s in seen)
    width, height = app.chrome.run("[picture.width, picture.height]")
    assert (width, height) == SIZE
    app.chrome.until("document.getElementById('fps').textContent !== '–'")
    assert app.chrome.run("document.getElementById('graph-line').getAttribute('points')")


def test_the_split_shows_two_halves_of_one_picture(app: App) -> None:
    app.frames()
    seen = app.halves()
    assert seen["at"] == "50"
    assert seen["left"] == seen["right"] == 0
    assert seen["apart"] > 1.5


def test_dragging_the_split(app: App) -> None:
    box = app.chrome.run(
        "(({left, top, width, height}) => [left, top, width, height])(stage.getBoundingClientRect())"
    )
    left, top, width, height = box
    middle = top + height / 2
    app.chrome.mouse("mousePressed", left + width / 2, middle)
    app.chrome.mouse("mouseMoved", left + width / 4, middle)
    assert app.chrome.run("split.getAttribute('aria-valuenow')") == "25"
    app.chrome.mouse("mouseMoved", left - 50, middle)
    assert app.chrome.run("split.getAttribute('aria-valuenow')") == "0"
    app.chrome.mouse("mouseReleased", left - 50, middle)
    app.chrome.mouse("mouseMoved", left + width / 2, middle)
    assert app.chrome.run("split.getAttribute('aria-valuenow')") == "0"


def test_the_slider_changes_the_pixels(app: App) -> None:
    app.chrome.run("strength.value = 0; strength.dispatchEvent(new Event('input'))")
    app.halves("seen.apart < 0.05")
    assert app.status()["strength"] == 0
    assert app.chrome.run("document.getElementById('on').checked") is False
    app.chrome.click("#on")
    app.halves("seen.apart > 1.5")
    assert app.status()["strength"] == 1
    app.chrome.run("strength.value = 0.5; strength.dispatchEvent(new Event('input'))")
    app.chrome.until("document.getElementById('strength-told').textContent === '50 %'")
    app.chrome.click("#on")
    app.halves("seen.apart < 0.05")
    app.chrome.click("#on")  # back to where it was
    app.halves("seen.apart > 0.7")
    assert app.status()["strength"] == 0.5
    ask("set", LIMIT, key="strength", value="1")  # the page follows what others set
    app.chrome.until("strength.value === '1' && document.getElementById('on').checked")


def test_split_in_the_meeting(app: App) -> None:
    whole = app.halves("seen.apart > 1.5")["apart"]
    app.chrome.click("#meeting-split")  # the left half of what goes out is what came in
    app.halves(f"seen.apart < {0.8 * whole}")
    assert app.status()["split"]
    app.chrome.click("#meeting-split")
    app.halves(f"seen.apart > {0.9 * whole}")
    assert not app.status()["split"]


def test_pause_shows_a_placeholder_and_nothing_old(app: App) -> None:
    app.frames()
    app.chrome.click("#pause")
    app.chrome.until("document.getElementById('veil-title').textContent === 'The camera is paused'")
    assert app.chrome.run("!document.getElementById('veil').hidden")
    assert app.chrome.run("document.getElementById('state').textContent") == "paused"
    blank = "picture.getContext('2d').getImageData(0, 0, picture.width, picture.height).data.every((v) => v === 0)"
    assert app.chrome.run(blank)
    assert app.status()["state"] == "paused"
    app.chrome.click("#pause")
    app.chrome.until("document.getElementById('veil').hidden")
    app.frames()


def test_nobody_looks_while_another_tab_is_seen(app: App) -> None:
    app.tab("live")
    app.frames()
    app.tab("study")
    time.sleep(1)
    count = app.chrome.run("document.getElementById('picture').dataset.frames")
    time.sleep(1)
    assert app.chrome.run("document.getElementById('picture').dataset.frames") == count
    app.tab("live")
    app.frames()


# -- Compare


def test_an_upload_is_compared(app: App, tmp_path: Path) -> None:
    sharp = noise(200, 120, 3)
    soft = cv2.GaussianBlur(sharp, (0, 0), 1.5)
    app.tab("compare")
    assert app.chrome.run("document.getElementById('compare-run').disabled")
    app.chrome.choose_files("#soft", picture_file(tmp_path / "soft.png", soft))
    app.chrome.choose_files("#sharp", picture_file(tmp_path / "sharp.png", sharp))
    app.chrome.until("document.getElementById('soft-told').textContent === 'soft.png'")
    app.chrome.click("#compare-run")
    app.chrome.until("document.getElementById('compare-told').textContent === 'done'")
    rows = app.chrome.run(
        "[...document.querySelectorAll('#compare-table tbody tr')].map((row) => row.innerText)"
    )
    told = {row.split("\t")[0]: row.split("\t")[1:] for row in rows}
    assert list(told)[:2] == ["input", "sharp"]
    assert "m" in told
    assert told["input"][:2] == [f"{psnr(soft, sharp):.2f} dB", f"{ssim(soft, sharp):.4f}"]
    assert told["m"][0] != told["input"][0]
    names = app.chrome.run(
        "[...document.querySelectorAll('#compare-panes figcaption b')].map((b) => b.innerText)"
    )
    assert names == list(told)


PANES = """[...document.querySelectorAll('#compare-panes canvas')].map((canvas) => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return [...data.subarray(0, 4 * canvas.width)].reduce((sum, value) => sum + value, 0) + ":"
    + [...data].reduce((sum, value, at) => (sum + value * (at % 251)) % 1e9, 0);
})"""


DRAWN = PANES.replace("compare-panes", "study-panes")


def test_zoom_goes_together(app: App) -> None:
    whole = app.chrome.run(PANES)
    assert len(set(whole)) == len(whole)  # every version is another picture
    app.chrome.click("[data-zoom=in]")
    near = app.chrome.run(PANES)
    app.chrome.run("document.querySelector('#compare-panes canvas').focus()")
    app.chrome.key("ArrowRight")
    moved = app.chrome.run(PANES)
    for before, after in ((whole, near), (near, moved)):
        assert all(a != b for a, b in zip(before, after, strict=True))
    app.chrome.key("0")
    assert app.chrome.run(PANES) == whole


def test_the_strip_is_saved_in_full_size(app: App) -> None:
    count = app.chrome.run("document.querySelectorAll('#compare-panes canvas').length")
    app.chrome.click("#strip")
    path = downloaded(app.chrome, "sharpcam-comparison.png")
    strip = cv2.imread(str(path))
    assert strip is not None
    assert strip.shape == (120 + 28, 200 * count + 8 * (count - 1), 3)
    assert np.array_equal(strip[28:, 208:408, ::-1], noise(200, 120, 3))  # the sharp one, pixel by pixel


def test_a_sharp_picture_belongs_to_one_soft_picture(app: App, tmp_path: Path) -> None:
    assert app.chrome.run("document.getElementById('sharp-told').textContent") == "sharp.png"
    app.chrome.choose_files("#soft", picture_file(tmp_path / "other.png", noise(64, 48)))
    app.chrome.until("document.getElementById('soft-told').textContent === 'other.png'")
    assert app.chrome.run("document.getElementById('sharp-told').textContent").startswith("optional")


def test_the_sharp_picture_of_the_test_card_is_its_own(app: App, tmp_path: Path) -> None:
    sharp = picture_file(tmp_path / "mine.png", noise(64, 48))
    app.tab("compare")
    told = "document.getElementById('sharp-told').textContent"
    app.chrome.click("#card")
    assert app.chrome.run("document.getElementById('sharp').disabled")
    app.chrome.drop("#drop-sharp", sharp)
    assert app.chrome.run(told) == "the test card knows its own"
    app.chrome.drop("#drop-soft", picture_file(tmp_path / "soft.png", noise(64, 48, 1)))
    app.chrome.until("document.getElementById('soft-told').textContent === 'soft.png'")
    app.chrome.drop("#drop-sharp", sharp)
    app.chrome.until(f"{told} === 'mine.png'")
    app.chrome.click("#card")
    assert app.chrome.run(told) == "the test card knows its own", "what was chosen is not kept silently"


@pytest.mark.parametrize("tab", ["live", "compare", "study"])
def test_what_is_dropped_beside_the_zones_opens_nothing(app: App, tmp_path: Path, tab: str) -> None:
    app.tab(tab)
    app.chrome.run("window.stays = true")
    pages = app.chrome.pages()
    path = picture_file(tmp_path / "dropped.png", noise(64, 48))
    for place in ("h1", f"#{tab}", f"#tab-{tab}", "#state"):
        app.chrome.drop(place, path)
        app.chrome.drop(place, mimeType="text/uri-list", data=path.as_uri())
    time.sleep(0.3)  # a page that is left is not left at once
    assert app.chrome.run("window.stays") is True
    assert app.chrome.pages() == pages, "nor in another tab"


def test_a_text_field_takes_text_and_no_file(app: App, tmp_path: Path) -> None:
    app.tab("study")
    app.chrome.run("window.stays = true")
    app.chrome.drop("#study-rater", picture_file(tmp_path / "dropped.png", noise(64, 48)))
    app.chrome.drop("#study-rater", mimeType="text/plain", data="Ada")
    app.chrome.until("document.getElementById('study-rater').value === 'Ada'")
    assert app.chrome.run("window.stays") is True


FAILING = """(async () => {
  const { compare } = await import(new URL("api.js", location.href));
  const pictures = await Promise.all([32, 48].map((side) => {
    const canvas = new OffscreenCanvas(side, side);
    canvas.getContext("2d").fillRect(0, 0, side, side);
    return canvas.convertToBlob();
  }));
  const told = [];
  for (let i = 0; i < 3; i++) {
    try {
      for await (const record of compare({ source: "upload", models: [] }, pictures)) told.push(record.kind);
    } catch (error) {
      told.push(error.message.split(",")[0]);
    }
  }
  return told;
})()"""


def test_after_a_failure_the_next_may_begin_at_once(app: App) -> None:
    assert app.chrome.run(FAILING) == ["the soft picture is 32x32"] * 3


def ramp(width: int, height: int) -> Any:
    """A picture whose red tells the column, and green the row."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.dstack([columns * 256 // width, rows * 256 // height, 0 * rows]).astype(np.uint8)


def test_zoom_goes_to_where_the_mouse_points(app: App, tmp_path: Path) -> None:
    app.tab("compare")
    app.chrome.choose_files("#soft", picture_file(tmp_path / "ramp.png", ramp(1600, 1200)))
    boxes = "document.querySelectorAll('#compare-models input')"
    chosen = app.chrome.run(f"JSON.stringify([...{boxes}].map((box) => box.checked))")
    app.chrome.run(f"{boxes}.forEach((box) => {{ box.checked = false; }})")
    app.chrome.until("document.getElementById('soft-told').textContent === 'ramp.png'")
    app.chrome.click("#compare-run")
    app.chrome.until("document.getElementById('compare-cancel').disabled")
    app.chrome.run("document.querySelector('#compare-panes canvas').scrollIntoView()")
    pane = "document.querySelector('#compare-panes canvas')"
    left, top, width, height = app.chrome.run(
        f"(({{left, top, width, height}}) => [left, top, width, height])({pane}.getBoundingClientRect())"
    )

    def at(x: float, y: float) -> list[int]:
        script = (
            f"[...{pane}.getContext('2d').getImageData({x} * {width}, {y} * {height}, 1, 1).data].slice(0, 2)"
        )
        return list(app.chrome.run(script))

    def wheel(x: float, y: float, delta: float) -> None:
        where = {"x": left + x * width, "y": top + y * height}
        app.chrome.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=delta, **where)

    whole = at(0.02, 0.02)
    wheel(0.1, 0.1, -400)
    assert at(0.1, 0.1) == pytest.approx([0.1 * 256] * 2, abs=2)
    assert at(0.02, 0.02) != whole
    wheel(0.9, 0.9, 300)  # stops at the edges of the picture
    seen = at(0.5, 0.5)
    wheel(0.5, 0.5, -300)
    assert at(0.5, 0.5) == pytest.approx(seen, abs=2)
    app.chrome.click("[data-zoom=fit]")
    for clicks in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            where = {"x": left + 0.2 * width, "y": top + 0.2 * height}
            app.chrome.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=clicks, **where)
    assert at(0.2, 0.2) == pytest.approx([0.2 * 256] * 2, abs=2)
    assert at(0.02, 0.02) != whole
    for _ in range(5):
        app.chrome.click("[data-zoom=out]")
    app.chrome.look(1000, 800)  # what was zoomed out to its whole stays whole
    app.chrome.until(f"{pane}.width < {width}")
    assert app.chrome.run(
        f"[...{pane}.getContext('2d').getImageData({pane}.width - 1, {pane}.height - 1, 1, 1).data].slice(0, 2)"
    ) == pytest.approx([255, 255], abs=2)
    app.chrome.look(1280, 800)
    app.chrome.run(f"{boxes}.forEach((box, at) => {{ box.checked = {chosen}[at]; }})")


def test_a_frame_is_taken(app: App) -> None:
    app.chrome.click("#take")
    app.chrome.until("document.getElementById('soft-told').textContent === 'frame.png'")


def test_a_picture_that_is_none(app: App, tmp_path: Path) -> None:
    path = tmp_path / "text.png"
    path.write_text("no picture")
    app.chrome.choose_files("#soft", path)
    app.chrome.until("document.getElementById('soft-told').textContent === 'text.png'")
    app.chrome.click("#compare-run")
    app.chrome.until("document.getElementById('compare-told').textContent.includes('no PNG and no JPEG')")
    app.chrome.events.clear()  # the browser logs the refusal as an error


def test_cancelling(app: App, tmp_path: Path) -> None:
    app.chrome.choose_files("#soft", picture_file(tmp_path / "large.png", noise(3000, 2000)))
    app.chrome.until("document.getElementById('soft-told').textContent === 'large.png'")
    app.chrome.click("#compare-run")
    app.chrome.until("!document.getElementById('compare-cancel').disabled")
    app.chrome.click("#compare-cancel")
    app.chrome.until("document.getElementById('compare-told').textContent === 'cancelled'")
    assert app.chrome.run("document.getElementById('compare-cancel').disabled")


# -- Study


def test_a_study(app: App, tmp_path: Path) -> None:
    files = [picture_file(tmp_path / f'one,"{n}".png', noise(96, 64, n)) for n in range(2)]
    app.tab("study")
    app.chrome.click("[name=pictures][value=sharp]")
    app.chrome.choose_files("#study-files", *files)
    app.chrome.run("document.getElementById('study-trials').value = 3")
    app.chrome.run("document.getElementById('study-rater').value = '=HYPERLINK(\"x\")'")
    app.chrome.run(
        "document.querySelectorAll('#study-models input').forEach((box) => { box.checked = box.value === 'm'; })"
    )
    app.chrome.click("#study-start")
    for trial in range(3):
        app.chrome.until(f"document.getElementById('study-count').textContent === 'Triplet {trial + 1} of 3'")
        seen = app.chrome.run("document.getElementById('study-trial').innerText")
        assert not {"input", "sharp", "m"} & set(seen.split())  # blind
        assert app.chrome.run("document.querySelectorAll('#study-panes canvas').length") == 3
        for at, letter in enumerate("ABC"):
            assert app.chrome.run("document.getElementById('study-next').disabled")
            app.chrome.run(f"document.querySelectorAll('[name={letter}]')[{(trial + 2 * at) % 5}].click()")
        app.chrome.click("#study-next")
    app.chrome.until("!document.getElementById('study-result').hidden")
    app.chrome.click("#study-csv")
    text = downloaded(app.chrome, "sharpcam-study.csv").read_bytes().decode()
    rows = list(csv.DictReader(text.splitlines()))
    assert list(rows[0]) == ["rater", "trial", "scene", "position", "version", "rating", "seconds"]
    assert len(rows) == 9
    assert {row["rater"] for row in rows} == {'\'=HYPERLINK("x")'}  # no formula in a spreadsheet
    assert {row["scene"] for row in rows} == {file.name for file in files}
    assert [row["rating"] for row in rows] == ["1", "3", "5", "2", "4", "1", "3", "5", "2"]
    for trial in ("1", "2", "3"):
        assert {r["version"] for r in rows if r["trial"] == trial} == {"input", "m", "sharp"}
    shown = app.chrome.run(
        "[...document.querySelectorAll('#study-table tbody tr')].map((row) => row.innerText)"
    )
    for line in shown:
        version, count, average, spread, *_ = line.split("\t")
        ratings = [int(row["rating"]) for row in rows if row["version"] == version]
        assert (int(count), average, spread) == (3, f"{mean(ratings):.2f}", f"{stdev(ratings):.2f}")
    assert len(shown) == 3


def test_pictures_of_one_name_all_count(app: App, tmp_path: Path) -> None:
    files = []
    for number, folder in enumerate(("monday", "tuesday", "wednesday")):
        (tmp_path / folder).mkdir()
        files.append(picture_file(tmp_path / folder / "me.png", noise(96, 64, number)))
    app.chrome.click("#study-again")
    app.chrome.choose_files("#study-files", *files)  # of what is dropped, Chromium changes such names itself
    names = ["me.png", "me.png (2)", "me.png (3)"]
    app.chrome.until(f"document.getElementById('study-files-told').textContent === '{', '.join(names)}'")
    app.chrome.click("#study-start")
    seen = []
    for trial in range(3):
        app.chrome.until(f"document.getElementById('study-count').textContent === 'Triplet {trial + 1} of 3'")
        seen.append(app.chrome.run(DRAWN))
        for letter in "ABC":
            app.chrome.run(f"document.querySelector('[name={letter}]').click()")
        app.chrome.click("#study-next")
    assert len({picture for pictures in seen for picture in pictures}) == 9, (
        "three versions of three pictures"
    )
    app.chrome.until("!document.getElementById('study-result').hidden")
    (app.chrome.downloads / "sharpcam-study.csv").unlink()
    app.chrome.click("#study-csv")
    text = downloaded(app.chrome, "sharpcam-study.csv").read_bytes().decode()
    assert {row["scene"] for row in csv.DictReader(text.splitlines())} == set(names)


def test_a_triplet_needs_three_versions(app: App) -> None:
    app.chrome.click("#study-again")
    app.chrome.click("[name=pictures][value=soft]")
    app.chrome.click("#study-start")
    app.chrome.until("document.getElementById('toast').textContent.includes('three versions')")


PLAN = """(async () => {
  const { distinct, plan, shuffled, summary, csv } = await import(new URL("plan.js", location.href));
  let state = 1;
  const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
  const versions = ["input", "s", "m", "l", "sharp"];
  const trials = plan(["x", "y"], versions, 500, random);
  const counts = (values) => values.reduce((all, v) => ({ ...all, [v]: (all[v] ?? 0) + 1 }), {});
  const ratings = [1, 5, 3].map((rating) => ({ version: "m", rating }));
  return {
    shown: counts(trials.flatMap((trial) => trial.versions)),
    first: counts(trials.map((trial) => trial.versions[0])),
    triples: new Set(trials.map((trial) => [...trial.versions].sort().join())).size,
    orders: new Set(trials.map((trial) => trial.versions.join())).size,
    same: trials.some((trial) => new Set(trial.versions).size !== 3),
    turns: trials.every((trial, at) => at % 2 || trial.scene !== trials[at + 1].scene),
    orderings: counts(Array.from({ length: 6000 }, () => shuffled([1, 2, 3], random).join(""))),
    names: distinct(["a", "b", "a", "a (2)", "a"]),
    few: plan(["x"], ["a", "b", "c"], 2, random).length,
    summary: summary([...ratings, { version: "s", rating: 4 }], ["m", "s", "l"]),
    csv: csv([{ rater: 'a,"b"', trial: 1, scene: "x\\ny", position: "A", version: "@m", rating: 5, seconds: "1.0" }]),
  };
})()"""


def test_the_plan_of_a_study(app: App) -> None:
    told = app.chrome.run(PLAN)
    assert set(told["shown"].values()) == {300}  # equally often
    assert all(60 < count < 140 for count in told["first"].values())  # and nobody always comes first
    assert told["triples"] == 10
    assert told["orders"] == 60
    assert not told["same"]
    assert told["turns"]
    assert len(told["orderings"]) == 6
    assert all(850 < count < 1150 for count in told["orderings"].values())
    assert told["names"] == ["a", "b", "a (2)", "a (2) (2)", "a (3)"]
    assert told["few"] == 2
    m, s, none = told["summary"]
    assert (m["count"], m["mean"], m["spread"], m["counts"]) == (3, 3, 2, [1, 0, 1, 0, 1])
    assert (s["mean"], s["spread"]) == (4, None)
    assert (none["count"], none["mean"], none["spread"]) == (0, None, None)
    line = told["csv"].split("\r\n", 1)[1]
    assert line == '"a,""b""",1,"x\ny",A,\'@m,5,1.0\r\n'


# -- everybody


def test_everything_has_a_name(app: App) -> None:
    """For a screen reader, on each tab."""
    roles = "button checkbox combobox image img radio slider spinbutton switch tab tabpanel textbox table"
    found: set[str] = set()
    app.chrome.call("Accessibility.enable")
    for tab in ("live", "compare", "study"):
        app.tab(tab)
        for node in app.chrome.call("Accessibility.getFullAXTree")["nodes"]:
            role = node.get("role", {}).get("value", "")
            if node.get("ignored") or role not in roles.split():
                continue
            found.add(role)
            assert node.get("name", {}).get("value"), (tab, node)
    assert {"button", "checkbox", "combobox", "radio", "slider", "switch", "tab", "tabpanel"} <= found


def test_the_keyboard_reaches_everything(app: App) -> None:
    app.tab("live")
    app.frames()
    app.chrome.run("document.getElementById('tab-live').focus()")
    app.chrome.key("ArrowRight")
    assert app.chrome.run("document.activeElement.id") == "tab-compare"
    assert app.chrome.run("!document.getElementById('compare').hidden")
    app.chrome.key("Home")
    assert app.chrome.run("document.activeElement.id") == "tab-live"
    reached = []
    for _ in range(9):
        app.chrome.key("Tab")
        reached.append(app.chrome.run("document.activeElement.id"))
    assert reached[:7] == ["split", "on", "strength", "model", "mirror", "meeting-split", "pause"]


@pytest.mark.parametrize(("width", "height"), [(320, 640), (390, 844), (768, 1024), (1920, 1080)])
def test_no_window_is_too_small(app: App, width: int, height: int) -> None:
    app.chrome.look(width, height)
    for tab in ("live", "compare", "study"):
        app.tab(tab)
        assert app.chrome.run("document.documentElement.scrollWidth") <= width
    app.chrome.look(1280, 800)


def test_dark_and_light(app: App) -> None:
    colors = []
    for scheme in ("dark", "light"):
        app.chrome.look(1280, 800, scheme)
        colors.append(app.chrome.run("getComputedStyle(document.body).backgroundColor"))
    assert colors == ["rgb(15, 19, 23)", "rgb(246, 247, 248)"]


def test_another_site_in_the_same_browser(app: App) -> None:
    """With all that it could know but the cookie, which the browser holds: it can neither order, nor see."""
    app.tab("live")
    page = app.chrome.run("location.origin + location.pathname")
    script = f"""<!doctype html><body><script>
      const page = {page!r};
      const tries = {{
        order: () => fetch(page + "pause", {{method: "POST", body: "{{}}", credentials: "include"}}),
        blind: () => fetch(page + "pause", {{method: "POST", mode: "no-cors", body: "{{}}", credentials: "include"}}),
        header: () => fetch(page + "pause", {{method: "POST", body: "{{}}", credentials: "include",
          headers: {{"X-SharpCam": "1", "Content-Type": "application/json"}}}}),
        read: () => fetch(page + "about", {{credentials: "include"}}),
        script: () => new Promise((good, bad) => document.body.append(Object.assign(
          document.createElement("script"), {{src: page + "app.js", onload: good, onerror: bad}}))),
        image: () => new Promise((good, bad) => Object.assign(
          new Image(), {{src: page + "icon.svg", onload: good, onerror: bad}})),
        socket: () => new Promise((good, bad) => Object.assign(
          new WebSocket(page.replace("http", "ws") + "live"), {{onmessage: good, onerror: bad}})),
        frame: () => new Promise((good, bad) => {{
          const frame = document.body.appendChild(Object.assign(document.createElement("iframe"), {{src: page}}));
          frame.onload = () => {{ try {{ good(frame.contentDocument.body.innerText); }} catch (e) {{ bad(e); }} }};
        }}),
      }};
      const told = {{}};
      const all = Object.entries(tries).map(async ([name, go]) => {{
        try {{ const got = await go(); told[name] = got ? "got" : "done"; }}
        catch (error) {{ told[name] = "refused"; }}
      }});
      const form = Object.assign(
        document.createElement("form"), {{method: "POST", action: page + "pause", target: "sink"}});
      document.body.append(Object.assign(document.createElement("iframe"), {{name: "sink"}}), form);
      form.submit();
      Promise.all(all).then(() => setTimeout(() => {{ window.told = told; }}, 500));
    </script>""".encode()

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(script)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for host in ("127.0.0.1", "localhost"):
            app.chrome.open(f"http://{host}:{server.server_port}/")
            told = app.chrome.until("window.told")
            assert told == dict.fromkeys(told, "refused")
            assert len(told) == 8
            assert app.status()["state"] == "live"
    finally:
        server.shutdown()
        server.server_close()
    open_page(app)


def test_when_the_daemon_is_gone(app: App) -> None:
    """Last: it ends the daemon."""
    app.tab("live")
    app.frames()
    ask("stop", LIMIT)
    app.chrome.until("document.getElementById('veil-title').textContent === 'SharpCam does not answer'")
    assert app.chrome.run("document.getElementById('controls').disabled")
    assert app.chrome.run("document.getElementById('state').textContent") == "not connected"
    app.chrome.events.clear()
