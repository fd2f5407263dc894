// A client of AgentExecutor on a plain NATS client, written from docs/protocol.md: [7] means its section 7.
// It submits a task, follows its events and prints what became of it; when its connection was cut it asks before it sends anything again.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { connect } from "@nats-io/transport-node";
import { follow } from "./events.mjs";
import { ask, bodyField, message, newId, read, readBlob, refusal, store } from "./messages.mjs";

const USAGE = `Usage: node submit.mjs CAPABILITY [INPUT_JSON] [--id ID] [--deadline S] [--cancel-after S]

Submits a task; prints its events and then what became of it, one JSON object a line. Ctrl-C cancels it. INPUT_JSON - is read from stdin.
AGENTEXECUTOR_NATS_URL says where the NATS server is, AGENTEXECUTOR_NAME who submits.
Ends with 0: completed, 1: failed, 2: wrong usage, 3: no NATS server, 4: cancelled or not done by its deadline.

  node submit.mjs node.work '{"do": "echo", "value": "hello"}'
  node submit.mjs node.work '{"do": "steps", "steps": ["load", "fit"], "seconds": 2}' --id fit-1 --deadline 60`;
const [DONE, FAILED, WRONG_USAGE, NO_BUS, CANCELLED, INTERRUPTED] = [0, 1, 2, 3, 4, 130];
const ASK_AFTER_S = [2, 5, 15, 30, 60]; // and every 60 s [7]
let keptS = 604_800; // so long an ended task is kept, when no answer has said otherwise [7]

const { AGENTEXECUTOR_NATS_URL: servers = "nats://127.0.0.1:4222", AGENTEXECUTOR_NAME: me = "node-client" } = process.env;
const { capability, input, id, deadline_s, cancel_after_s } = readArguments();
const task = `${me}.${id}`;
const tell = (line) => console.log(JSON.stringify(line));
const tracing = process.env.OTEL_EXPORTER_OTLP_ENDPOINT ? await import("./tracing.mjs") : null; // [6]
const nc = await connect({ servers, name: me, maxReconnectAttempts: -1, reconnectTimeWait: 250 }).catch(({ message }) =>
  leave(NO_BUS, `No NATS server answers at ${servers} (${message}). Start one (agentexecutor up) or set AGENTEXECUTOR_NATS_URL.`),
);
const connection = new EventTarget(); // "disconnect" and "reconnect", as they happen
watchConnection();

const span = tracing?.submitting(capability, task);
const what = { capability, ...(await bodyField(nc, task, "input", input)), ...(deadline_s && { deadline_s }) };
const submit = message(`submit.${me}.normal.${id}`, "submit", what, span?.trace);
span?.end();
let outcome = null; // {state, result, error} once the task has ended
const over = new AbortController();
nc.subscribe(`ae.v1.to.${me}.>`, { callback: hear });
const catchUp = follow(nc, me, task, tell);
if (cancel_after_s) setTimeout(cancel, cancel_after_s * 1000, "it was waited for long enough").unref();
process.once("SIGINT", () => {
  process.once("SIGINT", () => process.exit(INTERRUPTED));
  cancel("interrupted");
});

await untilTheEnd();
const { state, error, result, result_blob } = outcome;
if (state !== "refused") await Promise.race([catchUp(), sleep(5000, null, { ref: false })]); // the last events may be on their way
if (state === "completed") tell({ task, state, result: result_blob ? await readBlob(nc, me, task, result_blob) : result });
else tell({ task, state, error });
await Promise.all([nc.close(), tracing?.stop()]);
const late = state === "cancelled" || error?.code === "deadline";
process.exitCode = state === "completed" ? DONE : late ? CANCELLED : FAILED; // it ends when all is printed

function end(found) {
  outcome ??= found;
  over.abort();
}

