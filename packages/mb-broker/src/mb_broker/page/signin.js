// Who this page is: the user in the head, the form for a token, and what the user may not see.

import { find, setText } from "./dom.js";

/**
 * @typedef {import("./model.js").Model} Model
 * @typedef {import("./model.js").Part} Part
 */

/**
 * The places that show what may not be seen: the id, the part of the broker, and its name.
 *
 * @type {[string, Part, string][]}
 */
const PLACES = [
  ["rates-denied", "metrics", "the metrics"],
  ["latency-denied", "message", "messages, so their latency is not known"],
  ["messages-denied", "message", "messages"],
  ["services-denied", "services", "the list of services"],
  ["topics-denied", "topics", "the list of topics"],
];

export class SignInView {
  #identity;
  #changed;
  #card = find("sign-in");
  #token = find("token", HTMLInputElement);
  #isWanted = false;
  #isEmpty = false;

  /**
   * @param {import("./identity.js").Identity} identity
   * @param {() => void} changed is called when there is something else to show
   */
  constructor(identity, changed) {
    this.#identity = identity;
    this.#changed = changed;
    find("sign-in-form", HTMLFormElement).onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    find("open-sign-in").onclick = () => this.#want(true);
    find("cancel-sign-in").onclick = () => this.#want(false);
    find("sign-out").onclick = () => {
      identity.signOut();
      location.reload(); // so nothing that the user has seen stays in the page
    };
  }

  /** @param {Model} model */
  draw({ denied }) {
    const { user, isRequired, isOffered, isSigningIn, hasToken } = this.#identity;
    const fault = this.#isEmpty ? "Enter a token." : this.#identity.fault;
    document.body.dataset.locked = String(isRequired);
    setText(find("account-user"), user === null ? "" : `Signed in as ${user}`);
    find("sign-out").hidden = !hasToken;
    find("open-sign-in").hidden = !isOffered;
    if (user !== null) this.#isWanted = false;
    const isShown = isRequired || this.#isWanted || fault !== "";
    find("cancel-sign-in").hidden = isRequired;
    find("open-sign-in").setAttribute("aria-expanded", String(isShown));
    setText(find("sign-in-progress"), isSigningIn ? "Signing in…" : "");
    this.#token.setAttribute("aria-invalid", String(fault !== ""));
    this.#show(isShown);
    setText(find("token-fault"), fault);
    for (const [id, part, name] of PLACES) {
      setText(find(id), denied.has(part) ? words(part, name, user) : "");
    }
  }

  /** @param {boolean} isWanted */
  #want(isWanted) {
    this.#isWanted = isWanted;
    this.#isEmpty = false;
    this.#identity.fault = "";
    this.#show(isWanted);
  }

  /** @param {boolean} isShown */
  #show(isShown) {
    if (this.#card.hidden !== isShown) return;
    const hadFocus = this.#card.contains(document.activeElement);
    this.#card.hidden = !isShown;
    if (isShown) this.#token.focus();
    else if (hadFocus) find("main").focus({ preventScroll: true });
  }

  #submit() {
    const token = this.#token.value.trim();
    this.#token.value = "";
    this.#token.focus();
    setText(find("token-fault"), ""); // so that the same fault is read out again
    this.#isEmpty = token === "";
    if (token) this.#identity.signIn(token);
    else this.#changed();
  }
}

/**
 * @param {Part} part
 * @param {string} name
 * @param {string | null} user
 */
function words(part, name, user) {
  const role = `a role with system = ["${part}"]`;
  return user === null
    ? `Anonymous clients may not see ${name}. Sign in as a user who has ${role}.`
    : `${user} may not see ${name}. This takes ${role}.`;
}
