// What the theme leaves out for those who use a keyboard or a screen reader.

/** A table that is wider than its place can be reached and scrolled by keyboard. */
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});

function mend() {
  let heading = "";
  let count = 0;
  const parts = ".md-content :is(h1, h2, h3), .md-typeset__scrollwrap, .md-code__nav";
  for (const part of document.querySelectorAll(parts)) {
    if (part.matches("h1, h2, h3")) heading = part.firstChild.textContent.trim();
    else if (part.matches(".md-code__nav")) part.setAttribute("role", "none"); // no landmark
    else {
      part.setAttribute("role", "region");
      part.setAttribute("aria-label", `Table ${++count}: ${heading}`);
      resized.observe(part);
    }
  }
}

mend();
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
