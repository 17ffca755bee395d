"""A load client for the OpenAI API. It imports the standard library and itself only: it travels to a cluster alone."""
