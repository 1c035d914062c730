"""The page in a browser: upload, ask, compare two models, ask blind; nothing from elsewhere, nothing overflows."""

import re
import shutil
from pathlib import Path

import httpx2
import pytest
from serving_model import serving

from olivine.model.generate import answer_one
from olivine.printable import printable
from olivine.serving.access import Access
from olivine.serving.limits import Limits
from olivine.testing import tiny_vlm, write_images

PAGE = Path(__file__).parents[2] / "src" / "olivine" / "serving" / "page"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def test_the_page_names_nothing_elsewhere():
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"https?://|@import|url\(|innerHTML|document\.write|eval\(", text), path


def test_the_page_may_load_nothing_elsewhere(served):
    response = httpx2.get(served.url)
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    for name in ("page.css", "page.js"):
        assert httpx2.get(f"{served.url}/{name}").status_code == 200


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    return folder / write_images(folder, 1)[0]


@pytest.fixture(scope="module")
def short(tiny):
    """A server whose answers are short."""
    with serving({"tiny": tiny, "other": tiny_vlm(seed=1)}, Limits(new_tokens=6)) as running:
        yield running


@pytest.fixture
def opened(browser, short):
    """Open the page; nothing may be logged on the console, and nothing loaded from elsewhere."""
    logged, contexts = [], []

    def open_page(url=short.url, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((url, "data:")) or logged.append(f"from elsewhere: {request.url}"),
        )
        page.goto(url)
        page.wait_for_selector("#model-0 option", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert logged == []


def ask(page, question):
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_selector("#send:not([disabled])")
    page.wait_for_function(
        "[...document.querySelectorAll('.pair:last-child .answer')].every(a => a.querySelector('meter'))"
    )
    return page.locator(".pair:last-child .answer .text").all_text_contents()


def shown(text):
    return printable(text).replace("\\x", "\\u00") or "(nothing)"


def test_upload_ask_compare_and_blind(opened, tiny, image):
    page = opened()
    page.set_input_files("#file", image)
    page.wait_for_selector("#image:not([hidden])")
    seen = shown(answer_one(tiny, "is it red?", image, max_new_tokens=6))
    assert ask(page, "is it red?") == [seen]
    assert re.fullmatch(r" probability \d+\.\d %.*", page.locator(".sure").first.text_content())
    page.select_option("#model-1", "other")
    both = ask(page, "is it red?")
    other = answer_one(tiny_vlm(seed=1), "is it red?", image, max_new_tokens=6)
    assert both == [seen, shown(other)]
    page.check("#blind")
    assert ask(page, "is it red?")[0] == shown(answer_one(tiny, "is it red?", None, max_new_tokens=6))
    assert page.locator(".pair").count() == 1  # the conversation began again


def test_examples_and_paste_show_an_image(opened):
    page = opened()
    page.locator("#examples button").first.click()
    first = page.get_attribute("#image", "src")
    assert first.startswith("data:image/png")
    page.evaluate(
        """() => {
            const source = document.querySelectorAll('#examples img')[1].src;
            const bytes = Uint8Array.from(atob(source.split(',')[1]), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], 'a.png', {type: 'image/png'}));
            document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}));
        }"""
    )
    page.wait_for_function("document.getElementById('image').src === document.querySelectorAll('#examples img')[1].src")
    assert page.get_attribute("#image", "src") != first


def test_it_can_be_used_by_keyboard(opened):
    page = opened()
    page.focus("#model-0")
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.parentElement.id"))
    for name in ("model-1", "file", "examples", "blind", "answers", "question", "send", "reset"):
        assert name in reached, reached


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(opened, width, scheme, image):
    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_input_files("#file", image)
    page.select_option("#model-1", "other")
    ask(page, "is it red? " + "word" * 60)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    too_small = page.evaluate(
        "[...document.querySelectorAll('button, .button')].filter(e => e.offsetParent && e.offsetHeight < 40).length"
    )
    assert too_small == 0


def test_html_from_a_model_or_a_person_is_text(opened, monkeypatch, image):
    from olivine.model.vlm import VisionLanguageModel

    bad = "<img src=x onerror=alert(1)>\x1b[2J"
    monkeypatch.setattr(VisionLanguageModel, "decode", lambda self, ids: bad)
    page = opened()
    assert ask(page, "<b>bold</b>") == ["<img src=x onerror=alert(1)>\\u001b[2J"]
    assert page.locator(".question").text_content() == "<b>bold</b>"
    assert page.locator(".answers img, .answers b").count() == 0


def test_a_token_is_asked_for(browser, tiny):
    with serving({"tiny": tiny}, Limits(new_tokens=6), Access(token="secret")) as served:
        page = browser.new_page()
        page.goto(served.url)
        page.fill("#token", "secret")
        page.press("#token", "Enter")
        page.wait_for_selector("#model-0 option", state="attached")
        assert ask(page, "is it red?")
        page.close()
