// The official OpenAI SDK for Node against a running gateway whose model is a scripted one.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const { GATEWAY_URL, API_KEY, NAMESPACE } = process.env;
const client = new OpenAI({ apiKey: API_KEY, baseURL: `${GATEWAY_URL}/v1`, maxRetries: 0 });
const asked = {
  model: "scripted",
  messages: [{ role: "user", content: "Who composed Carmen?" }],
  rag: { index: "docs", namespace: NAMESPACE, include_context: true },
};

test("an answer cites its passages", async () => {
  const answer = await client.chat.completions.create(asked);
  const { message, finish_reason } = answer.choices[0];
  assert.equal(finish_reason, "stop");
  assert.match(message.content, /Bizet/);
  assert.equal(message.annotations[0].type, "url_citation");
  assert.match(message.annotations[0].url_citation.url, /carmen/);
  assert.match(message.context.citations[0].content, /Bizet/);
  assert.equal(answer.usage.total_tokens, 110);
});

test("a stream gives the same text, context first and annotations last", async () => {
  const stream = await client.chat.completions.create({ ...asked, stream: true });
  let text = "";
  const deltas = [];
  for await (const chunk of stream) {
    const delta = chunk.choices[0]?.delta;
    if (!delta) continue;
    deltas.push(delta);
    text += delta.content ?? "";
  }
  assert.match(text, /Bizet/);
  assert.equal(deltas.findIndex((delta) => delta.context), 0);
  assert.ok(deltas.some((delta) => delta.annotations?.length));
});

test("the SDK's own stream helper collects an answer", async () => {
  const final = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.match(final.choices[0].message.content, /Bizet/);
});

test("embeddings come in both encodings and agree", async () => {
  const input = ["a text", "another"];
  const base64 = await client.embeddings.create({ model: "minilm", input });
  const float = await client.embeddings.create({ model: "minilm", input, encoding_format: "float" });
  assert.equal(base64.data.length, 2);
  assert.equal(base64.data[0].embedding.length, 384);
  base64.data[1].embedding.forEach((value, n) => {
    assert.ok(Math.abs(value - float.data[1].embedding[n]) < 1e-6);
  });
});

test("models are listed and found", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes("scripted") && ids.includes("minilm"));
  assert.equal((await client.models.retrieve("scripted")).id, "scripted");
});

test("errors are the SDK's own classes", async () => {
  const stranger = new OpenAI({ apiKey: "nobody's", baseURL: `${GATEWAY_URL}/v1`, maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
  await assert.rejects(client.chat.completions.create({ ...asked, model: "nothing" }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ ...asked, messages: [] }), OpenAI.BadRequestError);
  await assert.rejects(client.models.retrieve("nothing"), OpenAI.NotFoundError);
});
