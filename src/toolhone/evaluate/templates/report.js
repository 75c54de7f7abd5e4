"use strict";
// The filter of the failed rows: by tool, by kind of error, and to those that only the last model got wrong.
const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.querySelectorAll(".row[data-kinds]")];
  const [tool, kind, broken] = ["filter-tool", "filter-kind", "filter-broken"].map((id) => document.getElementById(id));
  const shown = document.getElementById("filter-shown");
  const apply = () => {
    let count = 0;
    for (const row of rows) {
      const fits =
        (!tool.value || JSON.parse(row.dataset.tools).includes(tool.value)) &&
        (!kind.value || JSON.parse(row.dataset.kinds).includes(kind.value)) &&
        (!broken || !broken.checked || row.dataset.broken === "yes");
      row.hidden = !fits;
      count += fits ? 1 : 0;
    }
    shown.textContent = `${count} of ${rows.length} shown`;
  };
  filter.hidden = false;
  filter.addEventListener("change", apply);
  apply();
}
