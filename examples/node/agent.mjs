// An agent for AgentExecutor on a plain NATS client, written from docs/protocol.md alone: [3] means its section 3.
import { bodyField, join, message, newId, read, readInput, refusal, store } from "./messages.mjs"; // [1, 5]: how messages travel
import { estimate_s, plan, work } from "./work.mjs"; // what it can do: put your own there
const { AGENTEXECUTOR_NATS_URL: servers = "nats://127.0.0.1:4222", AGENTEXECUTOR_NAME: me = "node-1" } = process.env;
const { AGENTEXECUTOR_CAPABILITY: capability = "node.work" } = process.env;
const wrong = refusal([me], capability);
if (wrong) { console.error(wrong); process.exit(2); }
const tracing = process.env.OTEL_EXPORTER_OTLP_ENDPOINT ? await import("./tracing.mjs") : null; // [6]
const nc = await join(servers, me);
const boot = `${Date.now()}-${newId().slice(0, 8)}`;
const jobs = new Map(); // the newest award of each subtask: what ended is remembered, so that it is not run twice
const held = new Set(); // the jobs that are accepted and not known to have ended
const capacity = 4;
let accepting = true;

// What it says [4]. Only claims must not be lost: they are sent until the server has stored them.
const publish = (...what) => nc.publish(...message(...what));
function offer() {
  const running = [...held].map(({ task, subtask, epoch }) => ({ task, subtask, epoch, state: "running" }));
  publish(`offer.${me}`, "offer", { boot, capabilities: [{ name: capability, estimate_s }], capacity, accepting, running });
}
function claim(job, kind, more) {
  job.said = message(`from.${me}.${kind}.${job.task}`, kind, { ...job.about, ...more }, job.trace);
  return store(nc, job.said, job.over.signal);
}
function progress(job, more) {
  if (job.over.signal.aborted) return;
  publish(`progress.${me}.${job.task}`, "progress", { ...job.about, at: new Date(), ...more }, job.trace);
  job.span?.progress(more);
}

// What it does with an award [3].
async function run(job, award) {
  held.add(job);
  job.span = tracing?.executing(capability, job, award); // from here on job.trace is the span's
  try {
    await claim(job, "accept", { schedule: plan(award.input) });
    offer();
    for (const told of award.feedback ?? []) on.feedback(told, job);
    const input = await readInput(nc, me, job.task, award, job.stop.signal);
    const result = await work(input, job.stop.signal, (more) => progress(job, more));
    await claim(job, "done", await bodyField(nc, job.task, "result", result, job.stop.signal));
  } catch ({ message = "no reason given", code, retryable = true }) {
    if (job.stop.signal.aborted) await claim(job, "release", { reason: "the agent stops" });
    else await claim(job, "failed", { error: { code: code === "input" ? code : "handler", message: message.slice(0, 4000), retryable } });
  }
  job.span?.end();
  held.delete(job);
  offer();
}

// What it does with a message, by its Ae-Type. `known` is the job that is known of the message's subtask.
const hasRoom = () => accepting && held.size < capacity;
const on = {
  offer: (other) => other.boot > boot && process.exit(1), // a newer process has this name
  feedback: ({ id }, known) => held.has(known) && progress(known, { feedback: id, text: "noted: this work does not depend on it" }),
  call({ task, subtask, call, shard, input, labels, capability: wanted }) {
    const fits = wanted === capability && Object.keys(labels ?? {}).length === 0 && hasRoom();
    const more = fits ? { estimate_s, schedule: plan(input) } : { reason: "no room, or not what this agent does" };
    publish(`bid.${me}.${shard}.${task}`, fits ? "bid" : "refusal", { subtask, call, boot, ...more });
  },
  award({ task, subtask, epoch, ...award }, known, trace) {
    if (award.boot !== boot || epoch < known?.epoch) return;
    if (epoch === known?.epoch) return known.said && store(nc, known.said, known.over.signal);
    on.cancel({ task, subtask, epoch }, known); // the newer award takes the place of the older
    const job = { task, subtask, epoch, about: { subtask, epoch, boot }, trace, stop: new AbortController(), over: new AbortController() };
    jobs.set(`${task} ${subtask}`, job);
    for (const [name, old] of jobs) if (jobs.size <= 10_000) break; else if (!held.has(old)) jobs.delete(name);
    job.ended = hasRoom() ? run(job, award) : claim(job, "decline", { reason: "no room" });
  },
  cancel({ task, subtask, epoch, grace_s = 5 }, known) {
    if (epoch < known?.epoch) return;
    jobs.set(`${task} ${subtask}`, { epoch });
    known?.over?.abort(); // nothing more is said about it
    known?.stop?.abort();
    setTimeout(() => held.delete(known), grace_s * 1000).unref();
  },
};
function hear(_, msg) {
  try {
    const { type, body, trace } = read(msg);
    on[type]?.(body, jobs.get(`${body.task} ${body.subtask}`), trace);
  } catch (error) {
    console.error(`a message on ${msg.subject} was skipped: ${error.message}`);
  }
}
for (const subject of [`to.${me}.>`, `call.${capability}`, `offer.${me}`]) nc.subscribe(`ae.v1.${subject}`, { callback: hear });
await nc.flush().catch(() => {}); // the server has the subscriptions, or gets them first when it is back
console.error(`${me} offers ${capability} on ${nc.getServer()}`);
setInterval(offer, 1000);
process.once("SIGTERM", leave).once("SIGINT", leave);
async function leave() {
  accepting = false;
  offer();
  for (const job of held) job.stop.abort(); // its work ends, and it is released
  await Promise.all([...held].map((job) => job.ended));
  await Promise.allSettled([nc.rtt(), tracing?.stop()]); // a round trip: what was published is with the server
  process.exit();
}
