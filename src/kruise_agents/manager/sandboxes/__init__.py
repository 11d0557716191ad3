"""Sandboxes as the manager knows them: records, states, deadlines, and the processes behind them."""
