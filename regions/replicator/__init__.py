"""The replicator: every home's log, applied in order to this region's indexes. In reading order:

`watermarks` what a follower has done and tells the others; `coalesce` many changes into few calls; `lane`
one namespace on its way; `follower` one shard of one log: event in, effects out; `driver` performs the
effects; `digest` tells whether two copies are equal.
"""
