"""`alexnet bench`: one file per hot path, each measuring ours, the peer and the physical limit in turns in the same
run.

A row is {name, value, unit, peer, ratio, ...}; a ratio above 1 means that ours is faster. Machines are shared and
noisy: only ratios within a run mean anything, so every figure is the median over alternating rounds.
"""
