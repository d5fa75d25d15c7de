"""Integer arithmetic: the embedded domain, with an exact solver and a rule-based tutor."""
