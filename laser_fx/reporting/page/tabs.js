// Tabs by the pattern of WAI-ARIA: one stop of the Tab key, arrow keys between them.

/** @type {Record<string, string>} the chosen tab of each list */
const tabOf = {};

/**
 * @param {string} name of the list: `tabs-name` holds its buttons, `panel-name` is what they change
 * @param {() => void} changed
 */
function startTabs(name, changed) {
  const list = byId(`tabs-${name}`);
  if (!list) return;
  const tabs = all("[role=tab]", list);
  tabOf[name] = tabs[0].dataset.tab;
  const pick = (tab, focus) => {
    tabOf[name] = tab.dataset.tab;
    for (const each of tabs) {
      each.setAttribute("aria-selected", String(each === tab));
      each.tabIndex = each === tab ? 0 : -1;
    }
    byId(`panel-${name}`).setAttribute("aria-labelledby", tab.id);
    if (focus) tab.focus();
    changed();
  };
  for (const tab of tabs) tab.addEventListener("click", () => pick(tab, false));
  list.addEventListener("keydown", (event) => {
    const next = moved(event.key, tabs.indexOf(document.activeElement), tabs.length);
    if (next === null) return;
    event.preventDefault();
    pick(tabs[next], true);
  });
}

/** Where an arrow key, Home or End leads in a list; null for other keys. */
function moved(key, at, length) {
  if (key === "ArrowRight" || key === "ArrowDown") return (at + 1) % length;
  if (key === "ArrowLeft" || key === "ArrowUp") return (at + length - 1) % length;
  return key === "Home" ? 0 : key === "End" ? length - 1 : null;
}
