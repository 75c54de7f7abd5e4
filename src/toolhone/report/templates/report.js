"use strict";
// Filters the failed rows by tool, by kind of error, and by whether the first model got them right.
const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.querySelectorAll(".row[data-kinds]")];
  const [tool, kind, broken] = ["filter-tool", "filter-kind", "filter-broken"].map((id) => document.getElementById(id));
  const [shown, none] = ["filter-shown", "filter-none"].map((id) => document.getElementById(id));
  const listed = rows.filter((row) => row.matches("tr"));
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
    // On paper, only this line shows the chosen filters.
    const chosen = [tool.value, kind.value, broken && broken.checked ? broken.parentElement.textContent.trim() : ""];
    const by = chosen.filter(Boolean).join(", ");
    shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown${by && ": "}${by}`;
    none.hidden = count > 0;
    const noneListed = listed.every((row) => row.hidden);
    for (const part of document.querySelectorAll(".of-listed")) part.hidden = noneListed;
  };
  const wentWrong = document.getElementById("went-wrong");
  if (wentWrong && broken) {
    wentWrong.addEventListener("click", () => {
      tool.value = kind.value = "";
      broken.checked = true;
      apply();
    });
  }
  filter.hidden = false;
  filter.addEventListener("change", apply);
  document.getElementById("filter-reset").addEventListener("click", () => {
    tool.value = kind.value = "";
    if (broken) broken.checked = false;
    apply();
    tool.focus();
  });
  apply();
}
