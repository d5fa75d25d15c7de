"""Serve: a generation, or several as one, answers over HTTP in OpenAI's protocol, in a chat and from Python."""
