"""pullthrough: a transparent caching proxy for container registries.

The package is laid out so that imports point one way: front doors, then access, flights and fetch, then
the store and the upstream client, and at the bottom `core`, which decides and touches nothing.
"""

__version__ = "0.1.0"
