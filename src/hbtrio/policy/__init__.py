"""Pure rules that need no transition table: limits, quotas, backoff, merging."""
