// The events of a task from the first on: the server tells of every record, what was missed is asked for (docs/protocol.md, 7 to 9).
import { ask, readBlob } from "./messages.mjs";

/** Call `tell` with every event of a task, once and in order; gives a function that asks for what was missed, and waits for it. */
export function follow(nc, me, task, tell) {
  let last = 0; // sequence of the newest record that was told
  let turn = Promise.resolve(); // one thing after the other
  const inTurn = (action) => (turn = turn.then(action).catch((error) => console.error(`events of ${task}: ${error.message}`)));

  function told(seq, time, { changes, coordinator }) {
    if (seq <= last) return;
    last = seq;
    for (const change of changes) {
      for (const event of eventsOf(change)) tell({ time, task, seq, ...event, data: { coordinator, ...event.data } });
    }
  }
  async function catchUp() {
    for (let after = last; after !== null; ) {
      const answer = (await ask(nc, me, "task", task, { what: "log", after })).json();
      if (answer.error) throw new Error(answer.error.message);
      const { records } = answer.body_blob ? await readBlob(nc, me, task, answer.body_blob) : answer.body;
      for (const { seq, time, record } of records) told(seq, time, record);
      after = answer.next ?? null;
    }
  }
  function recorded(_, msg) {
    const [seq, before] = ["Nats-Sequence", "Nats-Last-Sequence"].map((name) => Number(msg.headers.get(name)));
    const time = msg.headers.get("Nats-Time-Stamp");
    inTurn(() => (before <= last ? told(seq, time, msg.json()) : catchUp()));
  }
  function progressed(_, msg) {
    const { at: time, subtask, epoch, boot, ...data } = msg.json();
    inTurn(() => tell({ time, task, seq: 0, kind: "progress", subtask, agent: msg.subject.split(".")[3], epoch, data }));
  }
  nc.subscribe(`ae.v1.watch.${task}`, { callback: recorded });
  nc.subscribe(`ae.v1.progress.*.${task}`, { callback: progressed });
  return () => inTurn(catchUp);
}

/** A change as events: one for each subtask that it is about, without bodies. */
function eventsOf({ kind, subtask = null, subtasks, agent = null, epoch = null, ...data }) {
  if (kind === "submitted") data = data.submit;
  if (kind === "planned") data.subtasks = summary(data.add);
  if ("result" in data && kind === "completed") data.bytes = JSON.stringify(data.result).length;
  if (data.result_blob) data.bytes = data.result_blob.bytes;
  const { add, add_blob, revision, revision_blob, result_blob, ...rest } = data;
  if (kind === "completed") delete rest.result;
  return (subtasks ?? [subtask]).map((name) => ({ kind, subtask: name, agent, epoch, data: rest }));
}
const summary = (added = {}) =>
  Object.fromEntries(Object.entries(added).map(([name, { capability, after = [] }]) => [name, { capability, after }]));
