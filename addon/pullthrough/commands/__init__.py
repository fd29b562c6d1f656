"""The commands in groups: what they share, and one module for each group.

Responsible for what a person types and reads. Must not know how anything works. `cli` puts them together.
"""
