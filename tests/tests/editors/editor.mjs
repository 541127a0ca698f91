// Opens a document in the language server of editors, and says what it marks and what it shows of the keys that are asked for:
// `node editor.mjs SERVER SCHEMA DOCUMENT LINE:COLUMN...`, lines and columns from 1.
import { spawn } from "node:child_process";
import fs from "node:fs";

const [, , server, schema, file, ...places] = process.argv;
const child = spawn(process.execPath, [server, "--stdio"], { stdio: ["pipe", "pipe", "inherit"] });
const settings = { schemas: { [`file://${schema}`]: "*.yaml" }, validate: true, hover: true, schemaStore: { enable: false } };
const answers = new Map();
let number = 0;
let marked;
const marks = new Promise((resolve) => (marked = resolve));

const send = (message) => {
  const text = JSON.stringify({ jsonrpc: "2.0", ...message });
  child.stdin.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
};
const ask = (method, params) =>
  new Promise((resolve) => {
    answers.set((number += 1), resolve);
    send({ id: number, method, params });
  });
const hear = (message) => {
  if (message.method === "workspace/configuration") {
    const result = message.params.items.map((item) => (item.section === "yaml" ? settings : {}));
    send({ id: message.id, result });
  } else if (message.method && message.id !== undefined) {
    send({ id: message.id, result: null });
  } else if (message.id !== undefined) {
    answers.get(message.id)?.(message.result);
  } else if (message.method === "textDocument/publishDiagnostics" && message.params.diagnostics.length > 0) {
    marked(message.params.diagnostics);
  }
};

let heard = Buffer.alloc(0);
child.stdout.on("data", (data) => {
  heard = Buffer.concat([heard, data]);
  for (;;) {
    const head = heard.indexOf("\r\n\r\n");
    if (head < 0) return;
    const length = Number(/Content-Length: (\d+)/i.exec(heard.subarray(0, head).toString())[1]);
    if (heard.length < head + 4 + length) return;
    hear(JSON.parse(heard.subarray(head + 4, head + 4 + length)));
    heard = heard.subarray(head + 4 + length);
  }
});

const capabilities = { workspace: { configuration: true }, textDocument: { hover: { contentFormat: ["markdown"] } } };
await ask("initialize", { processId: process.pid, rootUri: null, capabilities });
send({ method: "initialized", params: {} });
send({ method: "workspace/didChangeConfiguration", params: { settings: { yaml: settings } } });
const uri = "file:///document.yaml";
const text = fs.readFileSync(file, "utf8");
send({ method: "textDocument/didOpen", params: { textDocument: { uri, languageId: "yaml", version: 1, text } } });
const limit = setTimeout(() => {
  console.log("the language server marks nothing");
  child.kill();
  process.exit(1);
}, 30_000);
for (const { range, message } of await marks) {
  console.log(`${range.start.line + 1}: ${message}`);
}
for (const place of places) {
  const [line, character] = place.split(":").map((count) => Number(count) - 1);
  const shown = await ask("textDocument/hover", { textDocument: { uri }, position: { line, character } });
  console.log(`${place}: ${(shown?.contents?.value ?? "nothing").replaceAll("\n", " ")}`);
}
clearTimeout(limit);
child.kill();
