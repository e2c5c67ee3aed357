"""The files of the broker's page: what they hold, and how they are served."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest

import mb_broker
from mb_broker import Router
from mb_broker.http import broker_pages
from mb_broker.page import CONTENT_SECURITY_POLICY, FILES, content, page_files
from mb_core.wire import Page

Get = Callable[[str], Page | None]

SOURCE = Path(mb_broker.__file__).parent / "page"


def read(name: str) -> str:
    return (SOURCE / name).read_text(encoding="utf-8")


HTML = read("index.html")
MODULES = {name: read(name) for name in FILES if name.endswith(".js")}
SCRIPT = "".join(MODULES.values())
STYLE = "".join(read(name) for name in FILES if name.endswith(".css"))


# What they hold


class Outline(HTMLParser):
    """The page's elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    @classmethod
    def of(cls, html: str) -> Outline:
        outline = cls()
        outline.feed(html)
        outline.close()
        return outline


def loaded(html: str) -> list[str]:
    """What the page loads: scripts, styles and the icon."""
    pairs = Outline.of(html).elements
    found = [more.get("href" if tag == "link" else "src") for tag, more in pairs]
    return [url for url in found if url]


def imported(name: str) -> set[str]:
    """The modules that a module imports when it runs: not those of types in its comments."""
    return set(re.findall(r'^import [^;]+ from "\./([^"]+)";$', MODULES[name], re.MULTILINE))


def test_the_policy_allows_its_own_files_the_icon_and_the_own_websocket() -> None:
    directives = [text.partition(" ") for text in CONTENT_SECURITY_POLICY.split("; ")]
    assert {name: value for name, _, value in directives} == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


def test_every_file_is_known_and_loaded_by_the_page_or_a_module() -> None:
    held = {path.name for path in SOURCE.iterdir() if path.suffix in (".css", ".js")}
    assert held == set(FILES)
    assert len(FILES) == len(held)
    links = {url for url in loaded(HTML) if not url.startswith("data:")}
    reached = links.union(*(imported(name) for name in MODULES))
    assert reached == held


def test_the_page_loads_nothing_but_its_own_files() -> None:
    elements = Outline.of(HTML).elements
    links = [attributes.get("href") for tag, attributes in elements if tag == "a"]
    assert links
    assert all(link and link.startswith("#") for link in links)
    for url in loaded(HTML):
        assert url in FILES or url.startswith("data:image/svg+xml,")
    assert not re.search(r"@import|url\(", STYLE)
    assert not re.search(r"\bimport\((?!\"\./\w+\.js\"\)\.\w)", SCRIPT)  # types are imported so
    assert not re.search(r"\bfetch\(|XMLHttpRequest|EventSource|Worker\(", SCRIPT)
    assert set(re.findall(r"\w+://[\w.]*", HTML + SCRIPT + STYLE)) == {
        "http://www.w3.org",
        "wss://",
        "ws://",
    }


def test_the_page_has_nothing_that_its_policy_refuses() -> None:
    for tag, attributes in Outline.of(HTML).elements:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert tag != "style"
        assert tag != "script" or attributes == {"type": "module", "src": "main.js"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", SCRIPT)
    assert not re.search(r"\beval\(|new Function|setAttribute\(\"style", SCRIPT)


def test_what_draws_knows_the_model_and_not_the_other_way_round() -> None:
    drawing = {name for name in MODULES if "dom.js" in imported(name)} | {"dom.js"}
    assert drawing == {
        *("dom.js", "charts.js", "status.js", "tables.js", "messages.js", "form.js", "signin.js"),
    }
    for name in set(MODULES) - drawing - {"main.js"}:
        assert not imported(name) & drawing
        assert not re.search(r"\b(document|window|location)\.", MODULES[name])


def test_every_field_has_a_label_and_every_id_is_there_once() -> None:
    elements = Outline.of(HTML).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes.get("for") for tag, attributes in elements if tag == "label"}
    for tag, attributes in elements:
        if tag in ("input", "select", "textarea") and attributes["id"] not in labelled:
            # Within its label, or with a name of its own.
            inside = re.search(rf"<label[^>]*>[^<]*<\w+ id=\"{attributes['id']}\"", HTML)
            assert inside or "aria-label" in attributes, attributes
    pointing = r'(?:aria-labelledby|aria-describedby|aria-controls|for|list)="([^"]+)"'
    assert set(" ".join(re.findall(pointing, HTML)).split()) <= set(ids)
    assert set(re.findall(r'href="#([^"]+)"', HTML)) <= set(ids)
    assert set(re.findall(r'\bfind\("([^"]+)"', SCRIPT)) <= set(ids)


