// Which site is chosen, and which one the pointer is at: every part of the page shows both.

const selection = { site: -1, watchers: [] };

/** @param {(site: number, from: string) => void} watcher is told of every choice */
function onChoice(watcher) {
  selection.watchers.push(watcher);
}

/**
 * @param {number} site its number in `page.sites`
 * @param {string} [from] the part of the page that chose, which need not be scrolled to
 */
function choose(site, from = "") {
  if (!page.sites[site]) return;
  selection.site = site;
  for (const element of all("[data-site]")) {
    const chosen = Number(element.dataset.site) === site;
    element.classList.toggle("chosen", chosen);
    const button = element.matches("[aria-pressed]") ? element : element.querySelector("button.pick");
    button?.setAttribute("aria-pressed", String(chosen));
  }
  for (const menu of all(".site-choice")) menu.value = String(site);
  for (const watcher of selection.watchers) watcher(site, from);
}

/** @param {number} site that the pointer or the focus is at; −1 for none */
function light(site) {
  for (const element of all(".lit")) element.classList.remove("lit");
  if (site >= 0) for (const element of all(`[data-site="${site}"]`)) element.classList.add("lit");
}

/** The nearest element around an event that stands for a site, as a number. */
function siteOf(event) {
  const element = event.target.closest?.("[data-site]");
  return element ? Number(element.dataset.site) : -1;
}

function startSelection() {
  for (const menu of all(".site-choice")) {
    page.sites.forEach((site, number) => menu.append(make("option", { value: number }, `${site.name} in ${site.loop}`)));
    menu.addEventListener("change", () => choose(Number(menu.value), menu.id));
  }
  for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, (event) => light(siteOf(event)));
}

/** The site that a reader should look at first: the one whose basis kept least. */
function worstSite() {
  const measured = page.sites.map((site, number) => [site.low ?? 2, number]);
  return measured.length ? measured.sort((a, b) => a[0] - b[0] || a[1] - b[1])[0][1] : -1;
}
