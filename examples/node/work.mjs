// What the agent can do: here what section 12 of docs/protocol.md asks for. Put your own work in its place; agent.mjs knows nothing of it.
import { setTimeout as sleep } from "node:timers/promises";

export const estimate_s = 1; // seconds that one subtask takes, more or less

/** The steps that the work will take, as far as one knows them before it is done. */
export function plan(input) {
  const { steps = [], seconds = 0 } = input ?? {};
  return steps.map((name, i) => ({ name, start_s: (i * seconds) / steps.length, duration_s: seconds / steps.length }));
}

/** Do the work and give its result; what it throws may say `code` and `retryable`. `signal`: the work is not wanted any more. */
export async function work(input, signal, progress) {
  const pause = (seconds) => sleep(seconds * 1000, null, { signal });
  switch (input?.do) {
    case "echo":
      return input.value;
    case "fail":
      throw Object.assign(new Error(input.message), { retryable: input.retryable });
    case "wait":
      return pause(1e6);
    case "steps":
      for (const { name: step, duration_s } of plan(input)) {
        progress({ step, state: "started" });
        await pause(duration_s);
        progress({ step, state: "finished" });
      }
      return input.steps;
    default:
      throw Object.assign(new Error('"do" is one of echo, fail, wait and steps'), { code: "input", retryable: false });
  }
}
