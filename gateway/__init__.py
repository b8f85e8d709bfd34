"""The edge: everything a request passes through.

Reading order:

1. `pipelines`: the table of contents: each kind of request as a list of stages.
2. `context`, `messages`, `stream`: what flows through them.
3. `stages/`: when to ask a policy; `policies/`: the decisions, pure.
4. `wire/`: bytes <-> values, pure; `edge/`: HTTP in, the only importer of `aiohttp.web`.
5. `providers/`, `embedders/`: plug-ins for LLMs and embedding models.
6. `ingest/`: files -> records; `quality/`: measured retrieval.
7. `app`: the composition root; `cli/`: one file a command.
"""
