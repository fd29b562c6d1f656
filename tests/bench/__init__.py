"""The benchmark: pullthrough and its peers, on the same work, on this machine, in one run.

`scripts/bench` runs it. Every work is done by one subject after the other, round by round, so that what else the
machine does meets all of them alike. It measures and compares; it fails for no figure.
"""
