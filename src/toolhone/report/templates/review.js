"use strict";

const COLUMNS = ["id", "reason", "probability", "hash", "mark", "fixed", "note"];

// A mark is {mark: "right" | "wrong" | "fixed" | "", fixed: {calls, content} | null, note: text}; marks are by id.
function marksOf(sheet, marks) {
  return sheet.items.map((item) => {
    const { mark = "", fixed = null, note = "" } = marks[item.id] || {};
    return { id: item.id, reason: item.reason, probability: item.probability, hash: item.hash, mark, fixed, note };
  });
}

function marksCsv(sheet, marks) {
  const quoted = (value) => {
    const text = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    return /[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const rows = marksOf(sheet, marks).map((row) => COLUMNS.map((name) => quoted(row[name])).join(","));
  return "\ufeff" + [COLUMNS.join(","), ...rows].join("\n") + "\n";
}

// Marks in the browser's storage as an earlier version of the page wrote them: it called "fixed" "mended".
function withCurrentNames(mark) {
  if (!mark || !("mended" in mark)) return mark;
  const { mended, ...others } = mark;
  return { ...others, mark: mark.mark === "mended" ? "fixed" : mark.mark, fixed: mended };
}

// Returns the fixed turn, or a text that says what is wrong with it. `--apply` checks it against the full schemas.
function readFixed(text, tools) {
  let turn;
  try {
    turn = JSON.parse(text);
  } catch (error) {
    return `Not JSON: ${error.message}`;
  }
  if (Array.isArray(turn)) turn = { calls: turn };
  if (turn === null || typeof turn !== "object") return "Expected {\"calls\": [...], \"content\": \"...\"}";
  const { calls = [], content = "", ...others } = turn;
  if (Object.keys(others).length) return `Unknown key ${Object.keys(others)[0]}; expected calls and content`;
  if (!Array.isArray(calls) || typeof content !== "string") return "calls must be a list and content a text";
  if (!calls.length && !content.trim()) return "Neither a call nor a text: fill in calls or content";
  for (const call of calls) {
    const tool = tools.find((one) => call !== null && typeof call === "object" && one.name === call.name);
    if (!tool) return `Unknown tool in ${JSON.stringify(call)}; expected one of ${tools.map((one) => one.name).join(", ")}`;
    const given = call.arguments === undefined ? {} : call.arguments;
    if (given === null || typeof given !== "object" || Array.isArray(given)) {
      return `${call.name}: arguments must be an object`;
    }
    const missing = (tool.parameters.required || []).find((name) => !(name in given));
    if (missing) return `${call.name}: ${missing} is required`;
    const known = tool.parameters.properties || {};
    const unknown = Object.keys(given).find((name) => !(name in known));
    if (unknown && tool.parameters.additionalProperties === false) return `${call.name}: unknown argument ${unknown}`;
  }
  return { calls, content };
}

function start() {
  const sheet = JSON.parse(document.getElementById("sheet").textContent);
  const key = `toolhone-review-${sheet.name}`;
  const at = (id) => document.getElementById(id);
  let state = { place: 0, marks: {}, history: [] };

  const warn = (text) => {
    at("warning").textContent = text;
    at("warning").hidden = false;
  };
  try {
    const stored = JSON.parse(localStorage.getItem(key));
    if (stored && stored.marks && Array.isArray(stored.history)) {
      const marks = Object.entries(stored.marks).map(([id, one]) => [id, withCurrentNames(one)]);
      const history = stored.history.map(({ id, before }) => ({ id, before: withCurrentNames(before) }));
      state = { place: stored.place, marks: Object.fromEntries(marks), history };
    }
  } catch (error) {
    warn(`Cannot read the marks that this browser stored earlier (${error.message}).`);
  }
  state.place = Math.min(Math.max(0, Number(state.place) || 0), sheet.items.length - 1);

  const store = () => {
    try {
      localStorage.setItem(key, JSON.stringify(state));
    } catch (error) {
      warn(`The browser cannot store marks for this page (${error.message}). Export them before you close it.`);
    }
  };
  const current = () => sheet.items[state.place];
  const markOf = (item) => state.marks[item.id] || { mark: "", fixed: null, note: "" };
  const toolsOf = (item) => sheet.toolsets[item.toolset];

  function element(tag, className, text) {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function callElement(name, given) {
    const made = element("pre", "", "");
    made.append(element("span", "name", name), element("span", "", ` ${given}`));
    return made;
  }

  function messageElement(message) {
    const box = element("div", `message ${message.role}`, "");
    box.append(element("div", "role", message.role));
    if (message.content) box.append(element("div", "text", message.content));
    for (const call of message.tool_calls || []) box.append(callElement(call.function.name, call.function.arguments));
    return box;
  }

  function turnElements(turn) {
    const made = [];
    if (turn.content) made.push(element("div", "text", turn.content));
    for (const call of turn.calls) made.push(callElement(call.name, JSON.stringify(call.arguments, null, 2)));
    if (turn.status === "any") made.push(element("div", "role", "any call to one of the tools"));
    return made;
  }

  function show() {
    const item = current();
    const mark = markOf(item);
    const marked = sheet.items.filter((one) => markOf(one).mark).length;
    at("title").textContent = sheet.title;
    at("title").title = sheet.title; // the tooltip has the full title if the heading is cut off
    const done = marked === sheet.items.length;
    at("count").textContent = `${marked} of ${sheet.items.length} marked${done ? ": export them" : ""}`;
    at("csv").className = done ? "due" : "";
    at("progress").value = marked;
    at("progress").max = sheet.items.length;
    at("place").replaceChildren(
      element("strong", "", `${state.place + 1} of ${sheet.items.length}`),
      element("span", "id", item.id),
      ...(item.source ? [element("span", "", `gold by ${item.source}`)] : []),
    );
    at("back").disabled = state.place === 0;
    at("next").disabled = state.place === sheet.items.length - 1;
    at("undo").disabled = state.history.length === 0;
    at("messages").replaceChildren(...item.messages.map(messageElement));
    const gold = turnElements(item.gold);
    if (mark.fixed) for (const shown of gold) shown.className += " replaced";
    const fixed = mark.fixed ? [element("div", "role", "fixed:"), ...turnElements(mark.fixed)] : [];
    at("gold").className = `gold ${mark.mark}`;
    at("gold").replaceChildren(...gold, ...fixed);
    at("doubts").textContent = [...item.doubts, item.predicted && `the model: ${item.predicted}`].filter(Boolean).join("\n");
    at("why").hidden = !item.doubts.length && !item.predicted;
    at("why").open = false; // so that the person first reviews the turn without a hint
    at("tools").textContent = JSON.stringify(toolsOf(item), null, 2);
    at("note").value = mark.note;
    for (const [id, word] of [["right", "right"], ["wrong", "wrong"], ["fix", "fixed"]]) {
      at(id).setAttribute("aria-pressed", String(mark.mark === word));
    }
    at("editor").hidden = true;
    at("actions").hidden = false;
  }

  function set(id, mark) {
    state.history.push({ id, before: state.marks[id] || null });
    state.marks[id] = mark;
    store();
  }

  function go(step) {
    goTo(Math.min(Math.max(0, state.place + step), sheet.items.length - 1));
  }

  // After a mark, shows the next turn; after the last turn, the first one without a mark.
  function goOn() {
    const open = sheet.items.findIndex((item) => !markOf(item).mark);
    if (state.place === sheet.items.length - 1 && open !== -1) goTo(open);
    else go(1);
  }

  function goTo(place) {
    if (place !== state.place) scrollTo(0, 0);
    state.place = place;
    store();
    show();
  }

  function mark(word) {
    set(current().id, { ...markOf(current()), mark: word, fixed: null });
    goOn();
  }

  function undo() {
    const last = state.history.pop();
    if (!last) return;
    const { note } = state.marks[last.id]; // undo keeps the note, which may have been written after the mark
    state.marks[last.id] = { ...(last.before || { mark: "", fixed: null }), note };
    state.place = sheet.items.findIndex((item) => item.id === last.id);
    store();
    show();
  }

  function openEditor() {
    const { calls, content } = markOf(current()).fixed || current().gold;
    at("fixed").value = JSON.stringify({ calls, content }, null, 2);
    at("fault").textContent = "";
    at("editor").hidden = false;
    at("actions").hidden = true; // no other mark while a fix is being written
    at("fixed").focus();
    at("editor").scrollIntoView({ block: "nearest" });
  }

  function save() {
    const fixed = readFixed(at("fixed").value, toolsOf(current()));
    if (typeof fixed === "string") {
      at("fault").textContent = fixed;
      return;
    }
    set(current().id, { ...markOf(current()), mark: "fixed", fixed });
    at("fixed").blur();
    goOn();
  }

  function closeEditor() {
    at("fixed").blur();
    show();
  }

  function download(text, type, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const actions = {
    r: () => mark("right"), w: () => mark("wrong"), f: openEditor, j: () => go(1), k: () => go(-1), u: undo,
    ArrowRight: () => go(1), ArrowLeft: () => go(-1),
  };
  const buttons = { right: "r", wrong: "w", fix: "f", next: "j", back: "k", undo: "u" };
  for (const [id, name] of Object.entries(buttons)) at(id).addEventListener("click", actions[name]);
  at("save").addEventListener("click", save);
  at("cancel").addEventListener("click", closeEditor);
  at("note").addEventListener("input", () => {
    state.marks[current().id] = { ...markOf(current()), note: at("note").value };
    store();
  });
  at("csv").addEventListener("click", () => download(marksCsv(sheet, state.marks), "text/csv", "marks.csv"));
  at("json").addEventListener("click", () => {
    download(JSON.stringify(marksOf(sheet, state.marks), null, 2) + "\n", "application/json", "marks.json");
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.tagName === "TEXTAREA" || event.target.tagName === "INPUT";
    if (event.isComposing) return; // an input method editor is composing a character
    if (event.key === "Escape" && !at("editor").hidden) return closeEditor();
    if (typing) {
      if (event.target.id === "note" && (event.key === "Escape" || event.key === "Enter")) event.target.blur();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.id === "fixed") save();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !at("editor").hidden) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key; // also works with caps lock on
    if (Object.hasOwn(actions, key)) {
      event.preventDefault();
      actions[key]();
    }
  });
  show();
}

if (typeof document !== "undefined") start();
