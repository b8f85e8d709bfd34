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

// The scripted model does as the question says: see WORDS in scripted.py.
const plain = (say, more = {}) => ({
  model: "scripted",
  messages: [{ role: "user", content: say }],
  rag: { mode: "off" },
  ...more,
});
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];

test("a stream says what it used, live and whole", async () => {
  for (const mode of ["live", "whole"]) {
    const stream = await client.chat.completions.create(
      { ...asked, stream: true, stream_options: { include_usage: true } },
      { headers: { "x-meridian-stream": mode } },
    );
    let text = "";
    let usage;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.match(text, /Bizet/);
    assert.equal(usage.total_tokens, 110);
  }
});

test("a tool call comes through, piece by piece and collected", async () => {
  const answer = await client.chat.completions.create({ ...asked, messages: [{ role: "user", content: "#tool" }], tools });
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments), { city: "Seville" });

  const final = await client.chat.completions.stream(plain("#tool", { tools })).finalChatCompletion();
  assert.deepEqual(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments), { city: "Seville" });
});

test("a refusal keeps its status and its code, streamed or not", async () => {
  for (const stream of [false, true]) {
    await assert.rejects(client.chat.completions.create(plain("#filter", { stream })), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.deepEqual([error.status, error.code], [400, "content_filter"]);
      return true;
    });
  }
});

test("a stream that breaks throws, and its text is no answer", async () => {
  const stream = await client.chat.completions.create(plain("#cut", { stream: true }));
  await assert.rejects(async () => {
    for await (const chunk of stream) void chunk;
  }, OpenAI.APIError);
});

test("the SDK's own timeout and the gateway's deadline both end a wait", async () => {
  for (const stream of [false, true]) {
    const call = plain("#silence", { stream });
    await assert.rejects(client.chat.completions.create(call, { timeout: 300 }), OpenAI.APIConnectionTimeoutError);
    await assert.rejects(
      client.chat.completions.create(call, { headers: { "x-meridian-deadline-ms": "400" } }),
      (error) => error instanceof OpenAI.InternalServerError && error.status === 504,
    );
  }
});
