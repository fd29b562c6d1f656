"""The soak: clients pull at random from servers that are killed, starved and lied to, and every byte is checked.

`scripts/soak` runs it. Whatever goes wrong is either explained by a fault that was on at that moment, or it is a
finding. Chance follows from the seed, time does not: the same seed chooses the same faults, not the same races.
"""
