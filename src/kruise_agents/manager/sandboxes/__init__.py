"""The manager's sandboxes: their states, operations, database rows, timers, warm pools, snapshots and processes."""
