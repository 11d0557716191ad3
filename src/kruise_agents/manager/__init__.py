"""The embedded sandbox-manager: control plane, gateway and the runtimes that sandboxes run in."""
