// Bytes: what training holds, and what files take.

function bars(width, rows, { order, kinds, unit, title }) {
  const colour = kinds.length > 1
    ? { color: { field: "kind", type: "nominal", title: null, scale: { domain: kinds, range: kinds.map((_, i) => COLOURS[i % COLOURS.length]) }, legend: { orient: "top", columns: width < 560 ? 2 : kinds.length, symbolType: "square", symbolStrokeWidth: 0, symbolSize: 160, labelLimit: 0.33 * width } } }
    : { color: { value: COLOURS[0] } };
  return {
    width, height: { step: 34 }, autosize: { type: "fit-x", contains: "padding" }, data: { values: rows },
    mark: { type: "bar", height: { band: 0.72 } },
    encoding: {
      y: { field: "name", type: "nominal", sort: order, title: null, axis: { ticks: false, domain: false, labelFontSize: 13, labelLimit: 0.45 * width, labelColor: "var(--ink)" } },
      x: { field: "value", type: "quantitative", title: `${title}, ${unit}`, axis: { tickCount: width < 560 ? 4 : 8, format: "~r" } },
      order: { field: "place" },
      tooltip: { field: "tip" },
      ...colour,
    },
  };
}

function memorySpec(width) {
  if (!page.memory.length) return null;
  const kinds = [...new Set(page.memory.flatMap((arm) => Object.keys(arm.classes)))];
  const [power, unit] = byteUnit(Math.max(...page.memory.map((arm) => Object.values(arm.classes).reduce((a, b) => a + b, 0))));
  const rows = page.memory.flatMap((arm) =>
    Object.entries(arm.classes).map(([kind, bytes]) => ({ name: arm.name, kind, place: kinds.indexOf(kind), value: bytes / power, tip: `${arm.name}, ${kind}: ${short(bytes / power)} ${unit}` })),
  );
  return bars(width, rows, { order: page.memory.map((arm) => arm.name), kinds, unit, title: "held for backward" });
}

function onnxSpec(width) {
  if (!page.onnx.length) return null;
  const [power, unit] = byteUnit(Math.max(...page.onnx.map((file) => file.bytes)));
  const rows = page.onnx.map((file) => ({ name: file.form, value: file.bytes / power, tip: `${file.form}: ${short(file.bytes / power)} ${unit}` }));
  return bars(width, rows, { order: page.onnx.map((file) => file.form), kinds: [], unit, title: "size of the file" });
}

function startCosts() {
  addChart("memory", memorySpec);
  addChart("onnx", onnxSpec);
}
