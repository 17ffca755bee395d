"""What is told of requests, workers and routers: metrics, spans, logs."""
