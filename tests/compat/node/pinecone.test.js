// The official Pinecone SDK for Node against the target that the environment names.
// TARGET is "node" or "gateway"; only a gateway embeds text.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Errors, Pinecone } from "@pinecone-database/pinecone";

const { CONTROL_URL, INDEX_HOST, API_KEY, INDEX, DIMENSION, TARGET } = process.env;
const pc = new Pinecone({ apiKey: API_KEY, controllerHostUrl: CONTROL_URL, maxRetries: 0 });
const axis = (n, scale = 1) => Array.from({ length: Number(DIMENSION) }, (_, i) => (i === n ? scale : 0));

function open(namespace) {
  return pc.index({ host: INDEX_HOST, namespace });
}

async function filled(namespace, count = 4) {
  const index = open(namespace);
  const records = Array.from({ length: count }, (_, n) => ({
    id: `r${n}`,
    values: axis(n),
    sparseValues: { indices: [n], values: [1] },
    metadata: { n, even: n % 2 === 0, tags: ["all", `t${n}`] },
  }));
  await index.upsert({ records });
  return index;
}

const idsOf = (matches) => matches.map((match) => match.id);

test("upsert and query: dense, hybrid, filtered, by id", async () => {
  const index = await filled("js-query");
  const dense = await index.query({ vector: axis(2), topK: 1, includeMetadata: true, includeValues: true });
  assert.equal(dense.matches[0].id, "r2");
  assert.deepEqual(dense.matches[0].metadata, { n: 2, even: true, tags: ["all", "t2"] });
  assert.deepEqual(dense.matches[0].values, axis(2));
  assert.equal(dense.namespace, "js-query");
  const hybrid = await index.query({
    vector: axis(0),
    sparseVector: { indices: [3], values: [5] },
    topK: 2,
  });
  assert.deepEqual(idsOf(hybrid.matches), ["r3", "r0"]);
  const filtered = await index.query({ vector: axis(0), topK: 9, filter: { even: true, n: { $gt: 0 } } });
  assert.deepEqual(idsOf(filtered.matches), ["r2"]);
  assert.deepEqual(idsOf((await index.query({ id: "r1", topK: 1 })).matches), ["r1"]);
});

test("fetch, fetch by metadata, update, delete", async () => {
  const index = await filled("js-change");
  assert.deepEqual(Object.keys((await index.fetch({ ids: ["r0", "nobody"] })).records), ["r0"]);
  const byMetadata = await index.fetchByMetadata({ filter: { tags: "t1" } });
  assert.deepEqual(Object.keys(byMetadata.records), ["r1"]);
  await index.update({ id: "r0", metadata: { n: 100 } });
  assert.equal((await index.fetch({ ids: ["r0"] })).records.r0.metadata.n, 100);
  await index.deleteOne({ id: "r0" });
  await index.deleteMany({ ids: ["r1"] });
  await index.deleteMany({ filter: { n: 2 } });
  assert.deepEqual(idsOf((await index.query({ vector: axis(0), topK: 9 })).matches), ["r3"]);
  await index.deleteAll();
  assert.deepEqual((await index.query({ vector: axis(0), topK: 9 })).matches, []);
});

test("ids are listed page by page", async () => {
  const index = await filled("js-list", 3);
  const first = await index.listPaginated({ prefix: "r", limit: 2 });
  const last = await index.listPaginated({ prefix: "r", limit: 2, paginationToken: first.pagination.next });
  assert.deepEqual([...first.vectors, ...last.vectors].map((v) => v.id), ["r0", "r1", "r2"]);
  assert.equal(last.pagination?.next, undefined);
});

test("stats and namespaces", async () => {
  const index = await filled("js-namespaces", 2);
  assert.equal((await index.describeIndexStats()).namespaces["js-namespaces"].recordCount, 2);
  await index.createNamespace({ name: "js-made" });
  assert.equal((await index.describeNamespace("js-made")).recordCount, "0");
  const { namespaces } = await index.listNamespaces({ prefix: "js-ma", limit: 10 });
  assert.deepEqual(namespaces.map((n) => n.name), ["js-made"]);
  await index.deleteNamespace("js-made");
  await assert.rejects(index.describeNamespace("js-made"), Errors.PineconeNotFoundError);
});

test("the control plane reads", async () => {
  assert.equal((await pc.describeIndex(INDEX)).dimension, Number(DIMENSION));
  assert.ok((await pc.listIndexes()).indexes.some((index) => index.name === INDEX));
  await assert.rejects(pc.describeIndex("no-such-index"), Errors.PineconeNotFoundError);
});

test("an index opened by name uses the host that the control plane answers", async () => {
  const index = pc.index({ name: INDEX, namespace: "js-by-name" });
  await index.upsert({ records: [{ id: "a", values: axis(0) }] });
  assert.deepEqual(Object.keys((await index.fetch({ ids: ["a"] })).records), ["a"]);
});

test("errors are the SDK's own classes", async () => {
  const index = await filled("js-errors", 1);
  await assert.rejects(index.query({ vector: [1, 2], topK: 1 }), Errors.PineconeBadRequestError);
  await assert.rejects(index.deleteMany({ filter: { n: { $near: 1 } } }), Errors.PineconeBadRequestError);
  const stranger = new Pinecone({ apiKey: "nobody's", controllerHostUrl: CONTROL_URL, maxRetries: 0 });
  await assert.rejects(
    stranger.index({ host: INDEX_HOST }).query({ vector: axis(0), topK: 1 }),
    Errors.PineconeAuthorizationError,
  );
  // This SDK repeats every 5xx, a 501 too, and then tells of its retries only.
  await assert.rejects(
    index.startImport({ uri: "s3://bucket/path" }),
    Errors.PineconeMaxRetriesExceededError,
  );
});

test("text records are found by what they say", { skip: TARGET !== "gateway" }, async () => {
  const index = open("js-records");
  await index.upsertRecords({
    records: [
      { id: "carmen", text: "Georges Bizet composed the opera Carmen.", topic: "music" },
      { id: "iron", text: "Iron rusts when it meets water.", topic: "chemistry" },
    ],
  });
  const found = await index.searchRecords({ query: { topK: 2, inputs: { text: "who wrote Carmen?" } } });
  assert.equal(found.result.hits[0]._id, "carmen");
  assert.deepEqual(found.result.hits[0].fields, {
    text: "Georges Bizet composed the opera Carmen.",
    topic: "music",
  });
});