function hear(_, msg) {
  const { type, body } = read(msg);
  if (body.task !== task) return;
  if (type === "result" && !body.subtask) end(body);
  if (type === "refused" && body.id === submit[2].headers.get("Ae-Id")) end({ state: "refused", error: body.error });
}

/** Send the submit once: "stored"; "not stored", the server says; "unknown", as no answer came or the connection was cut. */
async function send() {
  const unanswered = (error) => (error.cause?.name === "NoRespondersError" ? { error } : null);
  const reply = await Promise.race([nc.request(...submit).then((msg) => msg.json(), unanswered), happens("disconnect").then(() => null)]);
  if (reply?.error?.err_code === 10054) end({ state: "refused", error: { code: "input", message: "the submit is too large" } });
  return !reply ? "unknown" : reply.seq && !reply.error ? "stored" : "not stored";
}

/** Results are not stored, so one may be missed: the coordinator is asked. Only when nobody knows the task is it submitted again [7]. */
async function untilTheEnd() {
  const since = Date.now();
  let sent = await send();
  for (let round = 0; !outcome; round++) {
    if (sent === "not stored") {
      await pause(Math.min(0.2 * 2 ** round, 5));
    } else {
      if (sent === "stored") await pause(ASK_AFTER_S[Math.min(round, ASK_AFTER_S.length - 1)]);
      sent = "stored";
      if (outcome || (await isKnown())) continue;
      if (Date.now() - since > keptS * 500) return end({ state: "lost", error: { code: "lost", message: "nobody knows it any more" } });
      tell({ task, submitted: "again" });
    }
    if (!outcome) sent = await send();
  }
}

/** Whether a coordinator knows the task; when it has ended, that is the end. */
async function isKnown() {
  const answer = await ask(nc, me, "task", task, { what: "state" }, over.signal).catch(() => null);
  if (!answer) return true; // the end was told meanwhile
  const { body, error } = answer.json();
  tell({ task, asked: error?.code ?? body.state });
  keptS = body?.keep_s ?? keptS;
  if (error) end({ state: "lost", error });
  else if (["completed", "failed", "cancelled"].includes(body.state)) end(body);
  else if (body.state !== "unknown") catchUp();
  return body?.state !== "unknown";
}

function cancel(reason) {
  return store(nc, message(`from.${me}.cancel.${task}`, "cancel-task", { reason }, span?.trace), over.signal);
}

/** Wait, until the task has ended or the connection is back. */
function pause(seconds) {
  return Promise.race([sleep(seconds * 1000, null, { signal: over.signal }).catch(() => {}), happens("reconnect")]);
}

function happens(name) {
  return new Promise((resolve) => connection.addEventListener(name, resolve, { once: true }));
}

async function watchConnection() {
  for await (const { type } of nc.status()) {
    if (type === "disconnect" || type === "reconnect") connection.dispatchEvent(new Event(type));
  }
}

function readArguments() {
  const text = { type: "string" };
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { id: text, deadline: text, "cancel-after": text, help: { type: "boolean", short: "h" } },
    });
    if (values.help) {
      console.log(USAGE);
      process.exit(DONE);
    }
    const [capability, input = "{}", ...more] = positionals;
    const id = values.id ?? newId();
    if (!capability || more.length) throw new Error("name a capability, and give its input as one JSON text");
    const wrong = refusal([me, id], capability);
    if (wrong) throw new Error(wrong);
    const [deadline_s, cancel_after_s] = ["deadline", "cancel-after"].map((name) => seconds(name, values[name]));
    return { capability, input: JSON.parse(input === "-" ? readFileSync(0, "utf8") : input), id, deadline_s, cancel_after_s };
  } catch (error) {
    return leave(WRONG_USAGE, `${error.message}\n\n${USAGE}`);
  }
}

function seconds(name, text) {
  if (text !== undefined && !(Number(text) > 0)) throw new Error(`--${name} takes a number of seconds`);
  return text && Number(text);
}

function leave(code, text) {
  if (text) console.error(text);
  process.exit(code);
}
