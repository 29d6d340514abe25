// @google/genai through the daemon: every answer is the one that the provider gives without it.
// Prints, for each call, the tokens that the SDK shows, for the ledger to be compared with.
import assert from "node:assert/strict";
import { GoogleGenAI } from "@google/genai";

const { DIRECT, PROXY, KEY, MODEL, EMBEDDER, ONLY } = process.env;
const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgAAAAAgAB4iG8MwAAAABJRU5ErkJggg==";
const OWN = new Set([
  "responseId", "continuation_ids", "createTime", "sdkHttpResponse", "id", "created", "updated", "name", "uri",
  "expirationTime", "updateTime", "automaticFunctionCallingHistory",
]);

const client = (baseUrl, apiKey) => new GoogleGenAI({ apiKey, httpOptions: { baseUrl } });

function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  const kept = Object.entries(value).filter(([key, part]) => !OWN.has(key) && part !== undefined);
  return Object.fromEntries(kept.map(([key, part]) => [key, plain(part)]));
}

async function collected(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const total = (answer) => answer.usageMetadata.totalTokenCount;
const declared = {
  name: "add",
  description: "adds",
  parameters: { type: "OBJECT", properties: { a: { type: "INTEGER" } }, required: ["a"] },
};

const calls = {
  generate: [(c) => c.models.generateContent({ model: MODEL, contents: "Name a river." }), total],
  image: [
    (c) =>
      c.models.generateContent({
        model: MODEL,
        contents: ["what?", { inlineData: { mimeType: "image/png", data: PNG } }],
      }),
    total,
  ],
  stream: [
    async (c) =>
      collected(await c.models.generateContentStream({ model: MODEL, contents: "Tell me more." })),
    (chunks) => total(chunks.at(-1)),
  ],
  chat: [
    async (c) => {
      const chat = c.chats.create({ model: MODEL });
      const first = await chat.sendMessage({ message: "My name is Ada." });
      return [first, await chat.sendMessage({ message: "What is my name?" })];
    },
    (answers) => answers.reduce((sum, answer) => sum + total(answer), 0),
  ],
  embed: [(c) => c.models.embedContent({ model: EMBEDDER, contents: ["one", "two"] }), null],
  count: [(c) => c.models.countTokens({ model: MODEL, contents: "Name a river." }), () => 0],
  tools: [
    (c) =>
      c.models.generateContent({
        model: MODEL,
        contents: "Add.",
        config: { tools: [{ functionDeclarations: [declared] }] },
      }),
    total,
  ],
  files: [
    async (c) => {
      const blob = new Blob(["a note ".repeat(100)], { type: "text/plain" });
      const file = await c.files.upload({ file: blob, config: { mimeType: "text/plain" } });
      const got = await c.files.get({ name: file.name });
      await c.files.delete({ name: file.name });
      return [file.sizeBytes, file.mimeType, got.sizeBytes];
    },
    () => 0,
  ],
  models: [(c) => c.models.get({ model: MODEL }), () => 0],
  interaction: [
    (c) => c.interactions.create({ model: MODEL, input: "Name a river." }),
    (answer) => answer.usage.total_tokens,
  ],
};

for (const [name, [call, used]] of Object.entries(calls)) {
  if (ONLY && !ONLY.split(",").includes(name)) continue;
  const direct = await call(client(DIRECT, KEY));
  const through = await call(client(`${PROXY}/t/js-${name}`, "any"));
  assert.deepEqual(plain(through), plain(direct), name);
  console.log(JSON.stringify({ call: name, total: used ? used(through) : null }));
}
