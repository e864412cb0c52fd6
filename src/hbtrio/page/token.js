// A field for the operator's token, shown only while this tab has none.

import * as api from "./api.js";
import { element } from "./dom.js";

export class TokenField {
  constructor() {
    this.node = element("input", {
      type: "password", autocomplete: "off", spellcheck: "false",
      "aria-label": "Operator token", placeholder: "operator token",
    });
    this.update();
  }

  /** Shows the field if a token is missing. */
  update() {
    this.node.hidden = api.token.get() !== "";
  }

  /** Keeps what was typed for this tab; call it before a request. */
  take() {
    if (this.node.value) api.token.set(this.node.value.trim());
    this.node.value = "";
  }

  /** A request has failed: if because of the token, another has to be typed. */
  failed(error) {
    if (error.status !== 401) return;
    api.token.forget();
    this.update();
    this.node.focus();
  }
}
