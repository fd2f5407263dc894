// Spans for agent.mjs and submit.mjs, sent by OTLP over HTTP to OTEL_EXPORTER_OTLP_ENDPOINT (docs/protocol.md section 6).
// They load it when that variable is set; without it nothing of OpenTelemetry is needed, and trace context goes on as it came.
import { diag, DiagLogLevel, propagation, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

process.env.OTEL_EXPORTER_OTLP_TIMEOUT ??= "2000"; // ms: no collector shall hold the process up when it ends
let told = false;
function warn() {
  if (!told) console.error(`Traces cannot be sent to ${process.env.OTEL_EXPORTER_OTLP_ENDPOINT}; nothing else suffers.`);
  told = true;
}
diag.setLogger({ error: warn, warn, info() {}, debug() {}, verbose() {} }, DiagLogLevel.WARN);
const resource = defaultResource()
  .merge(resourceFromAttributes({ "service.name": "agentexecutor-node" }))
  .merge(detectResources({ detectors: [envDetector] })); // OTEL_SERVICE_NAME goes before
const provider = new NodeTracerProvider({ resource, spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())] });
provider.register();
const tracer = trace.getTracer("agentexecutor");

/** Send what is left. */
export const stop = () => provider.shutdown().catch(warn);

/** The span `submit <capability>`, the root of a task's trace: `trace` goes into the submit's headers. */
export function submitting(capability, task) {
  const span = tracer.startSpan(`submit ${capability}`, { kind: SpanKind.PRODUCER, attributes: { "ae.task": task } }, ROOT_CONTEXT);
  return { trace: inject(trace.setSpan(ROOT_CONTEXT, span)), end: () => span.end() };
}

/** The span `execute <capability>` of a job, as child of the award's: what is said about the job goes on from there. */
export function executing(capability, job, award) {
  const attributes = {
    "ae.task": job.task,
    "ae.subtask": job.subtask,
    "ae.epoch": job.epoch,
    "ae.plan.version": award.plan_version ?? 1,
  };
  const parent = propagation.extract(ROOT_CONTEXT, job.trace);
  const span = tracer.startSpan(`execute ${capability}`, { kind: SpanKind.CONSUMER, attributes }, parent);
  const inside = trace.setSpan(parent, span);
  job.trace = inject(inside);
  const steps = new Map();
  return {
    progress({ step, state }) {
      const of = { attributes: { ...attributes, "ae.step": step } };
      if (state === "started") steps.set(step, tracer.startSpan(`step ${step}`, of, inside));
      if (state === "finished") steps.get(step)?.end();
    },
    end() {
      const outcome = job.over.signal.aborted ? "cancelled" : job.said[2].headers.get("Ae-Type");
      span.setAttribute("ae.outcome", outcome);
      if (outcome === "failed") span.setStatus({ code: SpanStatusCode.ERROR, message: JSON.parse(job.said[1]).error.message });
      for (const step of steps.values()) step.end(); // does nothing to those that have ended
      span.end();
    },
  };
}

function inject(context) {
  const carrier = {};
  propagation.inject(context, carrier);
  return carrier;
}
