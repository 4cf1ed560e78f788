"""Faults of every kind done to the program on purpose; docs/reliability.md says what it promises."""
