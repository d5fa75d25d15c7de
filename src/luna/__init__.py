"""Luna grows generations of a language model; every promoted generation is one commit and one tag."""
