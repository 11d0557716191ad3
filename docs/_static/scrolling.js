// Blocks that scroll sideways can be reached and scrolled with the keyboard, in browsers that do not see to that themselves.
function markScrolling() {
  for (const block of document.querySelectorAll(".highlight pre, .table-wrapper")) {
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0
    else block.removeAttribute("tabindex")
  }
}

addEventListener("load", markScrolling)
addEventListener("resize", markScrolling)
