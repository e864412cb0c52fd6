// A question before something is done to a host: a dialog, with the operator's token if it is needed.

import { element, printable } from "./dom.js";
import { TokenField } from "./token.js";

/**
 * Asks, and does it if the answer is yes.
 * @param {string} text the question
 * @param {string} yes the button that agrees
 * @param {() => Promise<string>} act does it and tells the outcome
 */
export function ask(text, yes, act) {
  const token = new TokenField();
  const fault = element("p", { class: "question", role: "alert" });
  const outcome = element("p", { role: "status" });
  const agree = element("button", { type: "submit" }, yes);
  const leave = element("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");

  async function submit(event) {
    event.preventDefault();
    token.take();
    fault.textContent = "";
    agree.disabled = true;
    try {
      outcome.textContent = printable(await act());
      agree.hidden = true;
      leave.textContent = "Close";
      leave.focus();
    } catch (error) {
      fault.textContent = printable(error.message);
      token.failed(error);
    } finally {
      agree.disabled = false;
    }
  }

  const dialog = element(
    "dialog",
    { "aria-labelledby": "question-text", on: { close: () => dialog.remove() } },
    element(
      "form",
      { on: { submit } },
      element("p", { id: "question-text" }, printable(text)),
      outcome,
      fault,
      element("div", { class: "fields" }, token.node, leave, agree),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  // Enter alone must do nothing.
  if (token.node.hidden) leave.focus();
}
