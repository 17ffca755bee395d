"""The serving cluster: Ray Serve, HTTP and gRPC around `workers` and `router`. The only package that imports Ray."""
