"""The box on the documentation's front page, in a browser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCRIPT = """
<script>
addEventListener("load", async () => {
  await model;
  const shown = () => [...document.querySelectorAll(".demo-names span")].map((span) => span.textContent);
  const submit = async (start, temperature) => {
    [form.start.value, form.temperature.value] = [start, temperature];
    form.temperature.dispatchEvent(new Event("input"));
    form.requestSubmit();
    await new Promise((done) => setTimeout(done));
    return `${form.shown.value}|${shown().join()}|${names.textContent}`;
  };
  document.body.dataset.first = shown().length;
  document.body.dataset.cold = await submit("Tri", 0.2);
  document.body.dataset.hot = await submit(" Sino ", 1.6);
  document.body.dataset.unknown = await submit("T-rex", 1);
});
</script>
"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium")
def test_names_in_a_browser(tmp_path):
    """The page works without a server: eight names that begin as asked, or a message."""
    shutil.copytree(DOCS / "_static", tmp_path / "_static")
    page = tmp_path / "index.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{(DOCS / 'demo.html').read_text()}{SCRIPT}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    command = [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
    data = dict(re.findall(r'data-(\w+)="([^"]*)"', dom))
    assert data["first"] == "8"
    for key, temperature, start in ("cold", "0.2", "Tri"), ("hot", "1.6", "Sino"):
        shown, names, _ = data[key].split("|")
        assert shown == temperature
        assert len(names.split(",")) == 8
        assert all(re.fullmatch(f"{start}[A-Za-z]*", name) and len(name) <= 40 for name in names.split(","))
    assert data["unknown"].endswith("|The model does not know &quot;-&quot;: it has seen only letters.")


def test_the_demo_is_small():
    """A page with a model should load at once on a phone."""
    assert sum(path.stat().st_size for path in (DOCS / "_static").iterdir()) < 300_000