# How they are served


@pytest.fixture
def get() -> Get:
    return broker_pages(Router(), time.monotonic, with_page=True, with_metrics=False)


def served(get: Get) -> tuple[str, str]:
    """The page as it is served, and the path of the folder that it loads its files from."""
    page = get("/")
    assert page is not None
    html = page.body.decode()
    (folder,) = {url.rpartition("/")[0] for url in loaded(html) if not url.startswith("data:")}
    return html, folder


def test_the_page_is_asked_for_each_time_and_its_files_once(
    get: Get,
) -> None:
    html, folder = served(get)
    page = get("/")
    assert page is not None
    assert page.content_type == "text/html; charset=utf-8"
    assert page.headers == {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Cache-Control": "no-cache",
    }
    assert html.replace(f"{folder}/", "") == HTML
    for name in FILES:
        file = get(f"/{folder}/{name}")
        assert file is not None
        assert (file.status, file.body) == (200, (SOURCE / name).read_bytes())
        kind = "javascript" if name.endswith(".js") else "css"
        assert file.content_type == f"text/{kind}; charset=utf-8"
        assert file.headers == {"Cache-Control": "public, max-age=31536000, immutable"}


@pytest.mark.parametrize("changed", ["index.html", "style.css", "trace.js"])
def test_a_file_that_changes_moves_all_of_them(
    changed: str, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old module is never beside a new page: what was kept has another name."""
    read_file = content._read
    _, before = served(get)
    with monkeypatch.context() as patch:
        patch.setattr(content, "_read", lambda name: read_file(name) + b"\n" * (name == changed))
        page_files.cache_clear()
        _, after = served(get)
        assert get(f"/{before}/main.js") is None
        assert get(f"/{after}/main.js") is not None
    page_files.cache_clear()
    assert after != before
    assert served(get)[1] == before


def test_nothing_but_the_known_files_is_served(get: Get) -> None:
    _, folder = served(get)
    for path in (
        *("", "/index.html", "/main.js", f"/{folder}", f"/{folder}/", f"//{folder}/main.js"),
        *(f"/{folder}/index.html", f"/{folder}/__init__.py", f"/{folder}/content.py"),
        *(f"/{folder}/../content.py", f"/{folder}/%2e%2e/content.py", f"/{folder}/./main.js"),
        *(f"/{folder}/main.js/", f"/{folder}/Main.js", f"/{folder}/main.js\0", "/page-0/main.js"),
        *("/../../etc/passwd", "/..%2f..%2fetc/passwd", "/etc/passwd"),
    ):
        assert get(path) is None, path


def test_without_the_page_its_files_are_not_served_either(
    get: Get,
) -> None:
    _, folder = served(get)
    without = broker_pages(Router(), time.monotonic, with_page=False, with_metrics=True)
    assert without(f"/{folder}/main.js") is None


def test_a_page_with_a_file_missing_says_which(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pkgutil.get_data", lambda package, name: None)
        page_files.cache_clear()
        page = get("/")
        assert page is not None
        assert page.status == 501
        assert page.body.endswith(
            b"a file of the page is missing from the installed package: index.html\n"
        )
        assert get("/page-0/main.js") is None
    assert served(get)[0]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_broker_serves_them_on_its_websocket_port(method: str, get: Get) -> None:
    html, folder = served(get)
    with mb_broker.running("ws://127.0.0.1:0") as broker:
        url = broker.url.replace("ws://", "http://")
        for name, held in {"": html, **{f"{folder}/{name}": read(name) for name in FILES}}.items():
            request = urllib.request.Request(urljoin(url, name), method=method)
            with urllib.request.urlopen(request, timeout=5) as response:
                assert response.status == 200
                assert response.headers["Content-Length"] == str(len(held.encode()))
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Cache-Control"]
                assert response.read().decode() == (held if method == "GET" else "")
