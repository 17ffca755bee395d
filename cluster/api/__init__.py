"""The OpenAI API as its clients see it: requests read and checked, answers and errors laid out."""
