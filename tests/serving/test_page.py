# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: choose, drop or paste an image and see its classes."""

import base64

import numpy as np
import pytest
from PIL import Image

from . import browser as browsers
from .fakes import CONFIG, FakeModel, png, running

pytestmark = pytest.mark.skipif(bool(browsers.missing()), reason=browsers.missing() or "there is one")

# What a pointer that drops, or a clipboard, hands to the page: a file of these bytes.
HAND_OVER = """
const [kind, text, name, type, count] = arguments;
const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const data = new DataTransfer();
for (let n = 0; n < count; n++) data.items.add(new File([bytes], name, { type }));
const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                              : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
document.getElementById("drop").dispatchEvent(event);
"""
# Colour of a pixel of the mask as the browser decodes it.
PIXEL = """
const mask = document.getElementById("mask"), canvas = document.createElement("canvas");
canvas.width = mask.naturalWidth; canvas.height = mask.naturalHeight;
const context = canvas.getContext("2d"); context.drawImage(mask, 0, 0);
return [canvas.height, canvas.width, ...context.getImageData(arguments[0], arguments[1], 1, 1).data.slice(0, 3)];
"""
SHOWN = "!result.hidden && find('mask').complete && find('mask').naturalWidth && find('status').textContent === 'Done.'"


@pytest.fixture(scope="module")
def browser():
    with browsers.opened() as browser:
        yield browser


@pytest.fixture
def page(browser):
    with running(FakeModel(), latency_s=0, max_pixels=100_000) as (client, _):
        browser.open(f"http://127.0.0.1:{client.port}/")
        browser.wait_for("find('limits').textContent")
        yield browser


def hand_over(page, kind, content, name="street.png", file_type="image/png", count=1):
    page.run(HAND_OVER, kind, base64.b64encode(content).decode(), name, file_type, count)


def text(page, name):
    return page.run(f"return document.getElementById('{name}').innerText")


def two_halves(tmp_path):
    """The left three quarters are class 3, the rest class 6."""
    pixels = np.full((40, 80, 3), 3, np.uint8)
    pixels[:, 60:] = 6
    path = tmp_path / "halves.png"
    Image.fromarray(pixels).save(path)
    return path


def test_an_image_is_chosen(page, tmp_path):
    assert "deeplabv3plus_mobilenetv2_streets, 10 classes, on fake (cpu)" in text(page, "model")
    assert "PNG, JPEG, WEBP" in text(page, "limits")
    page.choose("#file", two_halves(tmp_path))
    page.wait_for(SHOWN)
    assert text(page, "legend").split() == ["road", "75.0", "%", "car", "25.0", "%"]
    assert "halves.png, 80 x 40 pixels" in text(page, "caption")
    for x, label in ((0, 3), (59, 3), (60, 6), (79, 6)):
        assert tuple(page.run(PIXEL, x, 20)) == (40, 80, *CONFIG.palette[label])
    fills = page.run("return [...document.querySelectorAll('rect')].map((one) => getComputedStyle(one).fill)")
    assert fills == [f"rgb({', '.join(map(str, CONFIG.palette[label]))})" for label in (3, 6)]
    boxes = page.run("return ['picture', 'mask'].map((name) => JSON.stringify(find(name).getBoundingClientRect()))")
    assert boxes[0] == boxes[1], "the mask lies on the picture"
    assert page.run("return find('save').href").startswith("data:image/png;base64,")
    page.run("const slider = find('opacity'); slider.value = 20; slider.dispatchEvent(new Event('input'))")
    assert page.run("return getComputedStyle(find('mask')).opacity") == "0.2"
    assert text(page, "percent") == "20 %"
    assert page.log() == [], "nothing is refused or thrown"


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_is_handed_over(page, tmp_path, kind):
    hand_over(page, kind, two_halves(tmp_path).read_bytes())
    page.wait_for(SHOWN)
    assert "road" in text(page, "legend")


def test_errors_are_said_and_the_next_image_works(page, tmp_path):
    for content, message in (
        (b"no image", "The body is not an image of a known format"),
        (b"", "The body is empty (0 bytes)"),
        (png(400, 400), "400 x 400 pixels has more than the limit of 100,000 pixels"),
    ):
        hand_over(page, "drop", content)
        page.wait_for("!error.hidden")
        assert message in text(page, "error")
        assert page.run("return result.hidden")
        page.run("error.hidden = true")
    hand_over(page, "drop", png(), count=2)
    assert "One image at a time, not 2" in text(page, "error")
    hand_over(page, "drop", two_halves(tmp_path).read_bytes())
    page.wait_for(SHOWN)
    assert page.run("return error.hidden")


def test_a_format_that_the_browser_cannot_show(page):
    hand_over(page, "drop", png(20, 30, kind="TIFF"), "map.tif", "image/tiff")
    page.wait_for(SHOWN)
    page.wait_for("find('stack').classList.contains('bare')")
    assert page.run("return getComputedStyle(find('picture')).display") == "none"


def test_a_server_that_is_gone(browser):
    with running(FakeModel(), latency_s=0) as (client, _):
        browser.open(f"http://127.0.0.1:{client.port}/")
        browser.wait_for("model")
    hand_over(browser, "drop", png())
    browser.wait_for("!error.hidden")
    assert "The server cannot be reached" in text(browser, "error")


def test_the_page_for_those_who_do_not_see_it(page, tmp_path):
    """Names of everything that can be operated, and what is announced."""
    page.choose("#file", two_halves(tmp_path))
    page.wait_for(SHOWN)
    assert page.run("return document.documentElement.lang") == "en"
    unnamed = "return [...document.querySelectorAll('input')].filter((one) => !one.labels.length).length"
    assert page.run(unnamed) == 0
    assert page.run("return [...document.images].every((one) => one.alt)")
    assert "road 75.0 %, car 25.0 %" in page.run("return find('mask').alt")
    assert page.run("return [error, status].map((one) => one.getAttribute('role'))") == ["alert", "status"]
