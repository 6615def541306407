"""The page on a run in headless Chromium: nothing is complained of or asked for, and it can be read."""

import base64
import shutil

import pytest

from kanpde import Run, train
from kanpde.problems import Heat
from kanpde.records.run import replacing
from kanpde.report import report
from kanpde.report.pages import page_of_run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytest.importorskip("plotly", reason="plotly is not installed")
exceptions = pytest.importorskip("selenium.common.exceptions")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium and chromedriver are not installed"),
]
WIDTHS = (400, 1200)
QUIET = ("getImageData", "GL Driver Message")  # of plotly.js reading its own canvas, and of rendering without a GPU


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    small = {"points": {"interior": 50, "test": 500}, "slices": {"points": 21, "volume": 5}, "backbone": "kan"}
    run = train(
        Heat(2), out=tmp_path_factory.mktemp("browser") / "heat.h5", steps=20, evaluation={"every": 10}, **small
    )
    return report(run.path)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "enable-unsafe-swiftshader"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    yield driver
    driver.quit()


def opened(browser, page, width: int = 1200, scheme: str = "light"):
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    schemes = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", schemes)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())
    return browser


def drawn(browser) -> dict:
    """What plotly.js has drawn, once it has."""
    browser.set_script_timeout(60)
    return browser.execute_async_script(
        """const done = arguments[0], plot = document.getElementById("plot");
        function look() {
          if (!plot._fullData || !plot.querySelector("canvas")) return setTimeout(look, 50);
          const { type, x, colorbar } = plot._fullData[0];
          done({ type, corners: x.length, title: colorbar.title.text, ink: plot._fullLayout.font.color });
        }
        look();"""
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_complained_of_or_fetched(browser, page, width):
    drawn(opened(browser, page, width))
    said = browser.get_log("browser")
    assert not [entry for entry in said if entry["level"] == "SEVERE"]
    assert not [entry for entry in said if not any(words in entry["message"] for words in QUIET)]
    asked = [
        entry["message"] for entry in browser.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert asked and all('"url":"file://' in message or '"url":"data:' in message for message in asked)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_as_wide_as_the_window_and_its_words_are_large_enough(browser, page, width):
    opened(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    small = browser.execute_script(
        """return [...document.querySelectorAll("main *")].filter(e => e.childNodes.length && e.innerText?.trim()
        && parseFloat(getComputedStyle(e).fontSize) < 12 && !e.closest(".plot")).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert small == []
    outside = browser.execute_script(
        """return [...document.querySelectorAll("h1, h2, p, dd, dt, select, pre")].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def test_the_view_shows_what_is_chosen_and_is_turned(browser, page):
    first = drawn(opened(browser, page))
    assert first["type"] == "mesh3d" and first["corners"] > 100 and first["title"] == "u at t = 0"
    choose = """const box = document.getElementById("look");
        box.value = [...box.options].find(option => option.text === arguments[0]).value;
        box.dispatchEvent(new Event("change"));"""
    eye = 'return document.getElementById("plot")._fullLayout.scene._scene.getCamera().eye'
    before = browser.execute_script(eye)
    plot = browser.find_element("css selector", "#plot canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    actions = webdriver.ActionChains(browser)
    actions.move_to_element(plot).click_and_hold().move_by_offset(80, 20).pause(0.2).release().perform()
    turned = browser.execute_script(eye)
    assert turned != before
    browser.execute_script(choose, "|u - u*| at t = 1")
    assert drawn(browser)["title"] == "|u - u*| at t = 1" and browser.execute_script(eye) == pytest.approx(turned)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_both_schemes(browser, page, scheme):
    ink = drawn(opened(browser, page, scheme=scheme))["ink"]
    pairs = browser.execute_script(
        """const back = getComputedStyle(document.body).backgroundColor;
        return [...document.querySelectorAll("h1, p, dt, dd, th, td, a, summary, .state")].map(
          e => [getComputedStyle(e).color, back])"""
    )
    assert all(contrast(*pair) >= 4.5 for pair in {tuple(pair) for pair in pairs})
    assert contrast(ink, pairs[0][1]) >= 4.5
    assert (luminance(pairs[0][1]) < 0.2) == (scheme == "dark")


def luminance(colour: str) -> float:
    """Relative luminance as of WCAG 2.2."""
    from matplotlib.colors import to_rgb

    text = colour.replace(" ", "")
    rgb = [float(c) / 255 for c in text[text.index("(") + 1 : -1].split(",")[:3]] if "(" in text else to_rgb(text)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_a_print_has_the_pictures_and_not_the_view(browser, page):
    opened(browser, page, scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert browser.execute_script("return getComputedStyle(document.querySelector('.view')).display") == "none"
    assert luminance(browser.execute_script("return getComputedStyle(document.body).backgroundColor")) == 1
    width = {"width": 700, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", width)
    wide = "return [...document.images].filter(e => e.getBoundingClientRect().right > innerWidth).length"
    assert browser.execute_script(wide) == 0
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000


def test_a_page_that_is_followed_loads_itself_again(browser, page):
    run = Run.open(page.with_name("heat.h5"))
    live = page.with_name("live.html")
    live.write_text(page_of_run(run, reload=1), encoding="utf-8")
    opened(browser, live)
    run.attrs["title"] = "what it says now"
    with replacing(live) as temporary:
        temporary.write_text(page_of_run(run), encoding="utf-8")
    shown = lambda driver: driver.find_element("css selector", ".equation").text == "what it says now"
    between = exceptions.StaleElementReferenceException, exceptions.NoSuchElementException  # of two pages
    assert WebDriverWait(browser, 60, ignored_exceptions=between).until(shown)
