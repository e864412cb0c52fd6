"""Pure rules without a table: limits, quotas, backoff, merging."""
