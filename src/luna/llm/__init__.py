"""Calls to teacher and judge: one client over LiteLLM, and the rule-based arithmetic tutor behind the same call."""
