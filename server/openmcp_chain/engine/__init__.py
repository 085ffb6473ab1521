"""What the server does over time: submission, dispatch, leases, events, identity. No protobuf services, no Mongo."""
