"""Three regions in one process, in virtual time, under seeded faults: the shipped replicator on fake wires.

`clock` makes time jump, `network` loses and delays, `remote` puts logs, registers and indexes behind it,
`truth` says what must come out, `world` runs a seed.
"""
