// Judges AsyncAPI documents and samples of their messages with public tools: @asyncapi/parser, and its Ajv for JSON Schema draft 07.
//
//   node asyncapi.mjs FOLDER < {"documents": {NAME: TEXT}, "samples": [{"document": NAME, "message": NAME, "payload": ANY}]}
//
// FOLDER holds node_modules. Prints {"documents": {NAME: [problems]}, "samples": [[problems]]}; an empty list means accepted.
import { createRequire } from 'node:module'
import { text } from 'node:stream/consumers'
import { join } from 'node:path'

const load = createRequire(join(process.argv[2], 'here.js'))
const { Parser } = load('@asyncapi/parser')
const Ajv = load('ajv').default
const { documents, samples } = JSON.parse(await text(process.stdin))

const parser = new Parser()
const judged = {}
for (const [name, source] of Object.entries(documents)) {
  const { document, diagnostics } = await parser.parse(source)
  const errors = diagnostics.filter((found) => found.severity === 0)
  judged[name] = errors.map((found) => `${found.path.join('.')}: ${found.message}`)
  if (!document && errors.length === 0) judged[name] = ['it was not parsed']
}

const ajv = new Ajv({ strict: false, allErrors: true })
const compiled = {}
const checks = samples.map(({ document, message, payload }) => {
  const { messages, schemas } = JSON.parse(documents[document]).components
  const check = (compiled[`${document} ${message}`] ??= ajv.compile({ ...messages[message].payload, components: { schemas } }))
  return check(payload) ? [] : check.errors.map((error) => `${error.instancePath}: ${error.message}`)
})
console.log(JSON.stringify({ documents: judged, samples: checks }))
