"""Compare the approaches of generation side by side: diversity, yield, cost, and what models trained on each can do."""
