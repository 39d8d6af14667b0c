// Puts the page together, and says when it can be used.

function startTheme() {
  for (const choice of all("[name=theme]")) {
    choice.addEventListener("change", () => {
      document.documentElement.dataset.theme = choice.value;
    });
  }
}

/** Marks the section that is read in the list of sections. */
function startSections() {
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(target.getAttribute("aria-labelledby"))?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  for (const section of all("main > section")) seen.observe(section);
}

/** Whole tables and charts on paper, and as they were afterwards. */
function startPrint() {
  addEventListener("beforeprint", drawRest);
}

/** Draws the charts that nobody has scrolled to yet, one at a time, when there is nothing else to do. */
function drawInIdleTime() {
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));
  const left = [...charts.values()].find((chart) => !chart.drawn && byId(`plot-${chart.name}`).clientWidth);
  if (!left) {
    document.documentElement.dataset.complete = "true";
    performance.mark("data-complete");
    return;
  }
  idle(() => {
    if (!left.drawn) drawChart(left);
    drawInIdleTime();
  });
}

function start() {
  document.documentElement.classList.add("scripted");
  for (const begin of [startTheme, startSelection, startTables, startFiles, startPicture, startHeat, startSpectra, startDynamics, startCosts, startSections, startPrint]) begin();
  choose(worstSite(), "start");
  document.documentElement.dataset.ready = "true";
  performance.mark("data-ready");
  requestAnimationFrame(() => setTimeout(drawInIdleTime));
}

start();
