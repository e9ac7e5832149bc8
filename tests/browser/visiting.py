"""Pages opened in the browser, and what must not go wrong in any of them."""

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import expect

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# Chromium has no sandbox for root, and a small machine no GPU and little shared memory.
FLAGS = ["--no-sandbox"] * (os.geteuid() == 0) + ["--disable-gpu", "--disable-dev-shm-usage"]
READY = "html[data-ready]"
PATIENCE = 60_000  # milliseconds; a busy machine is slow, a broken page never comes
WATCH = """
window.faults = [];
window.shifts = 0;
document.addEventListener("securitypolicyviolation", (event) =>
  window.faults.push(`policy: ${event.violatedDirective} ${event.blockedURI}`));
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.shifts += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


def chromium() -> str | None:
    """The browser to test with: $CHROMIUM, or the system's."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Visit:
    """A page that was opened, and what went wrong in it."""

    page: Any
    problems: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()  # parts of problems that the test provokes

    def find(self, selector: str, **options: Any) -> Any:
        """A locator."""
        return self.page.locator(selector, **options)

    def press(self, text: str | None = None) -> None:
        """Recover a text, or what stands there; until it runs."""
        if text is not None:
            self.find("#text").fill(text)
        self.find("#invert").click()
        expect(self.find("#invert")).to_have_text("Stop")

    def invert(self, text: str | None = None) -> None:
        """The same, until it is done."""
        if text is not None:
            self.find("#text").fill(text)
        self.find("#invert").click()
        expect(self.find("#live")).to_contain_text("Done. Recovered")
        self.finished()

    def finished(self) -> None:
        """Wait until nothing runs."""
        expect(self.find("#invert")).to_have_text("Recover the text")

    def more(self) -> None:
        """Open the options."""
        self.find("#more > summary").click()

    def figures(self) -> None:
        """Open what is shown on demand: figures of the embedding and of the text, and what was tried."""
        for summary in self.find(":is(vector-view, #figures, trial-table) summary").all():
            if summary.is_visible():
                summary.click()

    def choose(self, name: str, value: str) -> None:
        """A radio button, by what a person clicks."""
        label = self.find(f"label:has([name={name}][value={value}])")
        if not label.is_visible():
            self.more()
        label.click()

    def strength(self, value: int) -> None:
        """The defence slider."""
        self.find("#strength").fill(str(value))

    def text(self, selector: str) -> str:
        """What is shown there."""
        return " ".join(self.find(selector).inner_text().split())

    def shifts(self) -> float:
        """Cumulative layout shift so far."""
        return float(self.page.evaluate("window.shifts"))

    def settled(self) -> float:
        """`shifts` when nothing has moved for 600 milliseconds."""
        before = self.shifts()
        for _ in range(50):
            self.page.wait_for_timeout(600)
            if (now := self.shifts()) == before:
                return now
            before = now
        raise AssertionError("the page does not come to rest")


class Open:
    """Opens pages; at the test's end each must have had no error and kept its policy."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.visits: list[Visit] = []

    def __call__(self, url: str, width: int = 1280, height: int = 900, scheme: str = "light", **context: Any) -> Visit:
        """The page at `url`, ready for work."""
        found = self.browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **context)
        found.set_default_timeout(PATIENCE)
        found.add_init_script(WATCH)
        page = found.new_page()
        visit = Visit(page)
        page.on("pageerror", lambda error: visit.problems.append(f"error: {error}"))
        page.on("console", lambda line: line.type in ("error", "warning") and visit.problems.append(line.text))
        page.on("request", lambda request: self.check_origin(visit, url, request.url))
        page.goto(url)
        page.locator(READY).wait_for()
        self.visits.append(visit)
        return visit

    @staticmethod
    def check_origin(visit: Visit, url: str, asked: str) -> None:
        """Nothing may be asked of anyone else."""
        if not asked.startswith(url.split("#")[0]) and not asked.startswith(("data:", "blob:")):
            visit.problems.append(f"request to {asked}")

    def close(self) -> None:
        """Check and close all of them."""
        problems = []
        for visit in self.visits:
            found = [*visit.problems, *visit.page.evaluate("window.faults")]
            problems += [p for p in found if not any(part in p for part in visit.expected)]
            visit.page.context.close()
        assert not problems
