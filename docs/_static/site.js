// What the theme leaves out for keyboards and screen readers.
function mend() {
  const set = (selector, attributes) => {
    for (const element of document.querySelectorAll(selector))
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  };
  set('.caption[role="heading"]', { "aria-level": 2 });
  set(".sidebar-drawer", { "aria-label": "Pages" });
  set(".toc-drawer", { "aria-label": "On this page" });
  set(".content-icon-container", { role: "region", "aria-label": "This page" });
  if (!document.querySelector("h1")) {
    const heading = document.createElement("h1"); // of the search page
    heading.textContent = "Search";
    document.querySelector('[role="main"]')?.prepend(heading);
  }
  focusable();
}

// Tables and equations that are wider than the page scroll with the arrow keys.
function focusable() {
  for (const element of document.querySelectorAll(".table-wrapper, div.math")) {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  }
}

addEventListener("DOMContentLoaded", mend);
addEventListener("load", focusable);
addEventListener("resize", focusable);
