"""Real OpenStack for tests and labs: one Keystone and any number of Neutrons, started in seconds.

The servers live in an environment of their own (`environment`), their databases are copies of templates
made once (`templates`), and they are forked from a process that has the program loaded (`servers`).
`cloud` puts these together; the modules in `programs` run inside that environment and know nothing of
DIMINET.
"""
