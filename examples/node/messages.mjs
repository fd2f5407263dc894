// What peers need, agent.mjs and submit.mjs alike: names, the way to the bus, messages, large bodies (docs/protocol.md sections 1 and 5).
import { createHash, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, headers } from "@nats-io/transport-node";

const LARGE = 262_144; // bytes; a body above that is cut into chunks of that size

export const newId = () => randomUUID(); // 36 of 0-9 a-f -

/** What is wrong with these names and this capability; null: they may stand in subjects [1]. */
export function refusal(names, capability) {
  const wrong = [...names, ...capability.split(".")].find((name) => !/^[A-Za-z0-9_-]{1,64}$/.test(name));
  if (wrong !== undefined) return `${JSON.stringify(wrong)} is no name: 1 to 64 of A-Z a-z 0-9 _ -`;
  return capability.length > 128 ? `${JSON.stringify(capability)} is no capability: it has more than 128 characters` : null;
}

/** A connection, as soon as a server answers; after a second without one a line says so. An address or a password that is wrong ends the program. */
export async function join(servers, name) {
  const late = setTimeout(console.error, 1000, `no server at ${servers}, trying again`);
  try {
    return await connect({ servers, name, maxReconnectAttempts: -1, reconnectTimeWait: 250, waitOnFirstConnect: true });
  } catch ({ message }) {
    console.error(`${servers} cannot be joined: ${message}`);
    return process.exit(3);
  } finally {
    clearTimeout(late);
  }
}

/** The arguments of `nc.publish` and `nc.request` for a message. Sent again as it is, it keeps its Ae-Id. */
export function message(subject, type, body, trace = {}) {
  const all = headers();
  for (const [name, value] of Object.entries({ "Ae-Type": type, "Ae-Id": newId(), ...trace })) all.set(name, value);
  return [`ae.v1.${subject}`, body instanceof Uint8Array ? body : JSON.stringify(body), { headers: all, timeout: 5000 }];
}

const REQUIRED = new Map([
  ["offer", ["boot"]],
  ["call", ["task", "subtask", "capability", "call", "shard"]],
  ["award", ["task", "subtask", "epoch", "boot"]],
  ["cancel", ["task", "subtask", "epoch"]],
  ["feedback", ["task", "id"]],
  ["result", ["task", "state"]],
  ["refused", ["task", "id", "error"]],
]);

/** A message that came, read: Ae-Type, body, and the trace context to be carried on. `type` is null when it is to be dropped. */
export function read(msg) {
  const type = msg.headers?.get("Ae-Type");
  if (!REQUIRED.has(type)) return { type: null, body: {} };
  const trace = {};
  for (const name of ["traceparent", "tracestate"]) if (msg.headers.has(name)) trace[name] = msg.headers.get(name);
  try {
    const body = msg.json();
    return { type: REQUIRED.get(type).every((name) => name in body) ? type : null, body, trace };
  } catch {
    return { type: null, body: {} };
  }
}

/** Send a durable message until the server says that it is stored, or `signal` says that it is not wanted any more. */
export async function store(nc, message, signal) {
  for (let wait = 200; !signal?.aborted; wait = Math.min(2 * wait, 5000)) {
    const reply = await nc.request(...message).then((msg) => msg.json()).catch((error) => ({ error }));
    if (reply.seq && !reply.error) return;
    if (reply.error?.err_code === 10054) throw new Error("a message is too large for the server's stream");
    await sleep(wait, null, { signal }).catch(() => {});
  }
}

/** Ask a coordinator, again after each second without an answer; gives the message that answers. */
export async function ask(nc, me, kind, task, question, signal) {
  const asked = message(`ask.${me}.${kind}.${task}`, "ask", question);
  const id = asked[2].headers.get("Ae-Id");
  const answers = nc.subscribe(`ae.v1.to.${me}.answer.${task}`);
  const again = setInterval(() => nc.publish(...asked), 1000);
  const stop = () => answers.unsubscribe();
  signal?.addEventListener("abort", stop);
  try {
    nc.publish(...asked);
    for await (const msg of answers) if (msg.headers?.get("Ae-Re") === id) return msg;
    throw new Error("the question was given up");
  } finally {
    clearInterval(again);
    signal?.removeEventListener("abort", stop);
    answers.unsubscribe();
  }
}

/** Read a body that was stored in chunks. */
export async function readBlob(nc, me, task, { digest, chunks }, signal) {
  const parts = [];
  for (let chunk = 0; chunk < chunks; chunk++) {
    const msg = await ask(nc, me, "blob", task, { digest, chunk }, signal);
    if (msg.headers.get("Ae-Type") !== "chunk") throw inputError(`the body ${digest} cannot be read: ${msg.string()}`);
    parts.push(msg.data);
  }
  const bytes = Buffer.concat(parts);
  if (sha256(bytes) !== digest) throw inputError(`what was read is not the body ${digest}`);
  return JSON.parse(bytes);
}

/** A value as a field of a message: `{name: value}`, or `{name_blob: Blob}` once its chunks are stored, when it is large. */
export async function bodyField(nc, task, name, value, signal) {
  const bytes = Buffer.from(JSON.stringify(value ?? null));
  if (bytes.length <= LARGE) return { [name]: value ?? null };
  const digest = sha256(bytes);
  const chunks = Math.ceil(bytes.length / LARGE);
  for (let n = 0; n < chunks; n++) {
    await store(nc, message(`blob.${task}.${digest}.${n}`, "chunk", bytes.subarray(n * LARGE, (n + 1) * LARGE)), signal);
    signal?.throwIfAborted();
  }
  return { [`${name}_blob`]: { digest, bytes: bytes.length, chunks } };
}

/** An award's input, complete. */
export async function readInput(nc, me, task, { input = {}, input_blob, fill }, signal) {
  const root = { input: input_blob ? await readBlob(nc, me, task, input_blob, signal) : input };
  const blobs = new Map(); // several parts may come from one
  for (const { at, blob, path, slice } of fill ?? []) {
    if (!blobs.has(blob.digest)) blobs.set(blob.digest, await readBlob(nc, me, task, blob, signal));
    const value = (path ?? []).reduce(member, blobs.get(blob.digest));
    const place = ["input", ...at];
    const last = place.pop();
    const holder = place.reduce(member, root);
    member(holder, last);
    holder[last] = slice ? value.slice(...slice) : value;
  }
  return root.input;
}

function member(value, name) {
  const found = value !== null && typeof value === "object" && Object.hasOwn(value, name);
  if (!found) throw inputError(`the input cannot be put together: there is no ${name}`);
  return value[name];
}
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const inputError = (text) => Object.assign(new Error(text), { code: "input", retryable: true });
