"""The deterministic simulator: several production instances in one process, decided by one seed.

Production code runs as it is: engine, logic, store (SQL), messages (JSON). Simulated are the network,
the clocks, the disk's life beyond a crash and the VIM. See docs/simulator.md.
"""
