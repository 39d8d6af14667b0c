// Puts the page together, and says when it can be used.

const THEME = "laser-fx-theme";

/** Runs what reads or writes the browser's storage, which it may refuse to a file: then nothing is remembered. */
function stored(use) {
  try {
    return use(localStorage);
  } catch {
    return null;
  }
}

function startTheme() {
  const kept = stored((storage) => storage.getItem(THEME));
  for (const choice of all("[name=theme]")) {
    if (choice.value === kept) {
      choice.checked = true;
      document.documentElement.dataset.theme = kept;
    }
    choice.addEventListener("change", () => {
      document.documentElement.dataset.theme = choice.value;
      stored((storage) => storage.setItem(THEME, choice.value));
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
