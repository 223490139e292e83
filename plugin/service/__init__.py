"""What a process needs that runs for months: policy, messages, metrics, chores."""
