"""What `meridian up` does, and what other commands share with it: a gateway seen from outside.

`plan` says what a region on loopback consists of, `keys` keeps its secrets, `llm` chooses its model,
`region` runs its processes, `demo` fills it and asks. `answers` and `indexes` speak to a running
gateway or index, as anybody outside would.
"""
