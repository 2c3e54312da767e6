"""Asynchronous training: workers with environments of their own move shared parameters as they go.

| file           | what                                                                     |
|----------------|--------------------------------------------------------------------------|
| `contract`     | `Order`, `Report`, `Link` and `Backend`: all that the others say to each other |
| `links`        | links to parameters in shared memory, and to those of some updates ago   |
| `parcels`      | an agent and its environment on the way to a worker                      |
| `worker`       | carries out orders                                                       |
| `threads`, `processes`, `ray` | backends: where workers run                               |
| `training`     | the parent: gives orders, tells callbacks, writes the log                |
"""
