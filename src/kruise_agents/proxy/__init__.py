"""The gateway ``kruise-agents proxy``, between clients of E2B and a manager that speaks only the private protocol."""
