"""Generations as commits and tags: opening, releasing, growing, rebuilding and listing them."""
