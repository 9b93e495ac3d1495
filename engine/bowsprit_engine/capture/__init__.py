"""What of the traffic is kept for training, and how: consent, budget, shards."""
