"""Several sites on one machine: real daemons in network namespaces, real cuts and delays.

`client.Lab` is what the command line, the demo and the tests use. `launch` starts one supervisor in PID,
mount and network namespaces of its own; everything else lives in these and ends with them.
"""
