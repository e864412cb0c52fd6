// Votes, notices and actions: only an agent's page has them, and the agent asks for the token.

import * as api from "./api.js";
import { countdown } from "./countdown.js";
import { element, printable } from "./dom.js";
import { linesOf } from "./stream.js";
import { TokenField } from "./token.js";
import { ACTIONS, NOTIFIED, VOTED } from "./words.js";

const WORDS = { vote: VOTED, notify: NOTIFIED, act: ACTIONS };
const LABELS = { vote: "Vote on", notify: "Notify of", act: "Act:" };

export class ActionForm {
  /**
   * @param {string} uuid
   * @param {() => string} name the instance's, for the question
   */
  constructor(uuid, name) {
    this._uuid = uuid;
    this._name = name;
    const options = Object.entries(LABELS).map(([value, text]) => element("option", { value }, text));
    this._kind = element("select", { "aria-label": "What to do", on: { change: () => this._fill() } }, ...options);
    this._word = element("select", { "aria-label": "Event or action", on: { change: () => this._ask("") } });
    this._token = new TokenField();
    this._send = element("button", { type: "submit" }, "Send");
    this._question = element("p", { class: "question", role: "alert" });
    this._progress = element("div", { class: "progress", role: "log", "aria-label": "Progress" });
    this.node = element(
      "form",
      { class: "act", "aria-label": "Vote, notify or act", on: { submit: (event) => this._submit(event) } },
      element("h3", {}, "Act"),
      element("div", { class: "fields" }, this._kind, this._word, this._token.node, this._send),
      this._question,
      this._progress,
    );
    this._fill();
  }

  _fill() {
    const words = WORDS[this._kind.value];
    this._word.replaceChildren(...words.map((value) => element("option", { value }, value)));
    this._ask("");
  }

  // An action does something to the machine: it is asked for twice.
  _ask(question) {
    this._question.textContent = question;
    this._send.textContent = question ? "Yes, do it" : "Send";
    this._confirmed = Boolean(question);
  }

  async _submit(event) {
    event.preventDefault();
    const [kind, word] = [this._kind.value, this._word.value];
    if (kind === "act" && !this._confirmed) {
      this._ask(`Really ${word} ${this._name()}?`);
      return;
    }
    this._ask("");
    this._token.take();
    this._send.disabled = true;
    this._progress.replaceChildren();
    try {
      const body = kind === "act" ? { action: word } : { event: word };
      const response = await api.change(this._uuid, kind, body);
      this._token.update();
      for await (const line of linesOf(response)) this._show(line);
    } catch (error) {
      this._token.failed(error);
      this._add(element("p", { class: "refused" }, printable(error.message)));
    } finally {
      this._send.disabled = false;
    }
  }

  _show(line) {
    // A line ends what the one before it began.
    this._progress.lastElementChild?.querySelector(".countdown")?.remove();
    const words = [line.step, line.event, line.result, line.outcome].filter(Boolean).join(" ");
    const said = [line.reason, line.skipped, line.waiting, line.output].filter(Boolean).join("; ");
    const refused = ["reject", "failed", "error"].includes(line.result) || line.outcome === "rejected";
    const item = element("div", { class: refused ? "refused" : false }, element("strong", {}, words));
    if (said) item.append(" ", element("bdi", {}, printable(said)));
    this._add(item);
    if (line.seconds && !line.result) {
      const ends = performance.now() + 1000 * line.seconds;
      item.append(countdown({ text: line.window || line.step, total: line.seconds, ends }));
    }
  }

  _add(item) {
    this._progress.append(item);
  }
}
