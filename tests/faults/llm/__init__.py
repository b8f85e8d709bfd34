"""What callers and providers see of the gateway while LLM endpoints misbehave. In reading order:

wall.py        a scripted endpoint on a real socket, and its log of attempts (ms)
acts.py        the ways in which it answers, well and badly
caller.py      one call as a caller sees it: answered, refused, broken or hanging
rig.py         a real gateway before a primary and a fallback
verdicts.py    checks on conduct, and what makes a scenario pass, partial, safe or fail; pure
published.py   the 16 scenarios of failoverbench
failures.py    ours, for the failure modes that others shipped
gate.py        a TCP gate that refuses or falls silent
outage.py      everything behind the gateway down, in turn and at once, under load
campaign.py    every scenario in every mode; `make faults` prints its table
"""
