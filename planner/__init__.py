"""Which job runs where and when; what to buy; why."""
