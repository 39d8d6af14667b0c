// Charts, drawn by Vega as SVG. Colours are names of the style sheet, so that theme and print change without a redraw.

/** @typedef {{name: string, spec: (width: number) => object | null, view: any, drawn: boolean, width: number}} Chart */

/** @type {Map<string, Chart>} */
const charts = new Map();

const CONFIG = {
  background: null,
  font: "system-ui, sans-serif",
  view: { stroke: "var(--line)" },
  axis: {
    domainColor: "var(--line)", gridColor: "var(--grid)", tickColor: "var(--line)", labelColor: "var(--dim)", titleColor: "var(--dim)",
    labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 400, labelPadding: 5,
  },
  axisY: { titleAngle: 0, titleAlign: "left", titleX: 0, titleY: -12 }, // above the axis: beside it a phone has no room
  legend: { labelColor: "var(--ink)", titleColor: "var(--dim)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 260, symbolStrokeWidth: 2.5, symbolOpacity: 1 },
  rule: { color: "var(--ink)" },
  text: { color: "var(--dim)" },
};

/** Where a logarithmic axis is labelled: lines between powers of ten say little and cover much. */
const POWERS = Array.from({ length: 16 }, (_, i) => 10 ** (3 - i));

const COLOURS = Array.from({ length: 8 }, (_, i) => `var(--c${i})`);

/**
 * Registers a chart; it is drawn when it comes near the screen, or when the page has nothing else to do.
 * @param {string} name its place is `plot-name`
 * @param {(width: number) => object | null} spec of Vega-Lite, for so many pixels; null where there is nothing to show
 */
function addChart(name, spec) {
  const place = byId(`plot-${name}`);
  if (!place) return;
  charts.set(name, { name, spec, view: null, drawn: false, width: 0 });
  watched.observe(place);
  resized.observe(place);
}

/** Draws it anew if it was drawn before: its tab or its site has changed. */
function redraw(name) {
  const chart = charts.get(name);
  if (chart?.drawn) drawChart(chart);
}

/** @param {Chart} chart */
function drawChart(chart) {
  const place = byId(`plot-${chart.name}`);
  if (!place.clientWidth) return;
  chart.drawn = true;
  chart.width = place.clientWidth;
  const spec = chart.spec(chart.width);
  chart.view?.finalize();
  chart.view = null;
  place.hidden = spec === null;
  if (spec === null) return;
  const full = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", padding: 4, ...spec };
  const compiled = vegaLite.compile(full, { config: CONFIG, logger: vega.logger(vega.Error) }).spec;
  const runtime = vega.parse(compiled, {}, { ast: true });
  chart.view = new vega.View(runtime, { expr: vegaInterpreter.expressionInterpreter, renderer: "svg", logLevel: vega.Error });
  chart.view.tooltip(showTip).initialize(place).run();
  place.querySelector("svg").setAttribute("aria-hidden", "true"); // the place itself is the picture, and has a name
  chart.view.addEventListener("click", (_, item) => item?.datum?.site !== undefined && choose(item.datum.site, chart.name));
}

/** Draws all that were not drawn yet. */
function drawRest() {
  for (const chart of charts.values()) if (!chart.drawn) drawChart(chart);
}

const watched = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const chart = charts.get(entry.target.id.replace("plot-", ""));
      if (entry.isIntersecting && !chart.drawn) drawChart(chart);
    }
  },
  { rootMargin: "600px" },
);

const resized = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.get(entry.target.id.replace("plot-", ""));
    if (chart.drawn && Math.abs(entry.target.clientWidth - chart.width) > 8) requestAnimationFrame(() => drawChart(chart));
  }
});

/** What the pointer is at, in words. */
function showTip(_, event, item, value) {
  const tip = byId("tip") ?? document.body.appendChild(make("div", { id: "tip", "aria-hidden": "true" }));
  tip.hidden = !value || !event;
  if (tip.hidden) return;
  tip.textContent = value;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 6);
  tip.style.translate = `${Math.max(6, left)}px ${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 6)}px`;
}

/**
 * Lines over steps: `rows` have x, y, colour, of and tip. The untrained model's are dashed.
 * @param {object[]} rows
 * @param {{width: number, x: string, y: object, order: string[], legend: string | null, extra?: object[]}} how
 */
function lines(rows, { width, x, y, order, legend, extra = [] }) {
  const names = { domain: order, range: order.map((_, i) => COLOURS[i % COLOURS.length]) };
  const narrow = width < 560;
  const colour = { field: "colour", type: "nominal", title: legend, scale: names, legend: order.length < 2 ? null : { orient: narrow ? "bottom" : "right", columns: 1, symbolType: "stroke", ...(narrow ? { labelLimit: Math.max(80, width - 180) } : {}) } }; // beside it: this model, untrained
  const dash = hasControl && rows.some((row) => row.of === OF[1])
    ? { strokeDash: { field: "of", type: "nominal", title: null, scale: { domain: OF, range: [[1, 0], [5, 4]] }, legend: { orient: narrow ? "bottom" : "right", columns: 1, symbolType: "stroke", symbolStrokeColor: "var(--ink)" } } }
    : {};
  const at = { x: { field: "x", type: "quantitative", title: x, axis: { grid: false, tickMinStep: 1, format: "d" } }, y: { field: "y", type: "quantitative", ...y }, color: colour };
  return {
    width, height: narrow ? 200 : 280, autosize: { type: "fit-x", contains: "padding" }, data: { values: rows },
    layer: [
      { mark: { type: "line", strokeWidth: 2, clip: true }, encoding: { ...at, ...dash, detail: [{ field: "of" }] } },
      { transform: [{ filter: "datum.tip" }], mark: { type: "point", filled: true, size: 60, opacity: { expr: "0" } }, encoding: { ...at, tooltip: { field: "tip" } } },
      ...extra,
    ],
  };
}

/** A rule across at a height, with words. */
function ruleAt(height, words) {
  const at = { y: { datum: height, type: "quantitative" } };
  return [
    { data: { values: [{}] }, mark: { type: "rule", strokeDash: [2, 3], color: "var(--warn)" }, encoding: at },
    { data: { values: [{}] }, mark: { type: "text", align: "right", dy: -6, x: "width", color: "var(--warn)", fontSize: 12 }, encoding: { ...at, text: { value: words } } },
  ];
}

/** Every n-th row of a long series has a tip: enough to point at. */
const tipped = (place, length) => place % Math.max(1, Math.ceil(length / 120)) === 0;
