"""The local language model: building, loading, chat encoding and sampling."""
