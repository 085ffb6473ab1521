"""The store on MongoDB, or on a server that speaks its wire protocol. `store.connect` is the way in.

A replica set or a sharded cluster, where a write acknowledged by the majority outlives any one machine. A single server
without replication works too, and keeps what it acknowledged as long as its disk does.
"""
