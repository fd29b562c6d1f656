"""The laboratory: real registries, clients and faults on loopback, for end-to-end tests.

Every service of the lab has a name in `.test`, an address of its own in 127.0.0.0/8 and a port
that the kernel chose. Nothing is written outside the folders that a test hands in, nothing needs
root, and everything that is started is stopped again by its process id or its own thread.
"""
