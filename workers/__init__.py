"""The inference engine and the two kinds of worker built on it. Runs without Ray and without a GPU."""
