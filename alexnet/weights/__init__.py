"""Weights of other tools, one file per foreign format, named after it. Each is a pair of plain functions on state
dicts:

    ours = torchvision.from_torchvision(state)        names and shapes checked, tensors as they are
    theirs = torchvision.to_torchvision(ours)         the exact inverse

An optional dependency may be imported only in the file named after it.
"""
