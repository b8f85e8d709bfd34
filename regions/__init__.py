"""The state: what every region holds, and how it travels.

Reading order:

1. `names`, `records`, `positions`, `changes`: the values everything else speaks in.
2. `filters`: Pinecone's metadata filter language; pure.
3. `pinecone_api`: the bytes of Pinecone's HTTP API, as typed values.
4. `replicas/`: clients of a vector index, one file a kind.
5. `node/`: the embedded Pinecone-compatible vector server.
6. `runtime/`: what any process of a region stands on; it knows no domain word.
"""
