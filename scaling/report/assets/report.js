// Draws the figures with the colours of the page, sorts tables, marks the section being read. Loads nothing.
"use strict";
(() => {
  const { runs, plots } = JSON.parse(document.getElementById("moe-search-figures").textContent);
  const config = {
    displaylogo: false,
    displayModeBar: "hover",
    responsive: true,
    // named one by one: plotly's own set has a button that sends the chart to its maker's server
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    plotlyServerURL: "",
    toImageButtonOptions: { format: "svg" },
  };

  // A figure names its colours, var(--ink) or, translucent, var(--ink-soft): what they are depends on the colour scheme.
  // It refers to the descriptions of runs by number, because many figures show the same ones.
  function resolved(node, style) {
    if (typeof node === "string") {
      if (node.startsWith("@run ")) return runs[Number(node.slice(5))];
      if (!node.startsWith("var(--")) return node;
      const name = node.slice(4, -1);
      return style.getPropertyValue(name.replace(/-soft$/, "")).trim() + (name.endsWith("-soft") ? "30" : "");
    }
    if (Array.isArray(node)) return node.map((item) => resolved(item, style));
    if (node && typeof node === "object") {
      return Object.fromEntries(Object.entries(node).map(([key, item]) => [key, resolved(item, style)]));
    }
    return node;
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const family = getComputedStyle(document.body).fontFamily;
    for (const [key, figure] of Object.entries(plots)) {
      const { data, layout } = resolved(figure, style);
      layout.font.family = family;
      Plotly.react(document.getElementById("plot-" + key), data, layout, config);
    }
  }

  function sortable(table) {
    const body = table.tBodies[0];
    table.querySelectorAll("th button").forEach((button) => {
      button.addEventListener("click", () => {
        const head = button.closest("th");
        const ascending = head.getAttribute("aria-sort") !== "ascending";
        table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const value = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return (x === "") - (y === ""); // what is missing stays below
          const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
          return ascending ? order : -order;
        });
        body.append(...rows);
      });
    });
  }

  function follow() {
    const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
    const seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries.filter((item) => item.isIntersecting)) {
          links.forEach((link, id) => link.classList.toggle("here", id === entry.target.id));
        }
      },
      { rootMargin: "-10% 0px -80% 0px" },
    );
    document.querySelectorAll("main > section").forEach((section) => seen.observe(section));
  }

  draw();
  document.querySelectorAll("table.sortable").forEach(sortable);
  follow();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // Paper is white: print light figures and open what is folded, whatever the screen shows.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.scheme = "light";
    document.querySelectorAll("details").forEach((item) => item.setAttribute("open", ""));
    draw();
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.scheme;
    draw();
  });
})();
