// Requests to the daemon that served this page.

const KEY = "hbtrio.token";

/** How long an answer is waited for, in ms; a connection may be dead without this end knowing. */
const PATIENCE = 20_000;

/** A change may begin for so many seconds: a daemon that stood still does nothing later. */
const BEGIN = 4;

/** A request that was refused. */
export class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

/** The token of this tab: never in a URL, never a cookie. */
export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/**
 * Sends a request and returns its response once its head has arrived.
 * @throws {Refused} the daemon refused it
 * @throws {TypeError} the daemon can't be reached
 */
async function request(path, { headers = {}, ...options } = {}) {
  const given = token.get();
  const response = await fetch(path, {
    cache: "no-store",
    credentials: "same-origin", // a client certificate is one
    redirect: "error",
    ...options,
    headers: { ...headers, ...(given && { authorization: `Bearer ${given}` }) },
  });
  if (!response.ok) throw new Refused(response.status, await reasonOf(response));
  return response;
}

async function reasonOf(response) {
  try {
    return (await response.json()).reason;
  } catch {
    return `the daemon answered ${response.status}`;
  }
}

/** The body of an answer that comes in time. */
async function json(path) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), PATIENCE);
  try {
    return await (await request(path, { signal: late.signal })).json();
  } finally {
    clearTimeout(timer);
  }
}

export const status = () => json("/v1/status");

/** What an instance's host sees of it now; only an agent has to ask. */
export const look = (uuid) => json(`/v1/instances/${encodeURIComponent(uuid)}/look`);

export const instance = (uuid) => json(`/v1/instances/${encodeURIComponent(uuid)}`);

/** A drain with its instances. */
export const drain = (id) => json(`/v1/drains/${encodeURIComponent(id)}`);

/** The newest entries of the history, of one instance if it is named. */
export async function history({ uuid = null, limit = 100 } = {}) {
  const query = new URLSearchParams({ limit, ...(uuid && { uuid }) });
  return (await json(`/v1/history?${query}`)).history;
}

/** Opens the stream of events: the last `recent` ones, then new ones. */
export const events = (recent, signal) =>
  request(`/v1/events?recent=${recent}`, { signal, headers: { accept: "text/event-stream" } });

/** Asks for a change of an instance: the response streams its progress. */
export const change = (uuid, kind, body) => post(`/v1/instances/${encodeURIComponent(uuid)}/${kind}`, body);

/** Sends or withdraws the alarms of a host that are held back. */
export const alarms = async (hostname, alarms) =>
  (await post(`/v1/hosts/${encodeURIComponent(hostname)}/alarms`, { alarms })).json();

/** Forgets a host that is no more. */
export const forget = async (hostname) =>
  (await post(`/v1/hosts/${encodeURIComponent(hostname)}/forget`, {})).json();

async function post(path, body) {
  const { clock_s, boot_id } = await json("/v1/clock");
  return request(path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: {
      accept: "text/event-stream, application/json",
      "content-type": "application/json",
      "hbtrio-begin-by": `${clock_s + BEGIN} ${boot_id}`,
    },
  });
}
