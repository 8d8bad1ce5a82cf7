// The page is plain HTML: forms that post, and a board that the device sends anew
// whenever something changes, which htmx morphs into the present one. This file
// adds what HTML cannot say: editing in place, and where the focus goes.

const closest = (event, selector) => event.target.closest?.(selector);

// Editing in place: <details class="edit"> shows the text closed and a form open.

document.addEventListener("toggle", (event) => {
  if (!event.target.matches("details.edit[open]")) return;
  for (const other of document.querySelectorAll("details.edit[open]")) {
    if (other !== event.target) other.open = false;
  }
  event.target.querySelector("form").reset(); // to the value that the device last sent
  const input = event.target.querySelector("input[name=text]");
  input.focus();
  input.select();
}, true);

function closeEdit(details) {
  details.open = false;
  details.querySelector("summary").focus();
}

document.addEventListener("keydown", (event) => {
  const details = closest(event, "details.edit[open]");
  if (event.key === "Escape" && details) closeEdit(details);
});

document.addEventListener("click", (event) => {
  if (closest(event, "details.edit button[type=reset]")) closeEdit(closest(event, "details.edit"));
});

// A form is ready for the next line as soon as its text is on its way. Should it
// not arrive, the text comes back.

document.addEventListener("htmx:config:request", ({ target: form, detail: { ctx } }) => {
  flash("");
  if (form.matches("form.add")) {
    ctx.typed = form.elements.text.value;
    form.reset();
  }
  const details = form.closest("details.edit");
  if (details) closeEdit(details);
});

function giveBack({ target: form, detail: { ctx } }, message) {
  const input = form.matches?.("form.add") && form.elements.text;
  if (input && !input.value) input.value = ctx.typed;
  flash(message);
}

document.addEventListener("htmx:error", (event) => giveBack(event, "The device did not answer."));
document.addEventListener("htmx:response:error", (event) => giveBack(event, event.detail.ctx.text));

function flash(message) {
  const box = document.getElementById("flash");
  box.textContent = message;
  box.hidden = !message;
}

// Focus survives a morph, but not when its element goes: then it moves to the
// same button of the next row, else of the one before, else to the line below.

let heirs = [];

document.addEventListener("htmx:before:swap", () => {
  const focused = document.activeElement;
  const row = focused?.closest("li, section.list, section.verdicts");
  if (!row || !focused.id) return (heirs = []);
  const kind = focused.id.split("-")[0];
  const sibling = (other) => other?.querySelector(`[id^="${kind}-"]`)?.id;
  heirs = [
    focused.id,
    sibling(row.nextElementSibling),
    sibling(row.previousElementSibling),
    row.closest("section.list")?.querySelector("form.add input[name=text]")?.id,
    "add-list",
  ];
});

document.addEventListener("htmx:after:swap", () => {
  if (document.activeElement !== document.body) return;
  heirs.map((id) => id && document.getElementById(id)).find(Boolean)?.focus();
});

// The connection of the page to its device, which is not the device's own to the server.

const lost = (is) => () => document.body.classList.toggle("lost-device", is);
document.addEventListener("htmx:sse:after:connection", lost(false));
document.addEventListener("htmx:sse:error", lost(true));
document.addEventListener("htmx:sse:close", lost(true));
