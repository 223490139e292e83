"""What a process that runs for months needs: policy, messages, metrics, chores."""
