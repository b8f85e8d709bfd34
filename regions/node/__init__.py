"""The embedded Pinecone-compatible vector server: SQLite is the truth, everything else is derived from it.

Reading order:

1. `config`, `main`: what a node is given, and how it runs.
2. `server`, `data_plane`, `control_plane`, `render`: its HTTP face.
3. `node`: every call as a method; the only thing the HTTP face knows.
4. `writer`, `store`, `rows`, `schema`: durable state, changed by one thread, read by many.
5. `loaded`, `index`, `dense`, `sparse`, `columns`: what searches run on, rebuilt from the rows at will.

A write: `data_plane` -> `Node.write` -> `Writer` (one transaction for all that wait, one fsync) ->
`Store.write` assigns the position -> `LoadedNamespaces.apply` -> the answer. A query: `data_plane` ->
`Node.query` -> a search thread -> `LoadedNamespaces.get` -> `NamespaceIndex.search` -> rows for the matches.
"""
