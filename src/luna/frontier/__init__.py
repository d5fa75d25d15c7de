"""The frontier stage: what the parent can do, and so what is worth asking the teacher for."""
