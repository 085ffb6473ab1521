"""The only room that knows gRPC: decodes a request, calls the engine, encodes the answer or the error."""
