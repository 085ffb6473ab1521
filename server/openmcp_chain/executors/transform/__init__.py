"""The process that reads, transforms and writes: DuckDB over the files of one folder.

A process of its own, for each task, because SQL comes from tenants:

* some of DuckDB's functions allocate outside its `memory_limit` (`list_sum(range(1000000000))` asks for 8 GB at once),
  and only the kernel's limit on the process holds them;
* it can be killed at any moment, and a query between two interrupt checks cannot be interrupted from a thread;
* it has neither the worker's memory nor its environment, so not its credentials either.

It knows no URI, no network and no policy. `job` is the protocol: one line in, one line out. `process` is the
worker's side.
"""
