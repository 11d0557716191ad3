"""The manager's sandboxes: states, operations, records, timers, pools, snapshots, and the processes behind them."""
